"""Sound to features: against Kaldi's own, stacking and normalisation by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wavalign.errors import CheckpointError, DataError
from wavalign.plugins import audio
from wavalign.plugins.architectures.vita_audio.features import (
    FEATURE_SIZE,
    FeatureExtractor,
    mel_energies,
    no_normalization,
    read_normalization,
    stack_frames,
    statistics_text,
)
from wavalign.plugins.batch import AudioClip, Waveform

RECORDED = Path(__file__).parents[3] / "golden" / "kaldi_fbank.safetensors"
"""`samples` [N] int16 with a loud, a quiet and a silent part; `energies` [frames, 80] of kaldi-native-fbank 1.23."""


def test_energies_are_kaldis() -> None:
    recorded = load_file(RECORDED)
    ours, theirs = mel_energies(recorded["samples"] / 32768), recorded["energies"]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    assert float(theirs.max()) > 25  # loud enough that a wrong scale would show
    assert float(ours.min()) == pytest.approx(math.log(2**-23), abs=1e-5)  # silence is at the floor


def test_only_whole_frames_count() -> None:
    for count, frames in ((400, 1), (559, 1), (560, 2), (16000, 98)):
        assert mel_energies(torch.zeros(count)).shape == (frames, 80)


@pytest.mark.parametrize(
    ("frames", "stacked"),
    [
        (1, [[0] * 7]),
        (4, [[0, 0, 0, 0, 1, 2, 3]]),
        (6, [[0, 0, 0, 0, 1, 2, 3]]),
        (7, [[0, 0, 0, 0, 1, 2, 3], [3, 4, 5, 6, 6, 6, 6]]),
        (14, [[0, 0, 0, 0, 1, 2, 3], [3, 4, 5, 6, 7, 8, 9], [9, 10, 11, 12, 13, 13, 13]]),
    ],
)
def test_frames_are_stacked_with_their_neighbours(frames: int, stacked: list[list[int]]) -> None:
    numbered = torch.stack([torch.arange(frames), 100 + torch.arange(frames)], dim=1)
    expected = torch.tensor(stacked)[:, :, None] + torch.tensor([0, 100])
    assert torch.equal(stack_frames(numbered), expected.flatten(1))


def noise(seconds: float, rate: int) -> Waveform:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)
    return Waveform(samples, rate)


def test_a_clip_is_heard_at_16_khz_shifted_and_scaled(tmp_path: Path) -> None:
    clip = AudioClip(str(tmp_path / "clip.wav"))
    audio.write(noise(1.0, 16000), clip.url)
    plain = FeatureExtractor(no_normalization())(clip)
    assert plain.shape == (17, FEATURE_SIZE) and plain.dtype == torch.float32  # 98 frames, 17 * 6 >= 98 > 16 * 6
    samples = torch.from_numpy(audio.read(clip, sample_rate=None).samples)
    assert torch.equal(plain, stack_frames(mel_energies(samples)))
    shift, scale = -torch.arange(560.0), torch.linspace(0.1, 2.0, 560)
    (tmp_path / "am.mvn").write_text(statistics_text(shift, scale))
    torch.testing.assert_close(FeatureExtractor(read_normalization(str(tmp_path)))(clip), (plain + shift) * scale)
    audio.write(noise(1.0, 8000), clip.url)
    assert FeatureExtractor(no_normalization())(clip).shape == (17, FEATURE_SIZE)


def test_a_clip_shorter_than_a_frame_is_refused(tmp_path: Path) -> None:
    clip = AudioClip(str(tmp_path / "click.wav"))
    audio.write(noise(0.0249, 16000), clip.url)
    with pytest.raises(DataError, match=r"click\.wav: 24\.9 ms of sound are too short to hear"):
        FeatureExtractor(no_normalization())(clip)


def test_statistics_are_read_as_kaldi_writes_them(tmp_path: Path) -> None:
    shift, scale = [-8.0 - 0.001 * i for i in range(560)], [0.15 + 0.0001 * i for i in range(560)]
    layers = [("AddShift", shift), ("Rescale", scale)]
    lines = [f"<{name}> 560 560\n<LearnRateCoef> 0 [ {' '.join(map(str, values))} ]\n" for name, values in layers]
    text = "<Nnet>\n<Splice> 560 560\n[ 0 ]\n" + "".join(lines) + "</Nnet>\n"
    (tmp_path / "am.mvn").write_text(text)
    found = read_normalization(str(tmp_path))
    torch.testing.assert_close(found.shift, torch.tensor(shift))
    torch.testing.assert_close(found.scale, torch.tensor(scale))
    assert found.text == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Nnet>\n</Nnet>\n", "<AddShift> holds 0 numbers, not 560"),
        (statistics_text(torch.zeros(560), torch.ones(559)), "<Rescale> holds 559 numbers, not 560"),
        (
            statistics_text(torch.zeros(560), torch.full((560,), math.nan)),
            "<Rescale> holds numbers that are not finite",
        ),
        (statistics_text(torch.zeros(560), torch.ones(560)).replace("[ 0 0", "[ 0 x"), "could not convert"),
    ],
)
def test_torn_statistics_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "am.mvn").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_normalization(str(tmp_path))
