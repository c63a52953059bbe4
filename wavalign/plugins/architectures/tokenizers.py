"""The tokenizer files of a checkpoint, opened without touching the network, and the one way text becomes ids.

What people and answers say is words, never control: a text that spells a token of the layout, a codec id, a special or
an added token is refused, whether or not the family uses it. `PlainText` is that rule for every family.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tokenizers.models import BPE, WordLevel, WordPiece
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from wavalign.errors import CheckpointError, DataError, quoted

_WORD = re.compile(r"\w[\w'-]*|[^\w\s]|\n")
"""An added token that is a plain word or sign: text like any other."""
_PROBE = 64
"""Letters of a text that a message repeats."""


@final
@dataclass(frozen=True, slots=True)
class PlainText:
    """Text of dialogues to ids; nothing it gives is a control id."""

    tokenizer: PreTrainedTokenizerFast
    control: frozenset[int]
    """Ids that text must never become: those of the layout and every special or added token."""
    names: re.Pattern[str]
    """Finds their names; a tokenizer may write a name in pieces, which would still read as control to a person."""
    unknown: int | None
    """Stands for what the tokenizer cannot write."""
    as_pieces: bool = False
    """Encode names of special tokens piece by piece, as the family's own code does."""

    def encode(self, text: str, *, what: str, strict: bool) -> list[int]:
        """Ids of `text`; DataError naming `what` where it spells control, or, when `strict`, has unknown words."""
        spelled = self.names.search(text)
        ids = self._ids(text) if spelled is None else []
        written = next((x for x in ids if x in self.control), None)
        if spelled is not None or written is not None:
            token = spelled[0] if spelled is not None else str(self.tokenizer.convert_ids_to_tokens(written or 0))
            raise DataError(f"{what}: the text spells the control token {token}", hint="remove it from the text")
        if strict and self.unknown is not None and self.unknown in ids:
            lacking = self._lacking(text)
            shown = (
                f"{quoted(lacking, _PROBE)!r} in {quoted(text, _PROBE)!r}" if lacking else repr(quoted(text, _PROBE))
            )
            raise DataError(f"{what}: the vocabulary cannot write {shown}", hint="use words the tokenizer knows")
        return ids

    def _ids(self, text: str) -> list[int]:
        options = {"split_special_tokens": True} if self.as_pieces else {}
        return [int(x) for x in self.tokenizer.encode(text, add_special_tokens=False, **options)]

    def _lacking(self, text: str) -> str:
        """The first word that cannot be written by itself; empty where only words together cannot."""
        return next((word for word in text.split() if self.unknown in self._ids(word)), "")


def plain_text(
    tokenizer: PreTrainedTokenizerFast,
    *,
    control: Iterable[int],
    codes: range,
    further: str = "",
    as_pieces: bool = False,
) -> PlainText:
    """The rule for a tokenizer whose layout uses the ids `control` and `codes`.

    `further` is a pattern of names that count as control also where the tokenizer lacks them.
    """
    unknown = tokenizer.backend_tokenizer.token_to_id(unknown_token(tokenizer) or "")
    reserved = {int(x) for x in (*control, *tokenizer.all_special_ids)}
    for identity, token in tokenizer.added_tokens_decoder.items():
        if token.special or not _WORD.fullmatch(token.content):
            reserved.add(int(identity))
    reserved -= {unknown}
    found = tokenizer.convert_ids_to_tokens(sorted(reserved - set(codes)))
    names = [re.escape(str(each)) for each in found if each]
    pattern = "|".join([*sorted(names, key=len, reverse=True), *([further] if further else [])])
    return PlainText(tokenizer, frozenset(reserved | set(codes)), re.compile(pattern or r"(?!)"), unknown, as_pieces)


def open_tokenizer(path: str) -> PreTrainedTokenizerFast:
    """Open a tokenizer file or folder without touching the network; raises CheckpointError."""
    place = Path(path)
    fast: Any = PreTrainedTokenizerFast  # transformers leaves these constructors untyped
    opened: PreTrainedTokenizerFast
    file = place if place.is_file() else place / "tokenizer.json"
    if file.is_file():
        _check_json(file)
    try:
        if place.is_file():
            opened = fast(tokenizer_file=str(place))
            return opened
        if file.is_file():
            opened = fast.from_pretrained(path, local_files_only=True)
            return opened
        if (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
            opened = Qwen2Tokenizer.from_pretrained(path, local_files_only=True)
            return opened
    except Exception as error:  # the tokenizers library raises nothing more special
        said = quoted(error, 400)
        raise CheckpointError(
            f"{path}: the tokenizer cannot be opened: {said}", hint="fetch its files again"
        ) from error
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
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise ValueError("it holds no model of a tokenizer")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", hint="expected a tokenizer.json") from error


def unknown_token(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """What the tokenizer writes for what it cannot write; None where that cannot happen."""
    if tokenizer.unk_token is not None:
        return str(tokenizer.unk_token)
    model = tokenizer.backend_tokenizer.model
    return model.unk_token if isinstance(model, BPE | WordLevel | WordPiece) else None
