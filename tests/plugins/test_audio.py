from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavalign.errors import DataError, StorageError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip, Waveform


def tone(seconds: float = 0.1, rate: int = 16_000) -> Waveform:
    return Waveform(np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate).astype(np.float32) * 0.5, rate)


def test_what_is_written_is_read_back_to_half_a_step(tmp_path: Path) -> None:
    audio.write(tone(), tmp_path / "a.wav")
    read = audio.read(AudioClip(str(tmp_path / "a.wav")), sample_rate=None)
    assert read.sample_rate == 16_000
    assert np.abs(read.samples - tone().samples).max() < 1 / 32768 + 1e-6
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_resampling_happens_only_where_a_rate_is_asked_for(tmp_path: Path) -> None:
    audio.write(tone(1.0, 22_050), tmp_path / "a.wav")
    clip = AudioClip(str(tmp_path / "a.wav"))
    assert audio.read(clip, sample_rate=None).sample_rate == 22_050
    resampled = audio.read(clip, sample_rate=16_000)
    assert resampled.sample_rate == 16_000 and len(resampled.samples) == 16_000
    assert np.argmax(np.abs(np.fft.rfft(resampled.samples))) == 440


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([np.full(100, 0.5), np.full(100, -0.25)], axis=1), 8_000)
    assert audio.read(AudioClip(str(tmp_path / "a.wav")), sample_rate=None).samples == pytest.approx(0.125, abs=1e-4)


def test_any_fsspec_address_will_do(tmp_path: Path) -> None:
    audio.write(tone(), tmp_path / "a.wav")
    assert audio.read(AudioClip(f"file://{tmp_path}/a.wav"), sample_rate=None).seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "cannot be opened"), (b"", "is empty"), (b"RIFF\x00\x00not a sound", "not a sound file")],
)
def test_a_bad_file_is_named_with_advice(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    path = tmp_path / "bad.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=complaint) as caught:
        audio.read(AudioClip(str(path)), sample_rate=None)
    assert str(path) in caught.value.message and caught.value.hint


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    audio.write(Waveform(np.zeros(0, np.float32), 16_000), tmp_path / "a.wav")
    with pytest.raises(DataError, match="no samples"):
        audio.read(AudioClip(str(tmp_path / "a.wav")), sample_rate=None)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing/a\.wav"):
        audio.write(tone(), tmp_path / "missing" / "a.wav")
