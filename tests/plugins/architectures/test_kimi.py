"""Prompts, targets and answers on two streams; sizes; the public layout on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.plugins.architectures.kimi_helpers import NUM_CODES, SMALL, picture, small_kimi, target
from tests.plugins.architectures.vita_helpers import codes_of, spoken, write_tokenizer
from wavalign.errors import CheckpointError, DataError
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.kimi import KimiAudio, KimiParams
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, TEXT
from wavalign.plugins.architectures.kimi_audio.policy import KimiPolicy
from wavalign.plugins.architectures.kimi_audio.sizes import sizes_of_config
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role, TokenSequence


@pytest.fixture
def kimi(tmp_path: Path) -> KimiAudio:
    return small_kimi(tmp_path)


def streams(kimi: KimiAudio, dialogue: Dialogue) -> tuple[str, str]:
    return picture(kimi, kimi.encode_prompt(dialogue, codes_of).ids)


def test_spoken_prompt_is_the_published_example_without_the_words_of_the_user(kimi: KimiAudio) -> None:
    text, audio = streams(kimi, spoken("d", [3, 1, 4], text="w1 w2"))
    assert audio == "U [ 3 1 4 ] W D S"
    assert text == "B B B B B B B B B"
    row = kimi.encode_prompt(spoken("d", [3]), codes_of)
    assert set(row.roles.flatten().tolist()) == {int(Role.PROMPT)}


def test_messages_of_one_speaker_share_a_turn_and_earlier_answers_stand_as_generated(kimi: KimiAudio) -> None:
    turns = (
        Message("user", "w1 w2"),
        Message("user", "", AudioClip("7")),
        Message("assistant", "w3 w4", AudioClip("5,6")),
        Message("user", "", AudioClip("8")),
        Message("user", "w5"),
        Message("assistant", "w6"),
        Message("user", "w7"),
    )
    text, audio = streams(kimi, Dialogue("d", turns))
    assert audio == "U B B [ 7 ] W D S B B 5 6 D U [ 8 ] B D S B B D U B D S"
    assert text == "B w1 w2 B B B B B B w3 w4 B B B B B B B w5 B B w6 E B B w7 B B"


def test_feeding_the_words_is_a_choice(tmp_path: Path) -> None:
    kimi = small_kimi(tmp_path, feed_user_text=True)
    assert streams(kimi, spoken("d", [3], text="w1")) == ("B w1 B B B B B B", "U B [ 3 ] W D S")


def test_what_is_wanted_follows_the_target_or_the_recipe(tmp_path: Path) -> None:
    asked = (Message("user", "", AudioClip("1")),)
    written = Dialogue("d", asked, Message("assistant", "w1"))
    said = Dialogue("d", asked, Message("assistant", "w1", AudioClip("1,2")))
    marks = {}
    for output in ("by_target", "both", "text"):
        kimi = small_kimi(tmp_path, output=output)
        rows = [kimi.encode_prompt(d, codes_of) for d in (Dialogue("d", asked), written, said)]
        marks[output] = [picture(kimi, row.ids)[1].split()[4] for row in rows]
        silent = [int(row.roles[AUDIO, -1]) == int(Role.FORCED) for row in rows]
        assert silent == [mark == "T" for mark in marks[output]]
    assert marks == {"by_target": ["W", "T", "W"], "both": ["W", "W", "W"], "text": ["T", "T", "T"]}
    assert small_kimi(tmp_path, output="text").encode_target(said, codes_of).ids.shape == (2, 2)
    with pytest.raises(DataError, match="dialogue d: the target has no sound"):
        small_kimi(tmp_path, output="both").encode_target(written, codes_of)


@pytest.mark.parametrize("delay", [0, 2, 6])
def test_target_delays_the_sound_and_names_the_role_of_every_position(tmp_path: Path, delay: int) -> None:
    kimi = small_kimi(tmp_path, audio_delay=delay)
    row = kimi.encode_target(target("w1 w2", [3, 1, 4, 1]), codes_of)
    text, audio = picture(kimi, row.ids)
    assert audio == "B " * delay + "3 1 4 1 D"
    assert text == "w1 w2 E" + " B" * (delay + 2)
    forced, said = [int(Role.FORCED)], [int(Role.AUDIO)]
    assert row.roles[AUDIO].tolist() == delay * forced + 4 * said + [int(Role.AUDIO_MARK)]
    assert row.roles[TEXT].tolist() == 2 * [int(Role.TEXT)] + [int(Role.TEXT_END)] + (delay + 2) * forced
    assert row.roles.dtype == torch.int8


@pytest.mark.parametrize("delay", [0, 2, 6])
def test_decoding_a_completion_undoes_the_target(tmp_path: Path, delay: int) -> None:
    kimi = small_kimi(tmp_path, audio_delay=delay)
    for words in (0, 1, 4):
        for count in (0, 4, 20):
            text, codes = " ".join(f"w{i}" for i in range(words)), [i % NUM_CODES for i in range(count)]
            row = kimi.encode_target(target(text, codes), codes_of)
            answer = kimi.decode_completion(row)
            assert (answer.text, answer.codes, answer.finished) == (text, tuple(codes), True)
            assert row.ids.shape == (2, delay + count + 1 if count else words + 1)


def test_an_answer_cut_off_is_not_finished_and_control_ids_write_nothing(kimi: KimiAudio) -> None:
    row = kimi.encode_target(target("w1 w2", [1, 2, 3]), codes_of)
    for length in (1, 4, row.length - 1):
        assert not kimi.decode_completion(TokenSequence(row.ids[:, :length], row.roles[:, :length])).finished
    blank, code = kimi.vocabulary.layout.blank, kimi.vocabulary.layout.first_code
    strange = torch.tensor([[blank, code, 8, blank], [code, 8, blank, code + 1]])
    answer = kimi.decode_completion(TokenSequence(strange, strange))
    assert answer.codes == (0, 1)
    assert answer.text == str(kimi.vocabulary.tokenizer.convert_ids_to_tokens(8))


def test_what_a_dialogue_cannot_say_is_an_error_that_names_it(kimi: KimiAudio) -> None:
    with pytest.raises(DataError, match=r"dialogue d: the text spells the control token <\|im_msg_end\|>"):
        kimi.encode_prompt(Dialogue("d", (Message("user", "w1 <|im_msg_end|>"),)), codes_of)
    with pytest.raises(DataError, match="cannot write 'stranger"):
        kimi.encode_target(target("stranger", [1, 2]), codes_of)
    with pytest.raises(DataError, match="sound ends before its text: 6 text tokens do not fit beside 4"):
        kimi.encode_target(target("w1 w2 w3 w4 w5", [1]), codes_of)
    earlier = (Message("assistant", "w1 w2 w3 w4", AudioClip("1")), Message("user", "w1"))
    with pytest.raises(DataError, match="an earlier answer has 4 text tokens beside 3 audio positions"):
        kimi.encode_prompt(Dialogue("d", earlier), codes_of)
    with pytest.raises(DataError, match=f"outside 0..{NUM_CODES - 1}"):
        kimi.encode_prompt(spoken("d", [NUM_CODES]), codes_of)
    with pytest.raises(DataError, match="role 'system' is not user or assistant"):
        kimi.encode_prompt(Dialogue("d", (Message("system", "w1"),)), codes_of)
    with pytest.raises(DataError, match="holds no sound"):
        kimi.encode_prompt(spoken("d", [1]), lambda clip: [])
    with pytest.raises(DataError, match="no messages"):
        kimi.encode_prompt(Dialogue("d", ()), codes_of)


def test_groups_heads_and_shapes_agree_with_the_built_network(tmp_path: Path) -> None:
    kimi = small_kimi(tmp_path, feature_size=5, codes_only=True)
    policy = kimi.build_policy(seed=0)
    assert isinstance(policy, KimiPolicy)
    groups = {name: kimi.parameter_group(name) for name in policy.state_dict()}
    assert groups["lm_head.weight"] == "text_head"
    assert groups["mimo_output.weight"] == "audio_head"
    assert groups["model.mimo_layers.0.mlp.up_proj.weight"] == groups["model.mimo_norm.weight"] == "audio_branch"
    assert groups["model.layers.2.mlp.up_proj.weight"] == groups["model.norm.weight"] == "trunk"
    assert {name for name, group in groups.items() if group == "projector"} == {
        f"model.vq_adaptor.layers.{part}.{kind}" for part in (0, 3, 4) for kind in ("weight", "bias")
    }
    with pytest.raises(ValueError, match="no parameter"):
        kimi.parameter_group("model.audio.weight")
    assert [(head.name, head.stream, head.shift) for head in kimi.tokens.heads] == [("text", 0, 1), ("audio", 1, 1)]
    assert policy.head_weight(TEXT) is policy.lm_head.weight
    assert policy.head_weight(AUDIO) is policy.mimo_output.weight


def test_the_public_size_has_the_published_number_of_bytes(tmp_path: Path) -> None:
    """168,448 rows, 28 + 6 layers: 19,532,673,280 bytes in bfloat16 with the 34 rotary buffers of 64 numbers."""
    kimi = KimiAudio(KimiParams(codes_only=True), source=ModelSource(None, "7b", write_tokenizer(tmp_path)))
    rows = 168448 - kimi.tokens.vocabulary_size
    assert 2 * (kimi.dimensions().parameters + 3 * rows * 3584 + 34 * 64) == 19_532_673_280
    assert len(kimi.parameter_shapes()) + 34 == 453


PUBLIC: dict[str, Any] = {
    "architectures": ["MoonshotKimiaForCausalLM"],
    "vocab_size": 168448,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "kimia_mimo_layers": 6,
    "kimia_mimo_transformer_from_layer_index": 21,
    "kimia_token_offset": 152064,
    "kimia_adaptor_input_dim": 5120,
    "kimia_mimo_audiodelaytokens": 6,
    "use_whisper_feature": True,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 8192,
}


@pytest.mark.parametrize("delay", [0, 2, 6])
def test_the_delay_and_the_codes_are_read_from_the_config(delay: int) -> None:
    sizes = sizes_of_config({**PUBLIC, "kimia_mimo_audiodelaytokens": delay}, "here")
    assert (sizes.audio_delay, sizes.num_codes, sizes.feature_size) == (delay, 16384, 5120)


def test_a_config_that_is_silent_or_unfit_is_refused() -> None:
    for name in ("kimia_mimo_audiodelaytokens", "kimia_token_offset", "kimia_adaptor_input_dim"):
        with pytest.raises(CheckpointError, match=f"has no '{name}'"):
            sizes_of_config({key: value for key, value in PUBLIC.items() if key != name}, "here")
    assert sizes_of_config({**PUBLIC, "use_whisper_feature": False}, "here").feature_size == 0
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"tie_word_embeddings": True}, "tied"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"kimia_mimo_transformer_from_layer_index": 28}, "branch_layer 28"),
        ({"kimia_token_offset": 168448}, "do not fit"),
        ({"num_key_value_heads": 5}, "no multiple"),
    ]
    for change, message in wrong:
        with pytest.raises(CheckpointError, match=message):
            sizes_of_config({**PUBLIC, **change}, "here")


def test_a_checkpoint_of_another_kind_or_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    source, config = ModelSource(str(tmp_path), None, None), tmp_path / "config.json"
    with pytest.raises(CheckpointError, match="does not exist"):
        KimiAudio(KimiParams(), source=source)
    config.write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(CheckpointError, match="LlamaForCausalLM"):
        KimiAudio(KimiParams(), source=source)
    config.write_text(json.dumps(PUBLIC))
    with pytest.raises(CheckpointError, match=r"holds neither tiktoken\.model nor tokenizer\.json"):
        KimiAudio(KimiParams(), source=source)
    Path(write_tokenizer(tmp_path)).rename(tmp_path / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"lacks <\|im_msg_end\|>"):
        KimiAudio(KimiParams(), source=source)


def test_recipe_and_tokenizer_must_not_contradict_the_checkpoint(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    small_kimi(tmp_path).save_layout(str(saved))
    source = ModelSource(str(saved), None, None)
    assert KimiAudio(KimiParams(), source=source).sizes.audio_delay == 2
    with pytest.raises(CheckpointError, match=r"sets audio_delay 6 \(not 2\), num_codes 8 \(not 16\)"):
        KimiAudio(KimiParams(audio_delay=6, num_codes=8), source=source)
    config = json.loads((saved / "config.json").read_text())
    assert config["kimia_mimo_audiodelaytokens"] == 2
    (saved / "config.json").write_text(json.dumps({**config, "kimia_media_begin": 1}))
    with pytest.raises(CheckpointError, match=r"kimia_media_begin is 1 in config\.json"):
        KimiAudio(KimiParams(), source=source)
    (saved / "config.json").write_text(json.dumps({**config, "kimia_token_offset": 20}))
    with pytest.raises(CheckpointError, match="codes begin at 20"):
        KimiAudio(KimiParams(), source=source)


def test_a_preset_must_exist_and_its_changes_must_fit(tmp_path: Path) -> None:
    words = write_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no preset 'huge'"):
        KimiAudio(KimiParams(), source=ModelSource(None, "huge", words))
    with pytest.raises(CheckpointError, match="need a base tokenizer"):
        KimiAudio(KimiParams(), source=ModelSource(None, "tiny", None))
    for change in ({"branch_layer": 3}, {"num_heads": 3}):
        with pytest.raises(CheckpointError):
            small_kimi(tmp_path, **{**SMALL, **change})
