"""No text of a dialogue becomes a control id, in any family, by one rule."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.plugins.architectures.codec_lm_helpers import small_codec_lm
from tests.plugins.architectures.kimi_audio.test_tiktoken_file import PUBLIC, write_ranks
from tests.plugins.architectures.kimi_helpers import small_kimi
from tests.plugins.architectures.vita_helpers import codes_of, small_vita, spoken, write_tokenizer
from wavalign.errors import DataError
from wavalign.plugins.api import Architecture, ModelSource
from wavalign.plugins.architectures.codec_lm import CodecLm, CodecLmParams
from wavalign.plugins.architectures.kimi import KimiAudio, KimiParams
from wavalign.plugins.architectures.tokenizers import open_tokenizer, plain_text
from wavalign.plugins.batch import Dialogue, Message


def foreign(folder: Path) -> str:
    """A base tokenizer with control tokens that no family here uses, one of them its end."""
    place = write_tokenizer(folder)
    tokenizer = open_tokenizer(place)
    tokenizer.add_special_tokens({"eos_token": "</s>", "additional_special_tokens": ["<|fim|>", "[MASK]"]})
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    tokenizer.save_pretrained(folder / "base")
    return str(folder / "base")


def tiktoken_kimi(folder: Path) -> Architecture:
    """A folder with the public tokenizer file."""
    write_ranks(folder)
    (folder / "config.json").write_text(json.dumps(PUBLIC))
    return KimiAudio(KimiParams(), source=ModelSource(str(folder), None, None))


def of_foreign(maker: Callable[..., Architecture], folder: Path) -> Architecture:
    made = maker(folder)
    return type(made)(made.params, source=ModelSource(None, "tiny", foreign(folder)))


MAKERS: dict[str, Callable[[Path], Architecture]] = {
    "vita": lambda folder: of_foreign(small_vita, folder),
    "kimi": lambda folder: of_foreign(small_kimi, folder),
    "kimi, tiktoken": tiktoken_kimi,
    "codec_lm": lambda folder: of_foreign(small_codec_lm, folder),
    "codec_lm, anygpt": lambda folder: of_foreign(lambda where: small_codec_lm(where, template="anygpt"), folder),
}
BUILT: dict[str, tuple[Any, list[str]]] = {}


def built(name: str) -> tuple[Any, list[str]]:
    """A model and the names of all its special and added tokens."""
    if name not in BUILT:
        model: Any = MAKERS[name](Path(tempfile.mkdtemp()))
        tokenizer: PreTrainedTokenizerFast = model.vocabulary.tokenizer
        BUILT[name] = model, [each.content for each in tokenizer.added_tokens_decoder.values()]
    return BUILT[name]


def control_ids(model: Any, dialogue: Dialogue) -> list[int]:
    """Control ids of the prompt, in order, without the blanks that stand beside text."""
    ids = model.encode_prompt(dialogue, codes_of).ids.flatten().tolist()
    beside = model.vocabulary.layout.blank if isinstance(model, KimiAudio) else None
    return [x for x in ids if x in model.vocabulary.plain.control and x != beside]


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=60)
@given(data=st.data())
def test_no_text_becomes_a_control_id(name: str, data: st.DataObject) -> None:
    model, tokens = built(name)
    pieces = st.one_of(st.sampled_from(tokens), st.sampled_from(tokens).map(str.upper), st.text(max_size=6))
    text = "".join(data.draw(st.lists(pieces, min_size=1, max_size=4))).replace("\x00", "")
    plain = control_ids(model, Dialogue("d", (Message("user", "w1"),)))
    if not text or any("\ud800" <= letter <= "\udfff" for letter in text):
        return
    try:
        found = control_ids(model, Dialogue("d", (Message("user", text),)))
    except DataError as error:
        assert "spells the control token" in error.message  # noqa: PT017 - either is right
        return
    assert found == plain


@pytest.mark.parametrize("name", MAKERS)
def test_every_special_token_is_refused_in_prompt_and_target(name: str) -> None:
    model, tokens = built(name)
    plain = model.vocabulary.plain
    names = [each for each in tokens if model.vocabulary.tokenizer.convert_tokens_to_ids(each) in plain.control]
    assert names
    for token in names:
        for turns in ((Message("user", f"w1 {token} w2"),), (Message("user", "w1"),)):
            dialogue = Dialogue("d", turns, Message("assistant", f"w1 {token}"))
            spoils = token in turns[0].text
            call = model.encode_prompt if spoils else model.encode_target
            with pytest.raises(DataError):
                call(dialogue, codes_of)


def test_the_end_of_a_base_tokenizer_is_no_second_end_of_text(tmp_path: Path) -> None:
    model = CodecLm(CodecLmParams(), source=ModelSource(None, "tiny", foreign(tmp_path)))
    with pytest.raises(DataError, match="spells the control token </s>"):
        model.encode_target(Dialogue("d", (Message("user", "w1"),), Message("assistant", "w1 </s> w2")), codes_of)
    with pytest.raises(DataError, match="spells the control token </s>"):
        model.encode_prompt(Dialogue("d", (Message("user", "w1 </s> w2"),)), codes_of)


def test_plain_words_that_were_added_stay_words(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(write_tokenizer(tmp_path))
    tokenizer.add_tokens(["newword", "<strange>"])
    plain = plain_text(tokenizer, control=(), codes=range(0))
    assert plain.encode("newword w1", what="d", strict=True)
    with pytest.raises(DataError, match="<strange>"):
        plain.encode("a <strange> one", what="d", strict=False)


def test_a_word_the_vocabulary_lacks_is_named(tmp_path: Path) -> None:
    model = small_vita(tmp_path)
    dialogue = Dialogue("d", spoken("d", [1]).messages, Message("assistant", "w1 stranger w2"))
    with pytest.raises(DataError, match="cannot write 'stranger' in 'w1 stranger w2'"):
        model.encode_target(dialogue, codes_of)
