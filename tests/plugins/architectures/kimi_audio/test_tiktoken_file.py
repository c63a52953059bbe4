"""The public `tiktoken.model` as our tokenizer: ids beside those of joining by rank, written out here."""

import base64
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import regex  # type: ignore[import-untyped]  # published without type information
from hypothesis import given, settings
from hypothesis import strategies as st

from wavalign.errors import CheckpointError, DataError
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.kimi import KimiAudio, KimiParams
from wavalign.plugins.architectures.kimi_audio.tiktoken_file import PATTERN, open_tiktoken

LEARNED = (
    "th he in er an the ing  t  a  th  the re nd and  and 'll 's  w wor worl world  world ab ba aba abab ababa bab   "
    "    aa aaa aaaa é ü 你 你好 好 😀 \n\n  \n .. ... lo ll ell hell hello Hello  hello 12 3 tion ion on s t "
)
"""Tokens beyond the bytes, in the order of their ranks; every one is the union of two earlier ones or gets such."""
TEXTS = (
    "Hello world, the thing and the other.",
    "  two  spaces\n\n\nand lines \r\n end ",
    "it's THEY'LL we'd 1234567 3.14",
    "你好，世界！😀😃 é ü ß ẞ",
    "ababa abababa aaaa aaaaa aaaaaaa bababab",
    "[BOS] <|reserved_token_3|> [EOT]",
    "\x00\x7f\u200b\u2028 tab\tend",
    "",
)


def tokens() -> list[bytes]:
    """256 bytes in an order of their own, then the learned tokens with the pieces they are made of."""
    found = [bytes([(value * 7 + 13) % 256]) for value in range(256)]
    for word in [*LEARNED.split(" "), "  ", "    ", " the", " world", " and", "   "]:
        spelled = word.encode()
        for end in range(2, len(spelled) + 1):
            if spelled[:end] not in found:
                found.append(spelled[:end])
    return found


RANKS = {token: rank for rank, token in enumerate(tokens())}
FIRST_CODE = len(RANKS) + 421
NAMES = {2: "<|im_msg_end|>", 18: "<|im_media_begin|>", 20: "<|im_media_end|>", 23: "<|im_kimia_text_blank|>"}


def write_ranks(folder: Path) -> Path:
    """The file as it is published."""
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in RANKS.items()]
    path = folder / "tiktoken.model"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tiktoken")
    write_ranks(folder)
    return open_tiktoken(str(folder), FIRST_CODE)


def joined(piece: bytes) -> list[int]:
    """Join, over and over, the leftmost neighbours whose union has the lowest rank."""
    if piece in RANKS:
        return [RANKS[piece]]
    parts = [bytes([value]) for value in piece]
    while True:
        unions = [(RANKS.get(left + right, len(RANKS)), place) for place, (left, right) in enumerate(pairwise(parts))]
        if not unions or min(unions)[0] == len(RANKS):
            return [RANKS[part] for part in parts]
        place = min(unions)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def expected(text: str) -> list[int]:
    return [x for piece in regex.findall(PATTERN, text) for x in joined(piece.encode())]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_joining_by_rank(opened: Any, text: str) -> None:
    ids = opened.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert ids == expected(text)
    assert opened.decode(ids) == text


@settings(max_examples=200)
@given(text=st.text(alphabet="ab helo world'tin\n 你好😀é12", max_size=40) | st.text(max_size=20))
def test_any_text_has_these_ids_and_comes_back(opened: Any, text: str) -> None:
    ids = opened.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert ids == expected(text)
    assert opened.decode(ids) == text


def test_half_a_character_is_written_once_its_other_half_comes(opened: Any) -> None:
    ids = [RANKS[bytes([value])] for value in "€".encode()]
    assert opened.decode(ids) == "€"
    assert opened.decode(ids[:2]) == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_stand_behind_the_ranks_in_the_published_order(opened: Any) -> None:
    first = len(RANKS)
    order = {0: "[BOS]", 1: "[EOS]", 9: "[EOT]", 5: "<|reserved_token_0|>", 8: "<|reserved_token_3|>", **NAMES}
    order |= {10: "<|reserved_token_4|>", 19: "<|reserved_token_12|>", 24: "<|im_kimia_text_eos|>"}
    order |= {27: "<|im_kimia_user_msg_start|>", 28: "<|im_kimia_assistant_msg_start|>", 31: "<|reserved_token_19|>"}
    order |= {32: "<|im_kimia_speech_ct_id|>", 33: "<|im_kimia_speech_ctd_id|>", 34: "<|reserved_token_20|>"}
    order |= {420: "<|reserved_token_406|>"}
    assert {place: opened.convert_ids_to_tokens(first + place) for place in order} == order
    assert max(opened.get_vocab().values()) == FIRST_CODE - 1
    assert len(opened.get_vocab()) == FIRST_CODE


def test_names_in_the_checkpoints_own_config_go_first(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    first = len(RANKS)
    config = tmp_path / "tokenizer_config.json"
    given_names = {str(first + 5): {"content": "<|mine|>", "special": True}, str(first + 34): {"content": "<|other|>"}}
    config.write_text(json.dumps({"added_tokens_decoder": given_names}))
    tokenizer = open_tiktoken(str(tmp_path), FIRST_CODE)
    assert tokenizer.convert_ids_to_tokens([first + 5, first + 6, first + 34]) == [
        "<|mine|>",
        "<|reserved_token_1|>",
        "<|other|>",
    ]
    config.write_text(json.dumps({"added_tokens_decoder": {str(first + 5): {"content": "[EOT]"}}}))
    with pytest.raises(CheckpointError, match=r"several special tokens are named \[EOT\]"):
        open_tiktoken(str(tmp_path), FIRST_CODE)
    config.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json cannot be read"):
        open_tiktoken(str(tmp_path), FIRST_CODE)


def test_a_torn_file_is_refused_by_line(tmp_path: Path) -> None:
    path = write_ranks(tmp_path)
    whole = path.read_text()
    for content, message in (
        (whole[:-20], r"tiktoken\.model:\d+: not a token in base64"),
        ("".join(whole.splitlines(keepends=True)[:-2]) + "eHk= 9999\n", "do not count from 0"),
        ("".join(whole.splitlines(keepends=True)[:200]), "56 of the 256 bytes have no rank"),
    ):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=message):
            open_tiktoken(str(tmp_path), FIRST_CODE)
    path.write_text(whole)
    with pytest.raises(CheckpointError, match=f"codes begin at {len(RANKS)}"):
        open_tiktoken(str(tmp_path), len(RANKS))


PUBLIC: dict[str, Any] = {
    "architectures": ["MoonshotKimiaForCausalLM"],
    "vocab_size": FIRST_CODE + 16,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "kimia_mimo_layers": 1,
    "kimia_mimo_transformer_from_layer_index": 1,
    "kimia_token_offset": FIRST_CODE,
    "kimia_mimo_audiodelaytokens": 6,
    "kimia_media_begin": len(RANKS) + 18,
    "kimia_media_end": len(RANKS) + 20,
    "use_whisper_feature": False,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 8192,
}


def test_a_published_folder_opens_and_no_text_spells_its_special_tokens(tmp_path: Path) -> None:
    write_ranks(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(PUBLIC))
    kimi = KimiAudio(KimiParams(), source=ModelSource(str(tmp_path), None, None))
    layout, vocabulary = kimi.vocabulary.layout, kimi.vocabulary
    assert layout.control == {len(RANKS) + place for place in (2, 18, 20, 23, 24, 27, 28, 32, 33)}
    assert (layout.message_end, layout.blank, layout.text_end) == tuple(len(RANKS) + place for place in (2, 23, 24))
    text = "say [BO S] <|reserved 😀"
    ids = vocabulary.encode(text, what="d", strict=True)
    assert ids == expected(text) and max(ids) < len(RANKS)
    assert vocabulary.decode(ids) == text
    for name in ("<|im_kimia_text_eos|>", "[BOS]", "<|reserved_token_3|>"):
        with pytest.raises(DataError, match=rf"d: the text spells the control token {re.escape(name)}"):
            vocabulary.encode(f"an end {name} here", what="d", strict=False)
    saved = tmp_path / "saved"
    kimi.save_layout(str(saved))
    assert {path.name for path in saved.iterdir()} == {"config.json", "tiktoken.model"}
    again = KimiAudio(KimiParams(), source=ModelSource(str(saved), None, None))
    assert again.vocabulary.layout == layout and again.tokens == kimi.tokens
