"""Sound files to waveforms and back: soundfile through fsspec, resampling only where a rate is asked for."""

import io
from pathlib import Path

import fsspec
import numpy as np
import soundfile
import soxr

from wavalign.errors import DataError, StorageError
from wavalign.plugins import arrow
from wavalign.plugins.batch import AudioClip, Waveform


def read(clip: AudioClip, *, sample_rate: int | None) -> Waveform:
    """Read `clip`, mix it to mono and, where `sample_rate` (Hz) is given and differs, resample it.

    Raises DataError naming the file when it is missing, empty or not a sound file.
    """
    content = read_bytes(clip)
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"{clip.url}: not a sound file that can be read: {error}",
            hint="use WAV, FLAC, OGG or MP3; a copy cut short must be fetched again",
        ) from error
    if samples.shape[0] == 0:
        raise DataError(f"{clip.url}: the sound file holds no samples", hint="record it again or take its record out")
    mono = samples.mean(axis=1, dtype=np.float32)
    if sample_rate is None or sample_rate == rate:
        return Waveform(mono, int(rate))
    resampled = np.asarray(soxr.resample(mono, rate, sample_rate), dtype=np.float32)
    return Waveform(resampled, sample_rate)


def read_bytes(clip: AudioClip) -> bytes:
    """The file as it is; raises DataError when it is missing or empty."""
    try:
        if clip.url.startswith(arrow.SCHEME):
            return arrow.read_cell(clip.url)
        with fsspec.open(clip.url, "rb") as file:
            content: bytes = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{clip.url}: the sound file cannot be opened: {error}",
            hint="check that the file is there and readable; relative paths count from the file that names them",
        ) from error
    if not content:
        raise DataError(f"{clip.url}: the sound file is empty", hint="write it again or take its record out")
    return content


def write(waveform: Waveform, path: str | Path) -> None:
    """Write `waveform` as 16-bit PCM WAV; samples beyond -1..1 are clipped. Raises StorageError."""
    samples = np.clip(waveform.samples, -1.0, 1.0)
    try:
        soundfile.write(str(path), samples, waveform.sample_rate, subtype="PCM_16", format="WAV")
    except (OSError, soundfile.LibsndfileError) as error:
        raise StorageError(f"{path}: cannot be written: {error}", hint="is there space on the disk?") from error
