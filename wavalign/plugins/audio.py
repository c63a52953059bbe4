"""Sound files to waveforms and back: soundfile through fsspec, resampling only where a rate is asked for."""

import hashlib
import io
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import final

import fsspec
import numpy as np
import soundfile
import soxr

from wavalign.errors import DataError, StorageError
from wavalign.plugins import arrow
from wavalign.plugins.batch import AudioClip, Waveform

BLOCK, QUIETEST = 16_384, 1e-4
"""Samples decoded at a time, and the level up to which sound is none."""


@final
@dataclass(frozen=True, slots=True)
class SoundHeader:
    """What a sound file says of itself."""

    seconds: float
    sample_rate: int
    """Hertz."""
    channels: int
    digest: str
    """Of its bytes: equal files have equal ones."""
    silent: bool
    """Whether no sample rises above 1 in 10,000 of full scale."""


def header(clip: AudioClip) -> SoundHeader:
    """Look at `clip`, decoding it up to its first sound; raises DataError as `read` does."""
    content = read_bytes(clip)
    try:
        info = soundfile.info(io.BytesIO(content))
        silent = _is_silent(content)
    except soundfile.LibsndfileError as error:
        raise _unreadable(clip, error) from error
    if info.frames <= 0:
        raise _without_samples(clip)
    digest = hashlib.sha256(content).hexdigest()
    return SoundHeader(info.frames / info.samplerate, int(info.samplerate), int(info.channels), digest, silent)


def _is_silent(content: bytes) -> bool:
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        blocks = file.blocks(BLOCK, dtype="float32")
        return not any(len(block) and float(np.abs(block).max()) > QUIETEST for block in blocks)


def read(clip: AudioClip, *, sample_rate: int | None) -> Waveform:
    """Read `clip`, mix it to mono and, where `sample_rate` (Hz) is given and differs, resample it.

    Raises DataError naming the file when it is missing, empty, not a sound file or not all numbers.
    """
    content = read_bytes(clip)
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise _unreadable(clip, error) from error
    if samples.shape[0] == 0:
        raise _without_samples(clip)
    mono = samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        message = f"{clip.url}: the sound file holds samples that are no numbers"
        raise DataError(message, hint="write it again or take its record out")
    if sample_rate is None or sample_rate == rate:
        return Waveform(mono, int(rate))
    resampled = np.asarray(soxr.resample(mono, rate, sample_rate), dtype=np.float32)
    if len(resampled) == 0:
        raise _without_samples(clip, f" at {sample_rate} Hz: it is {len(mono)} samples long")
    return Waveform(resampled, sample_rate)


def read_bytes(clip: AudioClip) -> bytes:
    """The file as it is; raises DataError when it is missing or empty."""
    try:
        if clip.url.startswith(arrow.SCHEME):
            return arrow.read_cell(clip.url)
        with fsspec.open(as_written(clip.url), "rb") as file:
            content: bytes = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{clip.url}: the sound file cannot be opened: {error}",
            hint="check that the file is there and readable; relative paths count from the file that names them",
        ) from error
    if not content:
        raise DataError(f"{clip.url}: the sound file is empty", hint="write it again or take its record out")
    return content


def as_written(path: str) -> str:
    """The local file `path`, or one whose name is the same letters in the other Unicode normal form."""
    if path.isascii() or os.path.exists(path):
        return path
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((form for form in forms if os.path.exists(form)), path)


def write(waveform: Waveform, path: str | Path) -> None:
    """Write `waveform` as 16-bit PCM WAV; samples beyond -1..1 are clipped. Raises StorageError."""
    samples = np.clip(waveform.samples, -1.0, 1.0)
    try:
        soundfile.write(str(path), samples, waveform.sample_rate, subtype="PCM_16", format="WAV")
    except (OSError, soundfile.LibsndfileError) as error:
        raise StorageError(f"{path}: cannot be written: {error}", hint="is there space on the disk?") from error


def _unreadable(clip: AudioClip, error: Exception) -> DataError:
    return DataError(
        f"{clip.url}: not a sound file that can be read: {_said(error)}",
        hint="use WAV, FLAC, OGG or MP3; a copy cut short must be fetched again",
    )


def _without_samples(clip: AudioClip, why: str = "") -> DataError:
    hint = "record it again or take its record out"
    return DataError(f"{clip.url}: the sound file holds no samples{why}", hint=hint)


def _said(error: Exception) -> str:
    """What the library found, without the Python object it was given."""
    return str(error.error_string) if isinstance(error, soundfile.LibsndfileError) else str(error)
