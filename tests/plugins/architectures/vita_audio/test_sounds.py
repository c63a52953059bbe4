"""The VITA variants that hear user sound as features: layout, network, training, decoding, checkpoints."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model

from tests.plugins.architectures.vita_helpers import (
    audible,
    codes_of,
    hearing_vita,
    lively_policy,
    small_vita,
    spoken,
    write_tokenizer,
)
from wavalign.engine.backends.base import AdamSettings
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.models.scored_policy import ScoredPolicy, score_batch
from wavalign.engine.state.distributed import World
from wavalign.errors import CheckpointError, DataError
from wavalign.plugins.api import ModelSource, SamplingOptions
from wavalign.plugins.architectures.vita import VitaAudio, VitaParams
from wavalign.plugins.architectures.vita_audio.features import statistics_text
from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy
from wavalign.plugins.batch import (
    AudioClip,
    Dialogue,
    Message,
    Role,
    TokenBatch,
    TokenSequence,
    collate,
    concatenate,
)
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams
from wavalign.storage.tensors import load_into, read_checkpoint, save_weights

MULTI: dict[str, Any] = {"num_mtp_layers": 2, "decoding": (1, 2, 3, 4), "tie_embeddings": False}


@pytest.fixture
def vita(tmp_path: Path) -> VitaAudio:
    return hearing_vita(tmp_path)


def no_codes(clip: AudioClip) -> list[int]:
    raise AssertionError(f"{clip.url} was asked for as codes")


def conversation(name: str, *lengths: int) -> Dialogue:
    """As many spoken user turns as `lengths`, of so many codes each, and spoken answers between them."""
    turns = []
    for index, length in enumerate(lengths):
        answer = Message("assistant", "w5", AudioClip("3,4"))
        turns += [answer] if index else []
        turns.append(Message("user", "w1", audible([(index + i) % 16 for i in range(length)])))
    return Dialogue(name, tuple(turns))


def hearing_batch(vita: VitaAudio) -> TokenBatch:
    """Rows with one, two and no sounds, of different lengths, each with an answer."""
    dialogues = [conversation("a", 3), conversation("b", 9, 2), Dialogue("c", (Message("user", "w3"),))]
    rows = []
    for index, dialogue in enumerate(dialogues):
        said = Message("assistant", " ".join(f"w{i}" for i in range(3 + index)), AudioClip("1,2,3,4,5"))
        prompt = vita.encode_prompt(dialogue, codes_of)
        rows.append(concatenate(prompt, vita.encode_target(replace(dialogue, target=said), codes_of), vita.tokens))
    return collate(rows, vita.tokens)


def test_user_sound_fills_as_many_places_as_features_and_queries(vita: VitaAudio) -> None:
    row = vita.encode_prompt(spoken("d", [3, 1, 7], text="w1"), no_codes)
    names = vita.vocabulary.tokenizer.convert_ids_to_tokens(row.ids[0].tolist())
    (segment,) = row.sounds
    assert segment.values.shape == (4, 560)  # 3 x 80 ms: 22 frames, a feature for every 6
    assert (segment.start, segment.length) == (5, 8)
    assert names[:5] == ["<|im_start|>", "user", "\n", "\n", "<|begin_of_audio|>"]
    assert names[5:13] == ["<|context_of_audio|>"] * 8
    assert names[13:] == ["<|end_of_audio|>", "<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"]
    assert set(row.roles.flatten().tolist()) == {int(Role.PROMPT)}


def test_answers_of_the_past_stay_codes_and_words_can_be_fed_too(tmp_path: Path) -> None:
    vita = hearing_vita(tmp_path, feed_user_text=True)
    row = vita.encode_prompt(conversation("d", 1, 2), codes_of)
    names = vita.vocabulary.tokenizer.convert_ids_to_tokens(row.ids[0].tolist())
    assert [names.count(f"<|audio_{code}|>") for code in (3, 4)] == [1, 1]
    assert names.count("w1") == 2 and names.count("<|context_of_audio|>") == sum(each.length for each in row.sounds)
    for segment in row.sounds:
        inside = names[segment.start : segment.start + segment.length]
        assert set(inside) == {"<|context_of_audio|>"}
        assert (names[segment.start - 1], names[segment.start + segment.length]) == (
            "<|begin_of_audio|>",
            "<|end_of_audio|>",
        )
    assert [len(each.values) for each in row.sounds] == [1, 3]  # 6 and 14 frames


def test_ids_behind_the_marks_are_one_higher_than_without_an_encoder(vita: VitaAudio, tmp_path: Path) -> None:
    """On a vocabulary as long as Qwen2.5's: 151674 and 151675 as everywhere, then 151676, and codes from 151686."""
    known = vita.vocabulary.tokenizer.get_vocab()
    plain = small_vita(tmp_path).vocabulary.tokenizer.get_vocab()
    shift = {name: known[name] - plain.get(name, known["<|end_of_audio|>"]) for name in known}
    assert shift["<|begin_of_audio|>"] == shift["<|end_of_audio|>"] == shift["<|begin_of_image|>"] == 0
    assert shift["<|context_of_audio|>"] == shift["<|audio|>"] == shift["<|audio_0|>"] == shift["<|audio_15|>"] == 1
    with pytest.raises(DataError, match=r"spells the control token <\|context_of_audio\|>"):
        vita.encode_prompt(Dialogue("d", (Message("user", "w1 <|context_of_audio|>"),)), codes_of)


def test_a_clip_that_cannot_be_heard_is_named(vita: VitaAudio, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.wav"):
        vita.encode_prompt(Dialogue("d", (Message("user", "", AudioClip(str(tmp_path / "nowhere.wav"))),)), codes_of)


def test_the_trunk_hears_sounds_and_the_modules_are_told_the_plain_token(tmp_path: Path) -> None:
    """The trunk as Qwen2 of transformers; the first module by its formula, from the embeddings of the ids alone."""
    vita = hearing_vita(tmp_path, **MULTI)
    policy, batch = lively_policy(vita).eval(), hearing_batch(vita)
    model, tokens = policy.model, batch.ids[:, 0]
    assert model.audio_model is not None and model.audio_projection is not None
    with torch.no_grad():
        found = policy.hidden(batch, frozenset({0, 1}))
        embedded = model.embed_tokens(tokens)
        heard = embedded.clone()
        for row, segments in enumerate(batch.sounds):
            for segment in segments:
                states = model.audio_projection(model.audio_model([segment.values]))[0]
                heard[row, segment.start : segment.start + segment.length] = states
        config = vita.sizes.transformers_config()
        config.num_hidden_layers, config.layer_types = 2, ["full_attention"] * 2
        other: nn.Module = Qwen2Model(config)
        other.eval().load_state_dict({name: x for name, x in model.state_dict().items() if not outside(name)})
        states = other(inputs_embeds=heard).last_hidden_state
        torch.testing.assert_close(found[0], states, atol=1e-4, rtol=0)
        told = policy.mtp_embed_norms[0](embedded[:, 1:])
        inputs = policy.mtp_projs[0](torch.cat([told, policy.mtp_hidden_norms[0](states[:, :-1])], dim=-1))
        rotary = model.rotary_emb(inputs, torch.arange(1, tokens.shape[1])[None])
        module = model.norm(model.layers[2](inputs, position_embeddings=rotary))
        torch.testing.assert_close(found[1][:, :-1], module, atol=1e-4, rtol=0)


def outside(name: str) -> bool:
    """Whether a parameter of `model` is none of a 2-layer trunk."""
    return name.startswith(("audio_", "layers.2.", "layers.3."))


@pytest.mark.parametrize("changes", [{}, MULTI])
def test_sampling_in_a_conversation_records_what_scoring_gives(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Prompts of several lengths, left-padded while sampling, with one sound, two and none."""
    vita = hearing_vita(tmp_path, **changes)
    policy = lively_policy(vita, scale=6.0).eval()
    dialogues = [conversation("a", 3), conversation("b", 9, 2), Dialogue("c", (Message("user", "w3"),))]
    prompts = [(each, vita.encode_prompt(each, codes_of)) for each in dialogues]
    options = SamplingOptions(group_size=2, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=16)
    sampled = KvCache(KvCacheParams()).sample(policy, vita, prompts, options, torch.Generator().manual_seed(3))
    for group in sampled:
        rows = [concatenate(group.prompt, rollout.completion, vita.tokens) for rollout in group.rollouts]
        batch = collate(rows, vita.tokens)
        select = batch.roles > int(Role.PROMPT)
        with torch.no_grad():
            again = score_batch(policy, batch, select, vita.tokens, temperature=1.0)
            deaf = score_batch(policy, replace(batch, sounds=()), select, vita.tokens, temperature=1.0)
        start = group.prompt.length
        for index, rollout in enumerate(group.rollouts):
            end = start + rollout.completion.length
            torch.testing.assert_close(again[index, :, start:end], rollout.logprobs, atol=1e-5, rtol=0)
            assert torch.allclose(deaf[index, :, start:end], rollout.logprobs, atol=1e-3) == (not group.prompt.sounds)


def test_the_sounds_of_a_group_are_encoded_once(vita: VitaAudio) -> None:
    policy, seen = vita.build_policy(seed=0), []
    assert isinstance(policy, VitaPolicy)
    assert policy.model.audio_model is not None
    policy.model.audio_model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    prompts = [vita.encode_prompt(conversation(name, *lengths), codes_of) for name, *lengths in (("a", 3), ("b", 9, 2))]
    batch = collate([prompt for prompt in prompts for _ in range(4)], vita.tokens)
    with torch.no_grad():
        policy.hidden(batch.to(torch.device("cpu")), frozenset({0}))
        policy.decode(prompts, group_size=4, need="all")
    assert seen == [3, 3]


def frozen_by_default(vita: VitaAudio, policy: VitaPolicy) -> VitaPolicy:
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(vita.parameter_group(name) not in vita.frozen_groups)
    return policy


def test_a_training_step_leaves_the_encoder_as_it_was_and_moves_the_projector(vita: VitaAudio) -> None:
    policy = frozen_by_default(vita, lively_policy(vita, scale=3.0))
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    settings = AdamSettings((0.9, 0.95), 1e-8, 0.1, 1.0)
    module = ScoredPolicy(policy, vita.tokens)
    backend = PlainBackend(module, policy=policy, optimizer=settings, precision="float32", ranks=World.single())
    batch = hearing_batch(vita)
    backend.begin_update(1)
    backend.backward(-backend.forward(batch, batch.roles == int(Role.TEXT), temperature=1.0).logprobs.sum())
    backend.step(1e-2)
    moved = {
        vita.parameter_group(name)
        for name, parameter in policy.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert moved == {"embed", "trunk", "projector"}
    assert all(p.grad is None for name, p in policy.named_parameters() if vita.parameter_group(name) == "encoder")


@pytest.mark.parametrize("group", ["projector", "encoder"])
def test_gradients_of_what_hears_are_those_of_finite_differences(vita: VitaAudio, group: str) -> None:
    policy, batch = lively_policy(vita, scale=3.0).double(), hearing_batch(vita)
    select = batch.roles == int(Role.TEXT)
    chosen = [p.requires_grad_(vita.parameter_group(n) == group) for n, p in policy.named_parameters()]
    chosen = [parameter for parameter in chosen if parameter.requires_grad]

    def value() -> Tensor:
        return score_batch(policy, batch, select, vita.tokens, temperature=1.0).sum()

    torch.autograd.backward(value())
    gradient = nn.utils.parameters_to_vector([torch.zeros_like(p) if p.grad is None else p.grad for p in chosen])
    start, direction, values = nn.utils.parameters_to_vector(chosen).detach(), gradient / gradient.norm(), []
    with torch.no_grad():
        for step in (1e-5, -1e-5):
            nn.utils.vector_to_parameters(start + step * direction, chosen)
            values.append(float(value()))
    assert float(gradient.norm()) > 1e-3
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float(gradient.norm()), rel=1e-3)


def test_a_batch_without_sound_walks_through_the_encoder_only_where_gradients_are_wanted(vita: VitaAudio) -> None:
    policy, walks = frozen_by_default(vita, lively_policy(vita)), []
    assert policy.model.audio_model is not None and policy.model.audio_projection is not None
    policy.model.audio_model.register_forward_pre_hook(lambda module, inputs: walks.append(len(inputs[0])))
    batch = collate([vita.encode_prompt(Dialogue("c", (Message("user", "w3"),)), codes_of)], vita.tokens)
    with torch.no_grad():
        expected = policy.hidden(batch, frozenset({0}))[0]
    assert walks == []
    found = policy.hidden(batch, frozenset({0}))[0]
    assert walks == [1] and torch.equal(found, expected)
    found.sum().backward()
    weight = policy.model.audio_projection.mlp[0].weight
    assert isinstance(weight, nn.Parameter) and weight.grad is not None and not weight.grad.any()


def test_sounds_that_fit_no_encoder_or_their_place_are_errors(vita: VitaAudio, tmp_path: Path) -> None:
    row = vita.encode_prompt(spoken("d", [1, 2]), codes_of)
    deaf = small_vita(tmp_path).build_policy(seed=0)
    with pytest.raises(ValueError, match="no encoder"):
        deaf.hidden(collate([row], vita.tokens), frozenset({0}))
    short = replace(row.sounds[0], length=row.sounds[0].length - 1)
    wrong = TokenSequence(row.ids, row.roles, sounds=(short,))
    with pytest.raises(ValueError, match="4 positions more"):
        vita.build_policy(seed=0).hidden(collate([wrong], vita.tokens), frozenset({0}))


# --- checkpoints ------------------------------------------------------------------------------------------------------


def public_checkpoint(folder: Path) -> tuple[dict[str, Any], str, str]:
    """A small checkpoint as the public ones are laid out; gives its three files of sizes and statistics."""
    vita = hearing_vita(folder, num_mtp_layers=1, tie_embeddings=False)
    vita.vocabulary.tokenizer.save_pretrained(str(folder / "public"))
    config: dict[str, Any] = {
        "architectures": ["Qwen2MTPSenseVoiceForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_qwen2.Qwen2MTPSenseVoiceConfig"},
        "hidden_size": 32,
        "intermediate_size": 64,
        "max_position_embeddings": 32768,
        "model_type": "qwen2_mtp_sensevoice",
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "num_nextn_predict_layers": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "vocab_size": vita.tokens.vocabulary_size,
    }
    encoder = (
        "# as SenseVoice writes it\nencoder: SenseVoiceEncoderSmall\nencoder_conf:\n    output_size: 32\n"
        "    attention_heads: 2\n    linear_units: 48\n    num_blocks: 3\n    tp_blocks: 1\n    dropout_rate: 0.1\n"
        "    kernel_size: 11\n    sanm_shfit: 0\nfrontend_conf:\n    fs: 16000\n    lfr_m: 7\n    cmvn_file: null\n"
        "vocab_size: 9\n"
    )
    statistics = statistics_text(torch.full((560,), -8.0), torch.full((560,), 0.15))
    (folder / "public" / "config.json").write_text(json.dumps(config))
    (folder / "public" / "config.yaml").write_text(encoder)
    (folder / "public" / "am.mvn").write_text(statistics)
    shapes = public_shapes(vita.tokens.vocabulary_size)
    generator = torch.Generator().manual_seed(0)
    weights = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_weights({**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, str(folder / "public"))
    return config, encoder, statistics


def public_shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint with 2 + 1 layers of width 32 and an encoder of 3 + 1 blocks of width 32."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, 32),
        "lm_head.weight": (vocabulary, 32),
        "model.norm.weight": (32,),
        "mtp_projs.0.weight": (32, 64),
        "mtp_embed_norms.0.weight": (32,),
        "mtp_hidden_norms.0.weight": (32,),
        "model.audio_projection.pre_proj_layernorm.weight": (32,),
        "model.audio_projection.pre_proj_layernorm.bias": (32,),
        "model.audio_projection.mlp.0.weight": (32, 32),
        "model.audio_projection.mlp.2.weight": (32, 32),
        "model.audio_model.model.embed.weight": (16, 560),
        "model.audio_model.model.ctc.ctc_lo.weight": (9, 32),
        "model.audio_model.model.ctc.ctc_lo.bias": (9,),
    }
    for layer in range(3):
        for name, width in (("q", 32), ("k", 16), ("v", 16)):
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.weight"] = (width, 32)
            shapes[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = (width,)
        shapes[f"model.layers.{layer}.self_attn.o_proj.weight"] = (32, 32)
        shapes |= {f"model.layers.{layer}.mlp.{name}_proj.weight": (64, 32) for name in ("gate", "up")}
        shapes[f"model.layers.{layer}.mlp.down_proj.weight"] = (32, 64)
        shapes |= {f"model.layers.{layer}.{name}_layernorm.weight": (32,) for name in ("input", "post_attention")}
    encoder = "model.audio_model.model.encoder"
    for block in ("encoders0.0", "encoders.0", "encoders.1", "tp_encoders.0"):
        first = 560 if block == "encoders0.0" else 32
        for part, height, width in (
            ("self_attn.linear_q_k_v", 96, first),
            ("self_attn.linear_out", 32, 32),
            ("feed_forward.w_1", 48, 32),
            ("feed_forward.w_2", 32, 48),
        ):
            shapes[f"{encoder}.{block}.{part}.weight"] = (height, width)
            shapes[f"{encoder}.{block}.{part}.bias"] = (height,)
        shapes[f"{encoder}.{block}.self_attn.fsmn_block.weight"] = (32, 1, 11)
        for kind in ("weight", "bias"):
            shapes[f"{encoder}.{block}.norm1.{kind}"], shapes[f"{encoder}.{block}.norm2.{kind}"] = (first,), (32,)
    shapes |= {f"{encoder}.{norm}.{kind}": (32,) for norm in ("after_norm", "tp_norm") for kind in ("weight", "bias")}
    return shapes


def test_a_public_checkpoint_is_loaded_whole_and_written_back_as_it_was(tmp_path: Path) -> None:
    config, encoder, statistics = public_checkpoint(tmp_path)
    public, saved = str(tmp_path / "public"), tmp_path / "saved"
    vita = VitaAudio(VitaParams(decoding=(1, 1)), source=ModelSource(public, None, None))
    assert vita.parameter_shapes() == public_shapes(vita.tokens.vocabulary_size)
    policy = vita.build_policy(seed=0)
    load_into(policy, public, vita.ignored_keys)
    assert {vita.parameter_group(name) for name in policy.state_dict()} == {
        *("embed", "trunk", "text_head", "mtp", "encoder", "projector")
    }
    vita.save_layout(str(saved))
    save_weights(policy.state_dict(), str(saved))
    assert json.loads((saved / "config.json").read_text()) == config
    assert (saved / "config.yaml").read_text() == encoder and (saved / "am.mvn").read_text() == statistics
    stored = read_checkpoint(public)
    stored.pop("model.layers.0.self_attn.rotary_emb.inv_freq")
    assert set(read_checkpoint(str(saved))) == set(stored)
    row = vita.encode_prompt(spoken("d", [1, 2]), no_codes)
    plain = hearing_vita(tmp_path).encode_prompt(spoken("d", [1, 2]), no_codes)
    torch.testing.assert_close(row.sounds[0].values, (plain.sounds[0].values - 8.0) * 0.15)
    assert policy.hidden(collate([row], vita.tokens), frozenset({0, 1}))[1].isfinite().all()


def test_a_checkpoint_without_its_encoders_files(tmp_path: Path) -> None:
    """Without `config.yaml` the encoder is the public one; without statistics it would hear something else."""
    config, encoder, _ = public_checkpoint(tmp_path)
    folder = tmp_path / "public"
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if "nextn" not in k}))
    (folder / "config.yaml").unlink()
    source = ModelSource(str(folder), None, None)
    vita = VitaAudio(VitaParams(), source=source)
    assert vita.parameter_shapes()["model.audio_model.model.encoder.encoders.48.norm1.weight"] == (512,)
    assert (vita.sizes.num_layers, vita.sizes.num_mtp_layers) == (3, 0)
    vita.save_layout(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "config.yaml").exists()
    (folder / "am.mvn").unlink()
    with pytest.raises(CheckpointError, match=r"am\.mvn does not exist") as refused:
        VitaAudio(VitaParams(), source=source)
    assert "SenseVoiceSmall" in str(refused.value.hint)
    for wrong, message in (
        ("encoder_conf: [", "cannot be read"),
        ("encoder: SenseVoiceEncoderSmall\n", "does not describe an audio encoder"),
        (encoder.replace("fs: 16000", "fs: 8000"), "features with fs 8000 are not supported"),
        (encoder.replace("sanm_shfit: 0", "sanm_shfit: 5"), "sanm_shfit 0"),
        (encoder.replace("attention_heads: 2", "attention_heads: 3"), "no multiple of num_heads 3"),
    ):
        (folder / "config.yaml").write_text(wrong)
        with pytest.raises(CheckpointError, match=message):
            VitaAudio(VitaParams(), source=source)


def test_a_tokenizer_without_the_token_for_features_is_refused(tmp_path: Path) -> None:
    public_checkpoint(tmp_path)
    small_vita(tmp_path).vocabulary.tokenizer.save_pretrained(str(tmp_path / "public"))
    with pytest.raises(CheckpointError, match=r"the tokenizer lacks <\|context_of_audio\|>"):
        VitaAudio(VitaParams(), source=ModelSource(str(tmp_path / "public"), None, None))


def test_the_public_size_is_that_of_the_plain_one_with_encoder_and_projector(tmp_path: Path) -> None:
    """168,072 rows and 28 layers take 15,460,723,712 bytes in bfloat16; encoder 233,999,167 and projector numbers."""
    params = VitaParams(num_codes=16384)
    vita = VitaAudio(params, source=ModelSource(None, "7b-plus", write_tokenizer(tmp_path)))
    rows = 168072 - vita.tokens.vocabulary_size
    projector = 2 * 512 + 512 * 3584 + 3584 * 3584
    expected = 15_460_723_712 // 2 + 233_999_167 + projector
    assert vita.dimensions().parameters + 2 * rows * 3584 == expected
