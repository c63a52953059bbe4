"""The audio encoder against transformers' encoder of the same kind, and its public names and sizes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import FunAsrNanoEncoder, FunAsrNanoEncoderConfig

from wavalign.errors import CheckpointError
from wavalign.plugins.architectures.vita_audio.encoder import AudioModel, AudioProjection
from wavalign.plugins.architectures.vita_audio.encoder_sizes import SENSEVOICE_SMALL, EncoderSizes

SIZES = EncoderSizes(
    hidden_size=24,
    num_heads=3,
    intermediate_size=40,
    num_blocks=3,
    num_late_blocks=2,
    kernel_size=5,
    vocabulary_size=7,
)


@pytest.fixture
def model() -> AudioModel:
    torch.manual_seed(0)
    made = AudioModel(SIZES).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.3)
    return made


def theirs(model: AudioModel) -> nn.Module:
    """The encoder of transformers with the weights of `model`; its layers come in one list."""
    config = FunAsrNanoEncoderConfig(
        hidden_size=SIZES.hidden_size,
        num_attention_heads=SIZES.num_heads,
        intermediate_size=SIZES.intermediate_size,
        num_hidden_layers=SIZES.num_blocks + SIZES.num_late_blocks,
        num_timestamp_prediction_layers=SIZES.num_late_blocks,
        fsmn_kernel_size=SIZES.kernel_size,
    )
    encoder = model.model.encoder
    state: dict[str, Tensor] = {}
    blocks = [*encoder.encoders0, *encoder.encoders, *encoder.tp_encoders]
    for index, block in enumerate(blocks):
        own = dict(block.named_parameters())
        names = {
            "input_layernorm": "norm1",
            "post_attention_layernorm": "norm2",
            "self_attn.o_proj": "self_attn.linear_out",
        }
        names |= {"mlp.fc1": "feed_forward.w_1", "mlp.fc2": "feed_forward.w_2"}
        for kind in ("weight", "bias"):
            for name, ours in names.items():
                state[f"layers.{index}.{name}.{kind}"] = own[f"{ours}.{kind}"]
            fused = own[f"self_attn.linear_q_k_v.{kind}"].chunk(3)
            for letter, part in zip("qkv", fused, strict=True):
                state[f"layers.{index}.self_attn.{letter}_proj.{kind}"] = part
        state[f"layers.{index}.self_attn.fsmn.conv.weight"] = own["self_attn.fsmn_block.weight"]
    for index, norm in ((SIZES.num_blocks - 1, encoder.after_norm), (len(blocks) - 1, encoder.tp_norm)):
        for kind in ("weight", "bias"):
            state[f"layers.{index}.final_layernorm.{kind}"] = getattr(norm, kind)
    other: nn.Module = FunAsrNanoEncoder(config)
    other.load_state_dict(state)
    return other.eval()


def test_states_are_those_of_the_other_implementation(model: AudioModel) -> None:
    """Three sounds of different lengths, padded, behind the queries: any language, event, emotion, plain text."""
    generator = torch.Generator().manual_seed(1)
    sounds = [torch.randn(length, 560, generator=generator) for length in (9, 1, 30)]
    with torch.no_grad():
        ours = model(sounds)
        queries = model.model.embed.weight[[0, 1, 2, 15]]
        inputs = [torch.cat([queries, sound]) for sound in sounds]
        mask = torch.tensor([[i < len(each) for i in range(34)] for each in inputs])
        padded = nn.utils.rnn.pad_sequence(inputs, batch_first=True)
        states = theirs(model)(padded, mask.long()).last_hidden_state
    assert ours.shape == (3, 34, SIZES.hidden_size)
    torch.testing.assert_close(ours[mask], states[mask], atol=2e-5, rtol=1e-5)


def test_a_sound_is_heard_alike_whatever_is_beside_it_and_in_training_too(model: AudioModel) -> None:
    generator = torch.Generator().manual_seed(1)
    sounds = [torch.randn(length, 560, generator=generator) for length in (9, 2, 30)]
    with torch.no_grad():
        together = model(sounds)
        model.train()
        for index, sound in enumerate(sounds):
            alone = model([sound])[0]
            torch.testing.assert_close(together[index, : len(alone)], alone, atol=1e-5, rtol=0)


def test_a_frozen_encoder_keeps_no_graph(model: AudioModel) -> None:
    sound, recording = torch.randn(3, 560), []
    model.model.register_forward_pre_hook(lambda module, inputs: recording.append(torch.is_grad_enabled()))
    assert model([sound]).requires_grad
    model.requires_grad_(False)
    assert not model([sound]).requires_grad
    model.model.encoder.tp_norm.weight.requires_grad_(True)
    assert model([sound]).requires_grad
    assert recording == [True, False, True]


def test_the_projection_is_a_norm_and_two_layers() -> None:
    torch.manual_seed(0)
    projection, states = AudioProjection(SIZES, 6), torch.randn(5, 24)
    with torch.no_grad():
        projection.pre_proj_layernorm.weight.uniform_(0.5, 1.5)
        projection.pre_proj_layernorm.bias.uniform_(-1, 1)
    weights = {name: x.double() for name, x in projection.state_dict().items()}
    assert {name: tuple(x.shape) for name, x in weights.items()} == {
        "pre_proj_layernorm.weight": (24,),
        "pre_proj_layernorm.bias": (24,),
        "mlp.0.weight": (6, 24),
        "mlp.2.weight": (6, 6),
    }
    x = states.double()
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    x = (x * weights["pre_proj_layernorm.weight"] + weights["pre_proj_layernorm.bias"]) @ weights["mlp.0.weight"].T
    x = x * 0.5 * (1 + torch.erf(x / 2**0.5)) @ weights["mlp.2.weight"].T
    torch.testing.assert_close(projection(states).double(), x, atol=1e-5, rtol=0)


def test_public_names_and_sizes() -> None:
    """50 + 20 blocks of width 512, the first from 560; 16 queries; 25,055 rows of an output layer: 234 million."""
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in AudioModel(SENSEVOICE_SMALL).state_dict().items()}
    of_block = {
        "self_attn.linear_q_k_v.weight": (1536, 512),
        "self_attn.linear_q_k_v.bias": (1536,),
        "self_attn.linear_out.weight": (512, 512),
        "self_attn.linear_out.bias": (512,),
        "self_attn.fsmn_block.weight": (512, 1, 11),
        "feed_forward.w_1.weight": (2048, 512),
        "feed_forward.w_1.bias": (2048,),
        "feed_forward.w_2.weight": (512, 2048),
        "feed_forward.w_2.bias": (512,),
        **{f"norm{i}.{kind}": (512,) for i in (1, 2) for kind in ("weight", "bias")},
    }
    first = {"self_attn.linear_q_k_v.weight": (1536, 560), "norm1.weight": (560,), "norm1.bias": (560,)}
    expected = {f"encoders0.0.{name}": shape for name, shape in {**of_block, **first}.items()}
    for kind, count in (("encoders", 49), ("tp_encoders", 20)):
        expected |= {f"{kind}.{i}.{name}": shape for i in range(count) for name, shape in of_block.items()}
    expected |= {f"{norm}.{kind}": (512,) for norm in ("after_norm", "tp_norm") for kind in ("weight", "bias")}
    expected = {f"model.encoder.{name}": shape for name, shape in expected.items()}
    expected |= {"model.embed.weight": (16, 560)}
    expected |= {"model.ctc.ctc_lo.weight": (25055, 512), "model.ctc.ctc_lo.bias": (25055,)}
    assert shapes == expected
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 233_999_167


def test_sizes_that_do_not_fit_are_refused() -> None:
    for wrong, message in (
        ({"num_heads": 5}, "no multiple"),
        ({"kernel_size": 4}, "odd"),
        ({"num_blocks": 0}, "least 1"),
    ):
        with pytest.raises(CheckpointError, match=message):
            replace(SIZES, **wrong).check()
