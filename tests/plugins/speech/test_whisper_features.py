"""Frames of a small Whisper encoder beside those of transformers' own loading, and what is refused."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration
from transformers.audio_utils import mel_filter_bank

from tests.plugins.speech.whisper_helpers import MELS, SECONDS, WIDTH, write_whisper
from wavalign.errors import CheckpointError, DataError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.whisper_features import WhisperFeatures
from wavalign.storage.tensors import read_checkpoint, save_weights

CHUNK = SECONDS * 16_000


def noise(samples: int, *, rate: int = 16_000) -> Waveform:
    values = np.random.default_rng(0).normal(0.0, 0.1, samples).astype(np.float32)
    return Waveform(values * np.linspace(0.1, 1.0, samples, dtype=np.float32), rate)


def published(folder: Path, samples: npt.NDArray[np.float32]) -> Tensor:
    """All frames of one chunk by transformers' own loading, over a spectrogram written out here."""
    padded = torch.zeros(CHUNK)
    padded[: len(samples)] = torch.from_numpy(samples)
    power = torch.stft(padded, 400, 160, window=torch.hann_window(400), return_complex=True)[:, :-1].abs() ** 2
    bank = mel_filter_bank(201, MELS, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    logs = (torch.from_numpy(bank).float().T @ power).clamp(min=1e-10).log10()
    mel = (torch.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0
    model: nn.Module = WhisperForConditionalGeneration.from_pretrained(folder)
    model.eval()
    with torch.no_grad():
        frames: Tensor = model.get_submodule("model.encoder")(mel[None]).last_hidden_state[0]
    return frames


def test_frames_are_those_of_the_whole_model(tmp_path: Path) -> None:
    """A chunk and three quarters: each chunk on its own, the second one padded with silence."""
    whisper, waveform = WhisperFeatures(write_whisper(tmp_path), device="cpu"), noise(56_001)
    frames = whisper.frames(waveform)
    assert (frames.dtype, frames.device.type, frames.is_inference()) == (torch.float32, "cpu", False)
    first, second = (published(tmp_path, waveform.samples[start : start + CHUNK]) for start in (0, CHUNK))
    torch.testing.assert_close(frames, torch.cat([first, second[:76]]), atol=1e-5, rtol=0)  # 24,001 / 320 = 75.003
    assert float(frames.std()) > 0.1


@pytest.mark.parametrize(
    ("samples", "kept"), [(1, 4), (1280, 4), (1281, 8), (31_999, 100), (32_000, 100), (32_001, 104), (64_000, 200)]
)
def test_sound_is_covered_by_whole_groups_of_frames(tmp_path: Path, samples: int, kept: int) -> None:
    """1,280 samples are four frames; a chunk of 32,000 is 100."""
    whisper = WhisperFeatures(write_whisper(tmp_path), device="cpu")
    assert whisper.frames(noise(samples), multiple=4).shape == (kept, WIDTH)


def test_frames_can_be_learned_from_wherever_they_were_made(tmp_path: Path) -> None:
    whisper = WhisperFeatures(write_whisper(tmp_path), device="cpu")
    with torch.inference_mode():
        frames = whisper.frames(noise(1000))
    weight = torch.ones(WIDTH, requires_grad=True)
    (frames @ weight).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, frames.sum(dim=0))


def test_loading_draws_no_random_number_and_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whisper, state = WhisperFeatures(write_whisper(tmp_path), device="cpu"), torch.get_rng_state()
    before = whisper.frames(noise(1000))
    assert torch.equal(torch.get_rng_state(), state)
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(whisper.frames(noise(1000)), before)


def test_the_models_own_spectrogram_settings_are_taken_or_refused(tmp_path: Path) -> None:
    folder = write_whisper(tmp_path)
    bare = WhisperFeatures(folder, device="cpu").frames(noise(1000))
    settings = {"feature_size": MELS, "hop_length": 160, "chunk_length": SECONDS, "sampling_rate": 16_000, "n_fft": 400}
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(settings))
    assert torch.equal(WhisperFeatures(folder, device="cpu").frames(noise(1000)), bare)
    path.write_text(json.dumps({**settings, "feature_size": 80, "hop_length": 200}))
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json .*feature_size 80 \(not 16\), hop_length 200"):
        WhisperFeatures(folder, device="cpu")


def test_what_is_no_whole_whisper_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        WhisperFeatures(str(tmp_path), device="cpu")
    folder = write_whisper(tmp_path)
    state = {name: torch.zeros(header.shape) for name, header in read_checkpoint(folder).items()}
    del state["model.encoder.conv2.bias"]
    save_weights({**state, "model.encoder.layer_norm.bias": torch.zeros(3)}, folder)
    with pytest.raises(CheckpointError, match=r"missing: model\.encoder\.conv2\.bias") as caught:
        WhisperFeatures(folder, device="cpu").frames(noise(1000))
    assert "shape: model.encoder.layer_norm.bias is [3], wanted [8]" in caught.value.message
    config = json.loads((tmp_path / "config.json").read_text())
    wrong = (({"model_type": "bert"}, "not 'whisper'"), ({"max_source_positions": 75}, "no whole second"))
    for change, message in wrong:
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=message):
            WhisperFeatures(folder, device="cpu")


def test_other_rates_and_silence_without_length_are_errors(tmp_path: Path) -> None:
    whisper = WhisperFeatures(write_whisper(tmp_path), device="cpu")
    with pytest.raises(DataError, match="hears 16 kHz, not 10 samples at 8000 Hz"):
        whisper.frames(noise(10, rate=8000))
    with pytest.raises(DataError, match="not 0 samples"):
        whisper.frames(noise(0))
    with pytest.raises(ValueError, match="no multiple of 3"):
        whisper.frames(noise(10), multiple=3)
