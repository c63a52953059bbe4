"""The GLM-4-Voice tokenizer: the network against plain loops, chunks, names of checkpoints, and its decoder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.plugins.codecs.makers import VQ_CONFIG, decoder, noise, vq_weights, write_vq
from wavalign.errors import CheckpointError, PluginError, PreflightError
from wavalign.plugins.codecs.glm4voice import DecoderOptions, Glm4VoiceCodec, Glm4VoiceParams
from wavalign.plugins.codecs.whisper_vq.sizes import sizes_of_config
from wavalign.plugins.codecs.whisper_vq.tokenizer import WhisperVqTokenizer, load_network
from wavalign.storage.tensors import save_weights


def plain_ids(weights: dict[str, Tensor], mel: Tensor, valid: int) -> list[int]:
    """Ids of one sound, written out in float64 without any module: `mel` [M, T], sound in its first `valid` frames."""
    w = {name: x.double() for name, x in weights.items()}
    size, heads, block = (
        VQ_CONFIG["d_model"],
        VQ_CONFIG["encoder_attention_heads"],
        VQ_CONFIG["quantize_causal_block_size"],
    )
    gelu = torch.nn.functional.gelu

    def convolved(x: Tensor, name: str, stride: int) -> Tensor:
        taps, padded = w[f"{name}.weight"], torch.cat([torch.zeros(x.shape[0], 2, dtype=x.dtype), x], dim=1)
        columns = [
            torch.einsum("oik,ik->o", taps, padded[:, start : start + 3]) + w[f"{name}.bias"]
            for start in range(0, x.shape[1], stride)
        ]
        return gelu(torch.stack(columns, dim=1))

    def normed(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = convolved(convolved(mel.double(), "conv1", 1), "conv2", 2).T
    x = x + w["embed_positions.weight"][: len(x)]
    for layer in range(VQ_CONFIG["quantize_position"]):
        at = f"layers.{layer}"
        y = normed(x, f"{at}.self_attn_layer_norm")
        q = y @ w[f"{at}.self_attn.q_proj.weight"].T + w[f"{at}.self_attn.q_proj.bias"]
        k = y @ w[f"{at}.self_attn.k_proj.weight"].T
        v = y @ w[f"{at}.self_attn.v_proj.weight"].T + w[f"{at}.self_attn.v_proj.bias"]
        heard = torch.zeros_like(x)
        for i in range(len(x)):
            keys = [j for j in range(len(x)) if j // block <= i // block and 2 * j < valid]
            for head in range(heads):
                part = slice(head * size // heads, (head + 1) * size // heads)
                weight = torch.softmax(k[keys][:, part] @ q[i, part] / (size // heads) ** 0.5, dim=0)
                heard[i, part] = weight @ v[keys][:, part]
        x = x + heard @ w[f"{at}.self_attn.out_proj.weight"].T + w[f"{at}.self_attn.out_proj.bias"]
        y = gelu(normed(x, f"{at}.final_layer_norm") @ w[f"{at}.fc1.weight"].T + w[f"{at}.fc1.bias"])
        x = x + y @ w[f"{at}.fc2.weight"].T + w[f"{at}.fc2.bias"]
    means = [x[start : start + 4].sum(dim=0) / 4 for start in range(0, len(x), 4)]
    nearest = [int((w["codebook.weight"] - mean).square().sum(dim=1).argmin()) for mean in means]
    return nearest[: -(-valid // 8)]


@pytest.mark.parametrize("samples", [1, 1280, 1281, 4000, 25_600, 30_000])
def test_the_network_is_the_plain_computation(tmp_path: Path, samples: int) -> None:
    folder, sizes = write_vq(tmp_path), sizes_of_config(VQ_CONFIG, "test")
    tokenizer, weights = WhisperVqTokenizer(folder, "cpu"), vq_weights(0)
    seen: list[tuple[Tensor, Tensor]] = []
    original = tokenizer._network.double().ids  # as the plain computation: no code is near enough for its rounding

    def watched(mel: Tensor, mask: Tensor) -> Tensor:
        seen.append((mel, mask))
        return original(mel.double(), mask)

    tokenizer._network.ids = watched  # type: ignore[method-assign]
    found = tokenizer.encode(noise(samples, 16_000).samples)
    ((mel, mask),) = seen
    assert mel.shape == (1, sizes.num_mels, -(-samples // 1280) * 8)
    assert int(mask.sum()) == -(-samples // 160)
    assert found == plain_ids(weights, mel[0], int(mask.sum()))
    assert len(found) < 10 or len(set(found)) > len(found) // 2


def test_padding_behind_a_row_changes_nothing(tmp_path: Path) -> None:
    network = load_network(write_vq(tmp_path), sizes_of_config(VQ_CONFIG, "test"), "cpu")
    mel = torch.randn(2, 8, 80, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 80)
    mask[1, 37:] = 0
    with torch.inference_mode():
        together, alone = network.ids(mel, mask), network.ids(mel[1:, :, :40], mask[1:, :40])
    assert together[1, :5].tolist() == alone[0].tolist()


@pytest.mark.parametrize(
    ("samples", "codes"), [(0, 0), (1, 1), (1280, 1), (1281, 2), (480_000, 375), (480_001, 376), (481_281, 377)]
)
def test_codes_are_counted_anew_in_every_chunk_of_30_seconds(tmp_path: Path, samples: int, codes: int) -> None:
    found = WhisperVqTokenizer(write_vq(tmp_path), "cpu").encode(noise(samples, 16_000).samples)
    assert len(found) == codes


def test_a_chunk_knows_nothing_of_the_one_before(tmp_path: Path) -> None:
    tokenizer = WhisperVqTokenizer(write_vq(tmp_path), "cpu")
    long, tail = noise(480_000, 16_000, 1).samples, noise(20_000, 16_000, 2).samples
    both = tokenizer.encode(np.concatenate([long, tail]))
    assert both[:375] == tokenizer.encode(long)
    assert both[375:] == tokenizer.encode(tail)


def test_public_layouts_of_a_checkpoint(tmp_path: Path) -> None:
    """With what stands beside the tokenizer, below the recogniser's names, and in shards."""
    expected = WhisperVqTokenizer(write_vq(tmp_path / "plain"), "cpu")
    sound, weights = noise(40_000, 16_000).samples, vq_weights(0)
    extra = {
        "embed_positions2.weight": torch.zeros(375, 16),
        "ema_count": torch.zeros(48),
        "ema_weight": torch.zeros(48, 16),
        "layers.2.fc1.weight": torch.zeros(32, 16),
        "layers.12.fc1.bias": torch.zeros(32),
        "layer_norm.weight": torch.zeros(16),
    }
    whole = {f"model.encoder.{name}": x for name, x in (weights | extra).items()}
    whole |= {"model.decoder.layers.0.fc1.weight": torch.zeros(3, 3), "proj_out.weight": torch.zeros(2, 2)}
    sharded = tmp_path / "sharded"
    for folder, stored in ((tmp_path / "extra", weights | extra), (tmp_path / "whole", whole)):
        write_vq(folder)
        save_weights(stored, str(folder))
    write_vq(sharded)
    (sharded / "model.safetensors").unlink()
    index = {name: f"model-{1 + number % 2}-of-2.safetensors" for number, name in enumerate(whole)}
    for file in set(index.values()):
        save_file({name: whole[name] for name in whole if index[name] == file}, str(sharded / file))
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for folder in (tmp_path / "extra", tmp_path / "whole", sharded):
        found = WhisperVqTokenizer(str(folder), "cpu")
        assert found.encode(sound) == expected.encode(sound)
        assert found.fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling_type": "max"}, "pooling_type 'max'"),
        ({"encoder_causal_convolution": False}, "encoder_causal_convolution False"),
        ({"quantize_vocab_size": None}, "quantize_vocab_size is None"),
        ({"pooling_position": 1}, "pooling_position 1"),
        ({"max_source_positions": 1000}, "too few for 30 seconds"),
        ({"quantize_position": 3, "pooling_position": 3}, "does not fit the network"),
    ],
)
def test_another_kind_of_checkpoint_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    write_vq(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**VQ_CONFIG, **changes}))
    with pytest.raises(CheckpointError, match=message):
        WhisperVqTokenizer(str(tmp_path), "cpu")


@pytest.mark.parametrize(("text", "message"), [(None, "does not exist"), ("{", "cannot be read"), ("[]", "no object")])
def test_a_folder_without_a_whole_config(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        WhisperVqTokenizer(str(tmp_path), "cpu")
    assert caught.value.hint


def test_without_a_decoder_it_encodes_and_says_what_to_set(tmp_path: Path) -> None:
    codec = Glm4VoiceCodec(Glm4VoiceParams(checkpoint=write_vq(tmp_path)))
    assert not codec.can_decode
    assert len(codec.encode(noise(16_000, 16_000))) == 13
    with pytest.raises(PreflightError, match="has no decoder") as caught:
        codec.decode([1, 2])
    assert "model.codec.decoder" in caught.value.hint


def test_sound_comes_at_the_decoders_rate_and_without_foreign_ids(tmp_path: Path) -> None:
    codec = Glm4VoiceCodec(Glm4VoiceParams(checkpoint=write_vq(tmp_path), decoder=decoder(rate=24_000)))
    assert codec.can_decode and codec.sample_rate == 16_000
    sound = codec.decode([3, 48, 5, -1])
    assert (sound.sample_rate, len(sound.samples)) == (24_000, 2 * 1920)
    # The toy decoder's first tone is a sine of 3.5 half waves in 1920 samples.
    assert sound.samples[:1920] == pytest.approx(np.sin(np.pi * 3.5 * np.arange(1920) / 1920) / 2, abs=1e-6)
    nothing = codec.decode([])
    assert (nothing.sample_rate, len(nothing.samples)) == (24_000, 0)


def test_a_decoder_of_other_codes_is_refused(tmp_path: Path) -> None:
    codec = Glm4VoiceCodec(Glm4VoiceParams(checkpoint=write_vq(tmp_path), decoder=decoder(codes=47)))
    with pytest.raises(PluginError, match=r"code books of \[47\], the tokenizer has one of 48"):
        codec.decode([1])


def test_a_decoder_that_is_not_there_is_found_before_anything_is_decoded(tmp_path: Path) -> None:
    checkpoint = write_vq(tmp_path)
    for options, message in (
        ({"script": "/no/such.py"}, r"/no/such\.py does not exist"),
        ({"python": "/no"}, "/no is not"),
    ):
        with pytest.raises(PreflightError, match=message):
            Glm4VoiceCodec(Glm4VoiceParams(checkpoint=checkpoint, decoder=DecoderOptions(**options)))
