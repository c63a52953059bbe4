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


@pytest.mark.parametrize(
    ("form", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 0.02), ("WAV", "PCM_16", 1e-4), ("WAV", "PCM_24", 1e-6), ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-7), ("WAV", "ULAW", 0.02), ("FLAC", "PCM_24", 1e-6), ("OGG", "VORBIS", 0.05),
        ("OGG", "OPUS", 0.05), ("MP3", "MPEG_LAYER_III", 0.05),
    ],
)  # fmt: skip
def test_formats_are_read_alike(tmp_path: Path, form: str, subtype: str, tolerance: float) -> None:
    """Integers come in -1..1; two channels, the left one silent, come at half their level; the rate is resampled."""
    path, right = tmp_path / "a.sound", tone(1.0, 24_000).samples
    soundfile.write(path, np.stack([np.zeros_like(right), right], axis=1), 24_000, format=form, subtype=subtype)
    sound = audio.read(AudioClip(str(path)), sample_rate=None)
    assert sound.sample_rate == 24_000 and sound.seconds == pytest.approx(1.0, abs=0.06)
    middle = sound.samples[6000:18000]
    assert middle.dtype == np.float32 and np.abs(middle).max() == pytest.approx(0.25, abs=tolerance + 1e-3)
    assert audio.read(AudioClip(str(path)), sample_rate=16_000).seconds == pytest.approx(1.0, abs=0.06)
    found = audio.header(AudioClip(str(path)))
    assert (found.sample_rate, found.channels) == (24_000, 2) and found.seconds == pytest.approx(1.0, abs=0.06)


def test_silent_and_very_short_files(tmp_path: Path) -> None:
    """Silence is sound; what has no sample at the rate asked for is an error, not an empty waveform."""
    clip = AudioClip(str(tmp_path / "a.wav"))
    audio.write(Waveform(np.zeros(1600, np.float32), 16_000), clip.url)
    assert audio.read(clip, sample_rate=8_000).samples.tolist() == [0.0] * 800
    audio.write(Waveform(np.full(1, 0.5, np.float32), 48_000), clip.url)
    assert audio.read(clip, sample_rate=None).seconds == 1 / 48_000
    with pytest.raises(DataError, match="no samples at 8000 Hz: it is 1 samples long"):
        audio.read(clip, sample_rate=8_000)


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    clip = AudioClip(str(tmp_path / "a.wav"))
    soundfile.write(clip.url, np.array([0.0, np.nan, 0.1]), 8_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"a\.wav: .* no numbers"):
        audio.read(clip, sample_rate=None)


def test_a_header_tells_equal_files(tmp_path: Path) -> None:
    for name, seconds in (("a", 0.1), ("b", 0.1), ("c", 0.2)):
        audio.write(tone(seconds), tmp_path / f"{name}.wav")
    first, second, third = (audio.header(AudioClip(str(tmp_path / f"{name}.wav"))) for name in "abc")
    assert first == second and first.digest != third.digest and third.seconds == pytest.approx(0.2)
    for content, complaint in ((b"", "empty"), (b"no sound", "not a sound file")):
        (tmp_path / "a.wav").write_bytes(content)
        with pytest.raises(DataError, match=complaint):
            audio.header(AudioClip(str(tmp_path / "a.wav")))
    audio.write(Waveform(np.zeros(0, np.float32), 16_000), tmp_path / "a.wav")
    with pytest.raises(DataError, match="no samples"):
        audio.header(AudioClip(str(tmp_path / "a.wav")))
