"""Prompts, targets and answers as ids; sizes; the public layout on disk."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.plugins.architectures.vita_helpers import (
    NUM_CODES,
    SMALL,
    codes_of,
    lively_policy,
    small_vita,
    spoken,
    write_tokenizer,
)
from wavalign.errors import CheckpointError, DataError
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.vita import VitaAudio, VitaParams
from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role, TokenSequence, collate
from wavalign.storage.tensors import load_into, read_checkpoint, save_weights


@pytest.fixture
def vita(tmp_path: Path) -> VitaAudio:
    return small_vita(tmp_path)


def names(vita: VitaAudio, row: TokenSequence) -> list[str]:
    """Token names, short ones for the control tokens."""
    short = {
        "<|begin_of_audio|>": "[",
        "<|end_of_audio|>": "]",
        "<|im_start|>": "<",
        "<|im_end|>": ">",
    }
    found = vita.vocabulary.tokenizer.convert_ids_to_tokens(row.ids[0].tolist())
    return [short.get(name, name.removeprefix("<|audio_").removesuffix("|>")) for name in found]


def test_spoken_prompt_is_chatml_without_the_words_of_the_user(vita: VitaAudio) -> None:
    row = vita.encode_prompt(spoken("d", [3, 1], text="w1 w2"), codes_of)
    expected = ["<", "user", "\n", "\n", "[", "3", "1", "]", ">", "\n", "<", "assistant", "\n"]
    assert names(vita, row) == expected
    assert set(row.roles.flatten().tolist()) == {int(Role.PROMPT)}


def test_feeding_the_words_and_a_system_prompt_are_choices(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, feed_user_text=True, system_prompt="w7")
    row = vita.encode_prompt(spoken("d", [3], text="w1 w2"), codes_of)
    opening = ["<", "system", "\n", "w7", ">", "\n", "<", "user", "\n", "w1", "w2", "\n", "[", "3", "]", ">", "\n"]
    assert names(vita, row) == [*opening, "<", "assistant", "\n"]
    own = Dialogue("d", (Message("system", "w8"), Message("user", "w1")))
    assert names(vita, vita.encode_prompt(own, codes_of))[:6] == ["<", "system", "\n", "w8", ">", "\n"]


def test_earlier_answers_stand_in_the_prompt_as_prompt(vita: VitaAudio) -> None:
    turns = (
        Message("user", "w1"),
        Message("assistant", "w2", AudioClip("5,6")),
        Message("user", "w3"),
    )
    row = vita.encode_prompt(Dialogue("d", turns), codes_of)
    told = " ".join(names(vita, row)).replace("\n", "/")
    assert told == "< user / w1 > / < assistant / w2 / [ 5 6 ] > / < user / w3 > / < assistant /"
    assert set(row.roles.flatten().tolist()) == {int(Role.PROMPT)}


def target(text: str, codes: list[int]) -> Dialogue:
    clip = AudioClip(",".join(map(str, codes))) if codes else None
    return Dialogue("d", (Message("user", "w1"),), Message("assistant", text, clip))


def test_target_interleaves_and_names_the_role_of_every_position(vita: VitaAudio) -> None:
    row = vita.encode_target(target("w1 w2 w3", list(range(10))), codes_of)
    assert " ".join(names(vita, row)) == "w1 [ 0 1 2 3 4 5 6 7 ] w2 w3 \n [ 8 9 ] >"
    text, audio, mark = [int(Role.TEXT)], [int(Role.AUDIO)], [int(Role.AUDIO_MARK)]
    expected = text + mark + 8 * audio + mark + 3 * text + mark + 2 * audio + mark + mark
    assert row.roles[0].tolist() == expected
    assert vita.encode_target(target("w1 w2", []), codes_of).roles[0].tolist() == 2 * text + [int(Role.TEXT_END)]
    assert row.roles.dtype == torch.int8


@pytest.mark.parametrize("words", [0, 1, 4, 5, 12])
@pytest.mark.parametrize("count", [0, 1, 8, 9, 40])
def test_decoding_a_completion_undoes_the_target(vita: VitaAudio, words: int, count: int) -> None:
    text, codes = " ".join(f"w{i}" for i in range(words)), [i % NUM_CODES for i in range(count)]
    answer = vita.decode_completion(vita.encode_target(target(text, codes), codes_of))
    assert (answer.text, answer.codes, answer.finished) == (text, tuple(codes), True)


def test_an_answer_cut_off_is_not_finished_and_unused_rows_write_nothing(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, num_codes=15)
    row = vita.encode_target(target("w1 w2", [1]), codes_of)
    cut = TokenSequence(row.ids[:, :-1], row.roles[:, :-1])
    assert not vita.decode_completion(cut).finished
    unused = torch.tensor([[vita.tokens.vocabulary_size - 1]])
    assert vita.tokens.vocabulary_size - 1 >= len(vita.vocabulary.tokenizer)
    assert vita.decode_completion(TokenSequence(unused, torch.full_like(unused, int(Role.TEXT)))).text == ""


def test_what_a_dialogue_cannot_say_is_an_error_that_names_it(vita: VitaAudio) -> None:
    with pytest.raises(DataError, match=r"dialogue d: the text spells the control token <\|im_end\|>"):
        vita.encode_prompt(Dialogue("d", (Message("user", "w1 <|im_end|>"),)), codes_of)
    with pytest.raises(DataError, match=r"spells the control token <\|audio_3\|>"):
        vita.encode_prompt(Dialogue("d", (Message("user", "w1 <|audio_3|>"),)), codes_of)
    with pytest.raises(DataError, match="cannot write 'stranger"):
        vita.encode_target(target("stranger", [1]), codes_of)
    with pytest.raises(DataError, match=f"outside 0..{NUM_CODES - 1}"):
        vita.encode_prompt(spoken("d", [NUM_CODES]), codes_of)
    with pytest.raises(DataError, match="role 'tool'"):
        vita.encode_prompt(Dialogue("d", (Message("tool", "w1"),)), codes_of)
    with pytest.raises(DataError, match="holds no sound"):
        vita.encode_prompt(spoken("d", [1]), lambda clip: [])


def test_added_tokens_get_the_public_ids_on_a_vocabulary_of_the_public_length(tmp_path: Path) -> None:
    """As many ids before VITA's own as Qwen2.5 has (151,665, turn marks among them) give the public ids."""
    vita = small_vita(tmp_path, num_codes=3)
    known, base = vita.vocabulary.tokenizer.get_vocab(), len(known_words(tmp_path)) + 3
    public = {"<|begin_of_image|>": 151665, "<|begin_of_audio|>": 151674, "<|end_of_audio|>": 151675}
    public |= {"<|audio|>": 151684, "<|audio_0|>": 151685}
    assert {name: known[name] - base + 151665 for name in public} == public
    assert vita.tokens.vocabulary_size % 8 == 0


def known_words(folder: Path) -> dict[str, int]:
    words: dict[str, int] = json.loads((folder / "words.json").read_text())["model"]["vocab"]
    return words


def test_sizes_groups_and_shapes_agree_with_the_built_network(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, num_mtp_layers=2, tie_embeddings=False)
    policy = vita.build_policy(seed=0)
    shapes = {name: tuple(x.shape) for name, x in policy.state_dict().items()}
    assert vita.parameter_shapes() == shapes
    assert vita.dimensions().parameters == sum(x.numel() for x in policy.parameters())
    assert vita.dimensions().key_value_width == 2 * 2 * 8
    groups = {name: vita.parameter_group(name) for name in shapes}
    assert groups["model.layers.1.mlp.up_proj.weight"] == "trunk"
    assert groups["model.layers.2.mlp.up_proj.weight"] == groups["mtp_projs.1.weight"] == "mtp"
    assert (groups["lm_head.weight"], groups["model.embed_tokens.weight"]) == ("text_head", "embed")
    assert [(head.name, head.shift) for head in vita.tokens.heads] == [("main", 1), ("mtp0", 2), ("mtp1", 3)]


def test_the_public_size_has_the_published_number_of_bytes(tmp_path: Path) -> None:
    """168,072 rows, 28 + 10 layers: 20,635,825,152 bytes in bfloat16; nothing is allocated for it."""
    params = VitaParams(num_codes=16384)
    vita = VitaAudio(params, source=ModelSource(None, "7b", write_tokenizer(tmp_path)))
    rows = 168072 - vita.tokens.vocabulary_size
    assert 2 * (vita.dimensions().parameters + 2 * rows * 3584) == 20_635_825_152


def test_tied_weights_are_stored_once(vita: VitaAudio) -> None:
    policy = vita.build_policy(seed=0)
    assert isinstance(policy, VitaPolicy)
    assert "lm_head.weight" not in policy.state_dict()
    assert policy.head_weight(0) is policy.model.embed_tokens.weight


def test_building_depends_on_the_seed_and_leaves_the_random_state(vita: VitaAudio) -> None:
    before = torch.get_rng_state()
    one, same, other = (vita.build_policy(seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    assert float(one[name].std()) == pytest.approx(0.02, rel=0.1)
    assert float(one["model.layers.0.self_attn.q_proj.bias"].abs().max()) == 0


def test_saving_and_loading_is_the_identity(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, num_mtp_layers=1, tie_embeddings=False, ratio=(2, 5))
    policy, folder = lively_policy(vita), str(tmp_path / "saved")
    vita.save_layout(folder)
    save_weights(policy.state_dict(), folder)
    again = VitaAudio(vita.params, source=ModelSource(folder, None, None))
    fresh = again.build_policy(seed=9)
    load_into(fresh, folder, again.ignored_keys)
    assert {name: x.shape for name, x in read_checkpoint(folder).items()} == again.parameter_shapes()
    assert (again.sizes, again.tokens) == (vita.sizes, vita.tokens)
    dialogue = target("w1 w2 w3", [1, 2, 3, 4])
    rows = [one.encode_target(dialogue, codes_of) for one in (vita, again)]
    assert torch.equal(rows[0].ids, rows[1].ids)
    batch = collate(rows, vita.tokens)
    ours, theirs = (p.eval().hidden(batch, frozenset({0, 1})) for p in (policy, fresh))
    assert all(torch.equal(ours[head], theirs[head]) for head in (0, 1))


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    def open_with(**config: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        VitaAudio(VitaParams(), source=ModelSource(str(tmp_path), None, None))

    with pytest.raises(CheckpointError, match="does not exist"):
        VitaAudio(VitaParams(), source=ModelSource(str(tmp_path), None, None))
    with pytest.raises(CheckpointError, match="'llama'"):
        open_with(model_type="llama")
    with pytest.raises(CheckpointError, match=r"am\.mvn does not exist"):
        open_with(model_type="qwen2_mtp_sensevoice")
    with pytest.raises(CheckpointError, match="num_nextn_predict_layers"):
        open_with(model_type="qwen2_mtp", vocab_size=8)


def test_sizes_in_the_recipe_must_not_contradict_the_checkpoint(tmp_path: Path) -> None:
    small_vita(tmp_path).save_layout(str(tmp_path / "saved"))
    source = ModelSource(str(tmp_path / "saved"), None, None)
    assert VitaAudio(VitaParams(), source=source).sizes.hidden_size == 32
    with pytest.raises(CheckpointError, match=r"sets hidden_size 64 \(not 32\), num_codes 8 \(not 16\)"):
        VitaAudio(VitaParams(hidden_size=64, num_layers=2, num_codes=8), source=source)


def test_a_preset_must_exist_and_its_changes_must_fit(tmp_path: Path) -> None:
    words = write_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no preset 'huge'"):
        VitaAudio(VitaParams(), source=ModelSource(None, "huge", words))
    with pytest.raises(CheckpointError, match="need a base tokenizer"):
        VitaAudio(VitaParams(), source=ModelSource(None, "tiny", None))
    with pytest.raises(CheckpointError, match="no multiple of num_key_value_heads"):
        small_vita(tmp_path, num_key_value_heads=3)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        VitaAudio(VitaParams(), source=ModelSource(None, "tiny", str(tmp_path / "none")))
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"torn\.json cannot be read"):
        VitaAudio(VitaParams(), source=ModelSource(None, "tiny", str(tmp_path / "torn.json")))


@pytest.mark.parametrize(
    "wrong", [{"ratio": (1,)}, {"ratio": (1, 2)}, {"ratio": (0, 4)}, {"decoding": (0, 3)}, {"decoding": (1, -1)}]
)
def test_patterns_that_do_not_move_on_are_refused(wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValidationError):
        VitaParams(**{**SMALL, **wrong})
