"""The tokenizer of a checkpoint and the ids a template needs from it, each looked up by name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from wavalign.errors import CheckpointError
from wavalign.plugins.architectures.codec_language_model.layout import CodecLmLayout
from wavalign.plugins.architectures.codec_language_model.templates import (
    BEGIN_SPEECH,
    BLANK,
    END_SPEECH,
    Template,
)
from wavalign.plugins.architectures.tokenizers import PlainText, plain_text, unknown_token

VOCABULARY_MULTIPLE = 8
PIECES = re.compile(r"\[\w+\]|\w[\w-]*|\n|[^\w\s]")
"""Words and signs of a template."""


@final
@dataclass(frozen=True, slots=True)
class CodecLmVocabulary:
    """A tokenizer with the layout ids that were read from it."""

    tokenizer: PreTrainedTokenizerFast
    template: Template
    layout: CodecLmLayout
    begin: tuple[int, ...]
    """What the tokenizer puts before a text."""
    plain: PlainText
    """What people and answers say."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, whose control tokens count as such."""
        return [int(x) for x in self.tokenizer.encode(text, add_special_tokens=False)]

    def continuation(self, text: str, *, after: str) -> list[int]:
        """Ids of `text` where it stands behind `after`, as if both were encoded in one piece."""
        head, whole = self.encode(after), self.encode(after + text)
        if whole[: len(head)] != head:
            raise CheckpointError(f"the tokenizer does not set {after!r} apart from what follows it")
        return whole[len(head) :]

    def checked(self, text: str, *, what: str, strict: bool) -> str:
        """`text`, once it is plain text (DataError as `PlainText.encode` raises it)."""
        self.plain.encode(text, what=what, strict=strict)
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; unused rows of the embedding write nothing."""
        written = len(self.tokenizer)  # counted anew every time it is asked for
        known = [x for x in ids if x < written]
        text = self.tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.strip()


def add_tokens(tokenizer: PreTrainedTokenizerFast, template: Template, num_codes: int, *, blank: bool) -> None:
    """Give a base tokenizer what it lacks of the template's tokens, of `num_codes` units and of its words."""
    known = tokenizer.get_vocab()
    control = [*template.tokens, template.ends[0], *([BLANK] if blank else [])]
    tokenizer.add_tokens([token for token in control if token not in known], special_tokens=True)
    # Looked for as they are written: what a normalizer does to words would change their names.
    tokenizer.add_tokens([AddedToken(template.unit.format(code), normalized=False) for code in range(num_codes)])
    unknown = tokenizer.backend_tokenizer.token_to_id(unknown_token(tokenizer) or "")
    pieces = dict.fromkeys(piece for text in template.pieces for piece in PIECES.findall(text))
    for piece in pieces:
        if unknown is not None and unknown in tokenizer.encode(piece, add_special_tokens=False):
            # A word stands alone: inside another word it would be cut out of it.
            tokenizer.add_tokens([AddedToken(piece, single_word=piece.isalnum(), normalized=False)])


def padded_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Rows of the embedding: the vocabulary rounded up to a multiple of 8."""
    size = max(tokenizer.get_vocab().values()) + 1
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def read_vocabulary(
    tokenizer: PreTrainedTokenizerFast, template: Template, *, delays: tuple[int, ...], size: int, where: str
) -> CodecLmVocabulary:
    """Look every id up by name; raises CheckpointError naming what the tokenizer at `where` lacks."""
    known = tokenizer.get_vocab()
    needed = [*template.tokens, template.unit.format(0), *([BLANK] if len(delays) > 1 else [])]
    missing = [token for token in needed if token not in known]
    ends = [known[token] for token in template.ends if token in known]
    if not any(token in known for token in template.ends if token not in template.control):
        missing.append(" or ".join(token for token in template.ends if token not in template.control))
    if missing:
        raise CheckpointError(
            f"{where}: the tokenizer lacks {', '.join(missing)}", hint="is it a tokenizer of this template?"
        )
    if tokenizer.eos_token_id is not None:
        ends.append(int(tokenizer.eos_token_id))
    if max(known.values()) >= size:
        raise CheckpointError(f"{where}: the tokenizer has id {max(known.values())}, the embedding {size} rows")
    first, num_codes = _units(known, template, where)
    padding = ends[0] if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    layout = CodecLmLayout(
        begin_speech=known[BEGIN_SPEECH],
        end_speech=known[END_SPEECH],
        ends=tuple(dict.fromkeys(ends)),
        silent=frozenset(known[token] for token in template.control),
        blank=known[BLANK] if len(delays) > 1 else padding,
        first_code=first,
        num_codes=num_codes,
        vocabulary_size=size,
        delays=delays,
    )
    names = [re.escape(token) for token in (*template.tokens, *template.ends, BLANK)]
    unit = re.escape(template.unit).replace(r"\{\}", r"\d+")
    control = (known[token] for token in (*template.tokens, *template.ends, BLANK) if token in known)
    return CodecLmVocabulary(
        tokenizer,
        template,
        layout,
        begin=tuple(x for x in tokenizer.encode("", add_special_tokens=True) if x == tokenizer.bos_token_id),
        plain=plain_text(
            tokenizer,
            control=(*control, *layout.ends),
            codes=range(first, first + num_codes),
            further="|".join([*names, unit]),
        ),
    )


def _units(known: dict[str, int], template: Template, where: str) -> tuple[int, int]:
    """First id and number of the units; raises CheckpointError where they are not numbered one after another."""
    first, pattern = known[template.unit.format(0)], re.compile(re.escape(template.unit).replace(r"\{\}", r"(\d+)"))
    count = sum(1 for token in known if pattern.fullmatch(token))
    if any(known.get(template.unit.format(code)) != first + code for code in range(count)):
        raise CheckpointError(f"{where}: the units are not numbered one after another from {template.unit.format(0)}")
    return first, count
