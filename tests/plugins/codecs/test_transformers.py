"""Codecs of the transformers library against the library itself, on small random models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from tests.plugins.codecs.makers import dac, encodec, mimi, noise, seeded, write_model, xcodec2
from wavalign.errors import CheckpointError
from wavalign.plugins.codecs.neural.fbank import normalised_fbank
from wavalign.plugins.codecs.transformers import TransformersCodec, TransformersParams


def encoded_encodec(model: Any, x: Tensor) -> Tensor:
    codes: Tensor = model.encode(x, bandwidth=1.0).audio_codes[0, 0]
    return codes


def encoded_mimi(model: Any, x: Tensor) -> Tensor:
    codes: Tensor = model.encode(x).audio_codes[0]
    return codes


def encoded_dac(model: Any, x: Tensor) -> Tensor:
    codes: Tensor = model.encode(functional.pad(x, (0, -x.shape[2] % 10))).audio_codes[0]
    return codes


def encoded_xcodec2(model: Any, x: Tensor) -> Tensor:
    """Features by the library's own extractor of the same kind, lengths by the model's mask."""
    padded = functional.pad(x, (0, 1 + -(x.shape[2] + 1) % 320))
    extractor: Any = transformers.SeamlessM4TFeatureExtractor()  # type: ignore[no-untyped-call]
    features = extractor(functional.pad(padded, (160, 160))[0, 0].numpy(), sampling_rate=16_000, return_tensors="pt")
    mask = torch.zeros(1, padded.shape[2], dtype=torch.int64)
    mask[:, : x.shape[2] + 1] = 1
    found = model.encode(padded, features["input_features"], padding_mask=mask)
    codes: Tensor = found.audio_codes[0, :, found.audio_codes_mask[0].bool()]
    return codes


FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Tensor], int, int]] = {
    "encodec": (encodec, encoded_encodec, 5, 800),
    "mimi": (mimi, encoded_mimi, 4, 800),
    "dac": (dac, encoded_dac, 3, 800),
    "xcodec2": (xcodec2, encoded_xcodec2, 1, 16_000),
}


def decoded(kind: str, model: Any, codes: Tensor) -> Tensor:
    """Samples [N] of codes [K, T]."""
    if kind == "encodec":
        found = model.decode(codes[None, None], [None])
    elif kind == "mimi":
        found = model.decode(codes[None])
    else:
        found = model.decode(audio_codes=codes[None])
    samples: Tensor = found.audio_values.flatten()
    return samples


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    folder = tmp_path_factory.mktemp("model")
    return request.param, write_model(seeded(FAMILIES[request.param][0], 3), folder, 3), folder


@pytest.mark.parametrize("count", [1, 319, 640, 641, 4000])
def test_ids_and_sound_are_the_librarys(case: tuple[str, Any, Path], count: int) -> None:
    kind, model, folder = case
    _, encode, books, rate = FAMILIES[kind]
    codec, sound = TransformersCodec(TransformersParams(checkpoint=str(folder))), noise(count, rate)
    with torch.inference_mode():
        expected = encode(model, torch.from_numpy(sound.samples)[None, None])
    size = codec.num_codes // books
    assert codec.codes_per_frame == books
    found = codec.encode(sound)
    assert np.array(found).reshape(-1, books).tolist() == (expected.T + torch.arange(books) * size).tolist()
    if expected.shape[1]:
        with torch.inference_mode():
            whole = decoded(kind, model, expected)
        heard = codec.decode(found).samples
        assert len(heard) == expected.shape[1] * round(rate / codec.frame_rate)
        # Some processors round a batch of matrix products otherwise than a single one.
        np.testing.assert_allclose(heard[: len(whole)], whole, rtol=1e-6, atol=1e-6)
        assert len(heard) - len(whole) == (2 if kind == "dac" else 0), "each of DAC's strides of 5 loses samples"


@pytest.mark.parametrize("kind", ["encodec", "mimi", "dac"])
def test_fewer_code_books_are_the_first_of_all(kind: str, tmp_path: Path) -> None:
    build, _, books, rate = FAMILIES[kind]
    write_model(seeded(build, 0), tmp_path)
    every = TransformersCodec(TransformersParams(checkpoint=str(tmp_path)))
    all_codes = np.array(every.encode(noise(2000, rate))).reshape(-1, books)
    for count in range(1, books):
        fewer = TransformersCodec(TransformersParams(checkpoint=str(tmp_path), codebooks=count))
        assert fewer.encode(noise(2000, rate)) == all_codes[:, :count].flatten().tolist()
        assert fewer.num_codes == every.num_codes // books * count
        assert fewer.fingerprint() != every.fingerprint()
        assert len(fewer.decode(fewer.encode(noise(800, rate))).samples) >= 800


@pytest.mark.parametrize("count", [0, 6])
def test_as_many_code_books_as_there_are(tmp_path: Path, count: int) -> None:
    write_model(seeded(encodec, 0), tmp_path)
    if count:
        with pytest.raises(CheckpointError, match=f"has 5 code books, and {count} are asked for"):
            TransformersCodec(TransformersParams(checkpoint=str(tmp_path), codebooks=count))
    else:
        with pytest.raises(ValueError, match="codebooks"):
            TransformersParams(checkpoint=str(tmp_path), codebooks=count)


def test_mimi_keeps_its_semantic_code_books(tmp_path: Path) -> None:
    model = mimi()
    model.config.num_semantic_quantizers = 2
    write_model(type(model)(model.config), tmp_path)
    with pytest.raises(CheckpointError, match="4 code books, and 1 are asked for") as caught:
        TransformersCodec(TransformersParams(checkpoint=str(tmp_path), codebooks=1))
    assert "2 at least" in caught.value.hint


def altered(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    write_model(seeded(encodec, 0), tmp_path)
    weights, params = tmp_path / "model.safetensors", TransformersParams(checkpoint=str(tmp_path))
    whole = load_file(weights)

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as caught:
            TransformersCodec(params)
        assert caught.value.hint

    save_file({name: x for name, x in whole.items() if name != "encoder.layers.0.conv.bias"}, weights)
    refused("lacks 1 tensors: encoder.layers.0.conv.bias")
    save_file({**whole, "quantizer.layers.0.codebook.embed": torch.zeros(3, 3)}, weights)
    refused("cannot be loaded")
    weights.write_bytes(weights.read_bytes()[:-9])
    refused("cannot be read")
    weights.rename(tmp_path / "pytorch_model.bin")
    refused("can run code")
    save_file(whole, weights)
    altered(tmp_path, normalize=True)
    refused("normalises")
    altered(tmp_path, normalize=False, model_type="qwen2")
    refused("model_type 'qwen2' is no codec")
    altered(tmp_path, model_type="encodec", codebook_size="many")
    refused("cannot be loaded")


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_model(seeded(dac, 0), tmp_path / name)
    first, second = (TransformersCodec(TransformersParams(checkpoint=str(tmp_path / x))) for x in ("one", "two"))
    assert first.fingerprint() == second.fingerprint()
    weights = load_file(tmp_path / "two" / "model.safetensors")
    weights["quantizer.quantizers.0.codebook.weight"][0, 0] += 1e-3
    save_file(weights, tmp_path / "two" / "model.safetensors", metadata={"format": "pt"})
    assert TransformersCodec(TransformersParams(checkpoint=str(tmp_path / "two"))).fingerprint() != first.fingerprint()


def test_features_are_kaldis() -> None:
    """A tone of 1 kHz, 25 ms windows every 10 ms: by hand 98 frames, the loudest band the one around 1 kHz."""
    tone = torch.sin(torch.arange(16_000) * (2 * np.pi * 1000 / 16_000)) * torch.linspace(0.1, 1, 16_000)
    found = normalised_fbank(tone, 16_000)
    assert found.shape == ((16_000 - 400) // 160 + 1, 80)
    assert found.mean(dim=0).abs().max() < 1e-4
    assert found.var(dim=0).numpy() == pytest.approx(np.ones(80), abs=1e-3)
    assert bool((found[1:] > found[:-1]).float().mean() > 0.6), "the tone grows, and so does every band"
