"""The tokenizer of a checkpoint and the ids the Kimi layout needs from it, each looked up by name.

Codec ids are no tokens: they stand behind the text vocabulary, from the config's `kimia_token_offset`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from transformers import PreTrainedTokenizerFast

from wavalign.errors import CheckpointError
from wavalign.plugins.architectures.kimi_audio.layout import KimiLayout
from wavalign.plugins.architectures.kimi_audio.sizes import KimiSizes
from wavalign.plugins.architectures.kimi_audio.tiktoken_file import RANKS_FILE, open_tiktoken
from wavalign.plugins.architectures.tokenizers import PlainText, open_tokenizer, plain_text

CONTROL_TOKENS: dict[str, str] = {
    "message_end": "<|im_msg_end|>",
    "media_begin": "<|im_media_begin|>",
    "media_end": "<|im_media_end|>",
    "blank": "<|im_kimia_text_blank|>",
    "text_end": "<|im_kimia_text_eos|>",
    "user_start": "<|im_kimia_user_msg_start|>",
    "assistant_start": "<|im_kimia_assistant_msg_start|>",
    "text_wanted": "<|im_kimia_speech_ct_id|>",
    "speech_wanted": "<|im_kimia_speech_ctd_id|>",
}
"""Field of the layout -> name in the public vocabulary, in the order of the public ids."""


def open_checkpoint_tokenizer(folder: str, sizes: KimiSizes) -> PreTrainedTokenizerFast:
    """Open the tokenizer of a checkpoint, `tokenizer.json` or the public `tiktoken.model`; raises CheckpointError."""
    place = Path(folder)
    if not (place / "tokenizer.json").is_file() and (place / RANKS_FILE).is_file():
        return open_tiktoken(folder, sizes.first_code)
    if not (place / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder} holds neither {RANKS_FILE} nor tokenizer.json", hint="fetch the missing file")
    return open_tokenizer(folder)


def add_kimi_tokens(tokenizer: PreTrainedTokenizerFast) -> int:
    """Give a base tokenizer the control tokens it lacks; gives the first id behind its vocabulary."""
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([name for name in CONTROL_TOKENS.values() if name not in known], special_tokens=True)
    return int(max(tokenizer.get_vocab().values())) + 1


@final
@dataclass(frozen=True, slots=True)
class KimiVocabulary:
    """A tokenizer with the layout ids that were read from it."""

    tokenizer: PreTrainedTokenizerFast
    layout: KimiLayout
    plain: PlainText
    written: int
    """Ids below this one can be written as text."""

    def encode(self, text: str, *, what: str, strict: bool) -> list[int]:
        """Ids of plain text; raises DataError as `PlainText.encode` does."""
        return self.plain.encode(text, what=what, strict=strict)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens and ids without a token write nothing."""
        known = [x for x in ids if x < self.written]
        text = self.tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.strip()


def read_vocabulary(tokenizer: PreTrainedTokenizerFast, sizes: KimiSizes, *, where: str) -> KimiVocabulary:
    """Look every id up by name; raises CheckpointError naming what the tokenizer at `where` lacks."""
    known = tokenizer.get_vocab()
    missing = [token for token in CONTROL_TOKENS.values() if token not in known]
    if missing:
        raise CheckpointError(
            f"{where}: the tokenizer lacks {', '.join(missing)}", hint="is it a Kimi-Audio tokenizer?"
        )
    highest = max(known.values())
    if highest >= sizes.first_code:
        raise CheckpointError(f"{where}: the tokenizer has id {highest}, codes begin at {sizes.first_code}")
    ids = {field: known[token] for field, token in CONTROL_TOKENS.items()}
    layout = KimiLayout(
        blank=ids["blank"],
        text_end=ids["text_end"],
        message_end=ids["message_end"],
        user_start=ids["user_start"],
        assistant_start=ids["assistant_start"],
        media_begin=ids["media_begin"],
        media_end=ids["media_end"],
        text_wanted=ids["text_wanted"],
        speech_wanted=ids["speech_wanted"],
        first_code=sizes.first_code,
        num_codes=sizes.num_codes,
        delay=sizes.audio_delay,
    )
    codes = range(sizes.first_code, sizes.vocabulary_size)
    plain = plain_text(tokenizer, control=ids.values(), codes=codes, as_pieces=True)
    return KimiVocabulary(tokenizer, layout, plain, highest + 1)
