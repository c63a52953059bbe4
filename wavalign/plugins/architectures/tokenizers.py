"""The tokenizer files of a checkpoint, opened without touching the network."""

import json
from pathlib import Path
from typing import Any

from tokenizers.models import BPE, WordLevel, WordPiece
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from wavalign.errors import CheckpointError


def open_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """Open a tokenizer file or folder without touching the network; raises CheckpointError."""
    place = Path(path)
    fast: Any = PreTrainedTokenizerFast  # transformers leaves these constructors untyped
    opened: PreTrainedTokenizerFast
    file = place if place.is_file() else place / "tokenizer.json"
    if file.is_file():
        _check_json(file)
    if place.is_file():
        opened = fast(tokenizer_file=str(place))
        return opened
    if file.is_file():
        opened = fast.from_pretrained(path, local_files_only=True)
        return opened
    if (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
        opened = Qwen2Tokenizer.from_pretrained(path, local_files_only=True)
        return opened
    raise CheckpointError(
        f"{path} holds no tokenizer", hint="expected tokenizer.json, or vocab.json with merges.txt, in the folder"
    )


def token_text(tokenizer: PreTrainedTokenizerFast, token: int) -> str:
    """Text of one id, for people; the name of one that writes nothing alone, such as a part of a letter."""
    if token >= len(tokenizer):
        return f"<unused {token}>"
    text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text if text and "\ufffd" not in text else f"<{tokenizer.convert_ids_to_tokens(token)}>"


def _check_json(file: Path) -> None:
    """Raise CheckpointError where a tokenizer file is torn; the reader behind it would name no file."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", hint="expected a tokenizer.json") from error


def unknown_token(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """What the tokenizer writes for what it cannot write; None where that cannot happen."""
    if tokenizer.unk_token is not None:
        return str(tokenizer.unk_token)
    model = tokenizer.backend_tokenizer.model
    return model.unk_token if isinstance(model, BPE | WordLevel | WordPiece) else None
