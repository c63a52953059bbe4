"""Speaker embeddings, against those of the package whose weights they are."""

import math
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from safetensors.numpy import load_file

from wavalign.errors import PluginError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech import speaker

GOLDEN = Path(__file__).parents[2] / "golden" / "speaker_embeddings.safetensors"
"""`VoiceEncoder.embed_utterance(normalize_volume(sound, -30, increase_only=True))` of resemblyzer 0.1.4 and librosa
0.11, by seconds; the sounds are those of `tone`."""


def tone(seconds: float, loudness: float = 1.0) -> Waveform:
    """A gliding tone under noise, 16 kHz."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    noise = np.random.default_rng(0).standard_normal(len(time))
    samples = 0.3 * np.sin(2 * np.pi * (150 + 20 * np.sin(3 * time)) * time) + 0.05 * noise
    return Waveform((samples * loudness).astype(np.float32), 16_000)


@pytest.mark.parametrize(("seconds", "loudness"), [(0.3, 1), (1.61, 1), (2.2, 0.01), (3.7, 1), (5.0, 0.2)])
def test_it_is_that_of_the_package(seconds: float, loudness: float) -> None:
    ours = speaker.speaker_embedding(tone(seconds, loudness))
    theirs = load_file(GOLDEN)[f"{seconds:g} s at {loudness:g}"]
    assert ours is not None and np.abs(ours - theirs).max() < 1e-5
    assert math.isclose(float(np.linalg.norm(ours)), 1, rel_tol=1e-12)


def test_silence_has_no_voice() -> None:
    assert speaker.speaker_embedding(Waveform(np.zeros(0, np.float32), 16_000)) is None
    assert speaker.speaker_embedding(Waveform(np.zeros(16_000, np.float32), 16_000)) is None


def test_another_rate_is_the_same_voice() -> None:
    sound = tone(2.0)
    faster = Waveform(soxr.resample(sound.samples, 16_000, 24_000), 24_000)
    one, other = (speaker.speaker_embedding(each) for each in (sound, faster))
    assert one is not None and other is not None and float(one @ other) > 0.99


def test_a_file_that_holds_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pretrained.pt"
    torch.save({"model_state": {"lstm.weight_ih_l0": torch.zeros(3)}}, path)
    monkeypatch.setattr(speaker, "weights_file", lambda: path)
    speaker.encoder.cache_clear()
    with pytest.raises(PluginError, match="holds no speaker encoder"):
        speaker.encoder()
    speaker.encoder.cache_clear()
