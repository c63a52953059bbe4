"""The tokenizer of a checkpoint and the ids the VITA layout needs from it, each looked up by name.

The order of the added tokens is that of the public checkpoints, so that a Qwen2.5 tokenizer gets the public ids.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tokenizers.models import BPE, WordLevel, WordPiece
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from wavalign.errors import CheckpointError, DataError
from wavalign.plugins.architectures.vita_audio.layout import VitaLayout

BEGIN_AUDIO, END_AUDIO = "<|begin_of_audio|>", "<|end_of_audio|>"
BEGIN_TURN, END_TURN, END_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SPANS_BEFORE_AUDIO = ("image", "video", "patch")
SPANS_AFTER_AUDIO = ("quad", "ref", "box")
CONTROL_TOKENS: tuple[str, ...] = (
    *(END_TEXT, BEGIN_TURN, END_TURN),
    *(f"<|{part}_of_{what}|>" for what in SPANS_BEFORE_AUDIO for part in ("begin", "end", "context")),
    *(BEGIN_AUDIO, END_AUDIO),
    *(f"<|{part}_of_{what}|>" for what in SPANS_AFTER_AUDIO for part in ("begin", "end")),
    *("<|image|>", "<|video|>", "<|audio|>"),
)
CODE_PATTERN = re.compile(r"<\|audio_(\d+)\|>")
VOCABULARY_MULTIPLE = 8


def code_token(code: int) -> str:
    """Name of a codec id in the vocabulary."""
    return f"<|audio_{code}|>"


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


def _check_json(file: Path) -> None:
    """Raise CheckpointError where a tokenizer file is torn; the reader behind it would name no file."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", hint="expected a tokenizer.json") from error


def add_vita_tokens(tokenizer: PreTrainedTokenizerFast, num_codes: int) -> None:
    """Give a base tokenizer what it lacks of the control tokens and of `num_codes` audio tokens."""
    known = tokenizer.get_vocab()
    missing = [token for token in CONTROL_TOKENS if token not in known]
    tokenizer.add_tokens(missing, special_tokens=True)
    # Audio tokens are ordinary ones in the public checkpoints: skipping special tokens keeps them.
    tokenizer.add_tokens([code_token(code) for code in range(num_codes)])


def padded_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Rows of the embedding: the vocabulary rounded up to a multiple of 8."""
    size = max(tokenizer.get_vocab().values()) + 1
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


@final
@dataclass(frozen=True, slots=True)
class VitaVocabulary:
    """A tokenizer with the layout ids that were read from it."""

    tokenizer: PreTrainedTokenizerFast
    layout: VitaLayout
    begin_turn: int
    unknown: int | None
    size: int
    """Rows of the embedding, padding included."""
    control: frozenset[int]
    """Ids that text of a dialogue must never produce."""

    def encode(self, text: str, *, what: str, strict: bool) -> list[int]:
        """Ids of plain text.

        Raises DataError where the text spells a control token, or, when `strict`, a word the vocabulary lacks.
        """
        ids = [int(x) for x in self.tokenizer.encode(text, add_special_tokens=False)]
        codes = range(self.layout.first_code, self.layout.first_code + self.layout.num_codes)
        spelled = next((x for x in ids if x in self.control or x in codes), None)
        if spelled is not None:
            token = self.tokenizer.convert_ids_to_tokens(spelled)
            raise DataError(f"{what}: the text spells the control token {token}", hint="remove it from the text")
        if strict and self.unknown is not None and self.unknown in ids:
            raise DataError(f"{what}: the vocabulary cannot write {text!r}", hint="use words the tokenizer knows")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control tokens and unused rows of the embedding write nothing."""
        written = len(self.tokenizer)  # counted anew every time it is asked for
        known = [x for x in ids if x < written]
        text = self.tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.strip()


def read_vocabulary(
    tokenizer: PreTrainedTokenizerFast, *, ratio: tuple[int, ...], size: int, where: str
) -> VitaVocabulary:
    """Look every id up by name; raises CheckpointError naming what the tokenizer at `where` lacks."""
    known = tokenizer.get_vocab()
    needed = (BEGIN_AUDIO, END_AUDIO, BEGIN_TURN, END_TURN, END_TEXT, code_token(0))
    missing = [token for token in needed if token not in known]
    if missing:
        raise CheckpointError(
            f"{where}: the tokenizer lacks {', '.join(missing)}", hint="is it a VITA-Audio tokenizer?"
        )
    first = known[code_token(0)]
    num_codes = sum(1 for token in known if CODE_PATTERN.fullmatch(token))
    if any(known.get(code_token(code)) != first + code for code in range(num_codes)):
        raise CheckpointError(f"{where}: the audio tokens are not numbered one after another from {code_token(0)}")
    if max(known.values()) >= size:
        raise CheckpointError(f"{where}: the tokenizer has id {max(known.values())}, the embedding {size} rows")
    unknown = tokenizer.backend_tokenizer.token_to_id(unknown_token(tokenizer) or "")
    layout = VitaLayout(
        begin_audio=known[BEGIN_AUDIO],
        end_audio=known[END_AUDIO],
        end_turn=known[END_TURN],
        end_text=known[END_TEXT],
        first_code=first,
        num_codes=num_codes,
        ratio=ratio,
    )
    control = frozenset(known[token] for token in CONTROL_TOKENS if token in known)
    return VitaVocabulary(tokenizer, layout, known[BEGIN_TURN], unknown, size, control)


def unknown_token(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """What the tokenizer writes for what it cannot write; None where that cannot happen."""
    if tokenizer.unk_token is not None:
        return str(tokenizer.unk_token)
    model = tokenizer.backend_tokenizer.model
    return model.unk_token if isinstance(model, BPE | WordLevel | WordPiece) else None
