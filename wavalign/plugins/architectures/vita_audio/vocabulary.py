"""The tokenizer of a checkpoint and the ids the VITA layout needs from it, each looked up by name.

The order of the added tokens is that of the public checkpoints, so that a Qwen2.5 tokenizer gets the public ids.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from transformers import PreTrainedTokenizerFast

from wavalign.errors import CheckpointError
from wavalign.plugins.architectures.tokenizers import PlainText, plain_text
from wavalign.plugins.architectures.vita_audio.layout import VitaLayout

BEGIN_AUDIO, END_AUDIO, CONTEXT_AUDIO = "<|begin_of_audio|>", "<|end_of_audio|>", "<|context_of_audio|>"
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


def control_tokens(*, hears: bool) -> tuple[str, ...]:
    """All control tokens in the order of their ids; with an audio encoder there is one more."""
    if not hears:
        return CONTROL_TOKENS
    place = CONTROL_TOKENS.index(END_AUDIO) + 1
    return (*CONTROL_TOKENS[:place], CONTEXT_AUDIO, *CONTROL_TOKENS[place:])


def add_vita_tokens(tokenizer: PreTrainedTokenizerFast, num_codes: int, *, hears: bool) -> None:
    """Give a base tokenizer what it lacks of the control tokens and of `num_codes` audio tokens."""
    known = tokenizer.get_vocab()
    missing = [token for token in control_tokens(hears=hears) if token not in known]
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
    plain: PlainText
    size: int
    """Rows of the embedding, padding included."""
    context_audio: int | None
    """Placeholder of features; None where user sound is given as codec ids."""

    def encode(self, text: str, *, what: str, strict: bool) -> list[int]:
        """Ids of plain text; raises DataError as `PlainText.encode` does."""
        return self.plain.encode(text, what=what, strict=strict)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control tokens and unused rows of the embedding write nothing."""
        written = len(self.tokenizer)  # counted anew every time it is asked for
        known = [x for x in ids if x < written]
        text = self.tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.strip()


def read_vocabulary(
    tokenizer: PreTrainedTokenizerFast, *, ratio: tuple[int, ...], size: int, hears: bool, where: str
) -> VitaVocabulary:
    """Look every id up by name; raises CheckpointError naming what the tokenizer at `where` lacks."""
    known = tokenizer.get_vocab()
    needed = [BEGIN_AUDIO, END_AUDIO, BEGIN_TURN, END_TURN, END_TEXT, code_token(0)]
    needed += [CONTEXT_AUDIO] if hears else []
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
    layout = VitaLayout(
        begin_audio=known[BEGIN_AUDIO],
        end_audio=known[END_AUDIO],
        end_turn=known[END_TURN],
        end_text=known[END_TEXT],
        first_code=first,
        num_codes=num_codes,
        ratio=ratio,
    )
    control = (known[token] for token in control_tokens(hears=True) if token in known)
    further = "|".join([CODE_PATTERN.pattern, *map(re.escape, control_tokens(hears=True))])
    plain = plain_text(tokenizer, control=control, codes=range(first, first + num_codes), further=further)
    context = known[CONTEXT_AUDIO] if hears else None
    return VitaVocabulary(tokenizer, layout, known[BEGIN_TURN], plain, size, context)
