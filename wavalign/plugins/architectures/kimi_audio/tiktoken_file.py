"""The `tiktoken.model` of the public checkpoints as a tokenizer of the tokenizers library, id for id.

    a line   base64 of a token's bytes, its rank; ranks count from 0 and are ids
    text     cut by the pattern; in each piece the neighbours whose union has the lowest rank are joined, over and over
    behind   special tokens, named by the checkpoint's `tokenizer_config.json` or, where it is silent, as below

Source: the tiktoken format, and the files of the public Kimi-Audio checkpoints.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from wavalign.errors import CheckpointError
from wavalign.storage.checkpoint_config import read_object

RANKS_FILE, NAMES_FILE = "tiktoken.model", "tokenizer_config.json"
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where text is cut; Qwen2's."""
NAMED: dict[int, str] = {
    0: "[BOS]",
    1: "[EOS]",
    2: "<|im_msg_end|>",
    3: "<|im_user_msg_start|>",
    4: "<|im_assistant_msg_start|>",
    9: "[EOT]",
    18: "<|im_media_begin|>",
    20: "<|im_media_end|>",
    23: "<|im_kimia_text_blank|>",
    24: "<|im_kimia_text_eos|>",
    27: "<|im_kimia_user_msg_start|>",
    28: "<|im_kimia_assistant_msg_start|>",
    32: "<|im_kimia_speech_ct_id|>",
    33: "<|im_kimia_speech_ctd_id|>",
}
"""Place behind the ranks -> name; those between and behind are `<|reserved_token_0|>`, `<|reserved_token_1|>`, ..."""


def open_tiktoken(folder: str, first_code: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint whose special tokens end where codes begin; raises CheckpointError."""
    path = Path(folder) / RANKS_FILE
    ranks = _read_ranks(path)
    specials = _special_tokens(Path(folder) / NAMES_FILE, len(ranks), first_code)
    spelled = _spelling(ranks)
    model = BPE(dict(zip(spelled, range(len(ranks)), strict=True)), _merges(ranks, spelled), ignore_merges=True)
    tokenizer = Tokenizer(model)
    as_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"), as_letters])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in specials])
    wrong = [name for place, name in enumerate(specials, len(ranks)) if tokenizer.token_to_id(name) != place]
    if wrong:
        raise CheckpointError(f"{path}: {wrong[0]} is a special token and the spelling of another one")
    fast: Any = PreTrainedTokenizerFast  # transformers leaves its constructor untyped
    opened: PreTrainedTokenizerFast = fast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    return opened


def _read_ranks(path: Path) -> list[bytes]:
    """Bytes of every rank."""
    found: dict[int, bytes] = {}
    try:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line:
                continue
            try:
                token, rank = line.split()
                found[int(rank)] = base64.b64decode(token, validate=True)
            except ValueError:
                raise CheckpointError(
                    f"{path}:{number}: not a token in base64 and its rank", hint="the file is torn; fetch it again"
                ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    ranks = [found[rank] for rank in sorted(found)]
    if sorted(found) != list(range(len(found))) or len(set(ranks)) != len(ranks):
        raise CheckpointError(f"{path}: ranks do not count from 0 to {len(found) - 1}, each of another token")
    missing = {bytes([value]) for value in range(256)} - set(ranks)
    if missing:
        raise CheckpointError(f"{path}: {len(missing)} of the 256 bytes have no rank", hint="fetch the file again")
    return ranks


def _special_tokens(path: Path, first: int, end: int) -> list[str]:
    """Names of the ids from `first` up to `end`."""
    if end <= first:
        raise CheckpointError(f"{path.parent}: {first} ranks leave no special tokens; codes begin at {end}")
    names, unnamed = [], 0
    for place in range(end - first):
        names.append(NAMED.get(place, f"<|reserved_token_{unnamed}|>"))
        unnamed += place not in NAMED
    for identity, name in _given_names(path).items():
        if first <= identity < end:
            names[identity - first] = name
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise CheckpointError(f"{path}: several special tokens are named {twice[0]}")
    return names


def _given_names(path: Path) -> dict[int, str]:
    """Id -> name by `added_tokens_decoder` of a tokenizer's config; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        given = read_object(path).get("added_tokens_decoder") or {}
        return {int(identity): str(token["content"]) for identity, token in given.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint="fetch it again") from error


def _spelling(ranks: Sequence[bytes]) -> list[str]:
    """Every token in the letters that stand for bytes in the tokenizers library."""
    letters = _letters()
    return ["".join([letters[value] for value in token]) for token in ranks]


def _letters() -> list[str]:
    """Letter of each byte: its own where it can be seen in Latin-1, else the next free one from code point 256."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = iter(range(256, 512))
    return [chr(value) if value in seen else chr(next(hidden)) for value in range(256)]


def _merges(ranks: Sequence[bytes], spelled: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs of tokens whose union is a token, in the order of its rank."""
    spelling = dict(zip(ranks, spelled, strict=True))
    return [
        (spelling[token[:cut]], spelling[token[cut:]])
        for token in ranks
        for cut in range(1, len(token))
        if token[:cut] in spelling and token[cut:] in spelling
    ]
