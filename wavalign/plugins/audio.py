"""Sound files to waveforms and back: soundfile through fsspec, resampling only where a rate is asked for."""

import hashlib
import io
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, final

import fsspec
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from typing_extensions import override

from wavalign.errors import DataError, StorageError
from wavalign.plugins.batch import AudioClip, Waveform
from wavalign.plugins.sound_files import examine
from wavalign.schema.clips import ClipLimits
from wavalign.storage import arrow

LOWEST_RATE, HIGHEST_RATE = 100, 384_000
"""Hertz; no recording of speech is outside, and resampling from there may take any time and memory."""
_LOCAL = re.compile(r"(?:file|local):(?://)?")
_BLOCK = 1 << 16
"""Samples decoded at once."""
_MEGABYTE = 1 << 20

_LIMITS = [ClipLimits()]
"""Of this process; a run sets them from its plan before it reads."""


def set_limits(limits: ClipLimits) -> None:
    """Bound every sound that this process reads from now on."""
    _LIMITS[0] = limits


def _limits() -> ClipLimits:
    return _LIMITS[0]


BLOCK, QUIETEST, LOUDEST = 16_384, 1e-4, 100.0
"""Samples decoded at a time, the level up to which sound is none, and that beyond which it is no sound."""


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
    with _opened(clip, content) as file:
        digest = hashlib.sha256(content).hexdigest()
        seconds, rate, channels = file.frames / file.samplerate, int(file.samplerate), int(file.channels)
        return SoundHeader(seconds, rate, channels, digest, silent=_is_silent(clip, file))


def _is_silent(clip: AudioClip, file: soundfile.SoundFile) -> bool:
    """Whether no sample is heard; decoding stops at the first that is, but where samples may be no numbers."""
    silent, floats = True, file.subtype in ("FLOAT", "DOUBLE")
    while (silent or floats) and len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
        _check_level(clip, block)
        silent = silent and float(np.abs(block).max()) <= QUIETEST
    return silent


def _check_level(clip: AudioClip, samples: NDArray[np.float32]) -> None:
    """Refuse samples that are no numbers, or numbers of another scale (floats from -32768 to 32767)."""
    highest = float(np.abs(samples).max(initial=0.0))  # NaN where one is
    if not np.isfinite(highest):
        message = f"{clip.url}: the sound file holds samples that are no numbers"
        raise DataError(message, hint="write it again or take its record out")
    if highest > LOUDEST:
        message = f"{clip.url}: the sound file's samples reach {highest:,.4g}, and full scale is 1"
        raise DataError(message, hint="divide floats that were 16-bit integers by 32768 and write it again")


def read(clip: AudioClip, *, sample_rate: int | None, content: bytes | None = None) -> Waveform:
    """Read `clip`, mix it to mono and, where `sample_rate` (Hz) is given and differs, resample it.

    `content` is what `read_bytes` gives, where that is known already.

    Raises DataError naming the file when it is missing, empty, cut short, beyond the limits on clips, not a sound file
    or not all numbers.
    """
    with _opened(clip, read_bytes(clip) if content is None else content) as file:
        mono, rate = _mono(clip, file), int(file.samplerate)
    _check_level(clip, mono)
    if sample_rate is None or sample_rate == rate:
        return Waveform(mono, rate)
    resampled = np.asarray(soxr.resample(mono, rate, sample_rate), dtype=np.float32)
    if len(resampled) == 0:
        raise _without_samples(clip, f" at {sample_rate} Hz: it is {len(mono)} samples long")
    return Waveform(resampled, sample_rate)


@final
class _Content(io.BytesIO):
    """The bytes of a file, for a decoder that a damaged one may send to a place before its first byte."""

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Stay where there is no such place: the decoder sees that it did not get there."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def read_bytes(clip: AudioClip) -> bytes:
    """The file as it is; raises DataError when it is missing, empty, too large or no file."""
    if not clip.has_sound:
        raise DataError(f"{clip.url}: it is there as codes alone", hint="give the record `audio` beside its `codes`")
    limits = _limits()
    most = int(limits.max_megabytes * _MEGABYTE)
    try:
        if clip.url.startswith(arrow.SCHEME):
            content = arrow.read_cell(clip.url)
        else:
            _check_kind(clip)
            with fsspec.open(as_written(clip.url), "rb") as file:
                content = _at_most(file, most + 1)
    except DataError:
        raise
    except Exception as error:  # a file system of fsspec raises whatever its own library does
        raise DataError(
            f"{clip.url}: the sound file cannot be opened: {error}",
            hint="check that the file is there and readable; relative paths count from the file that names them",
        ) from error
    if not content:
        raise DataError(f"{clip.url}: the sound file is empty", hint="write it again or take its record out")
    if len(content) > most:
        said = f"the sound file is larger than {limits.max_megabytes:g} MiB"
        raise _beyond(clip, said, "max_megabytes", limits.max_megabytes)
    return content


def as_written(path: str) -> str:
    """The local file `path`, or one whose name is the same letters in the other Unicode normal form."""
    if path.isascii() or os.path.exists(path):
        return path
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((form for form in forms if os.path.exists(form)), path)


def _at_most(file: IO[bytes], count: int) -> bytes:
    """The first `count` bytes, in pieces: a small file shall not take the room of a large one."""
    pieces = []
    while count > 0 and (piece := file.read(min(count, _MEGABYTE))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def _check_kind(clip: AudioClip) -> None:
    """Refuse a local path that is a pipe or a device: it may never end."""
    path = _LOCAL.sub("", clip.url)
    if "://" not in path and os.path.exists(path) and not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "a pipe or a device"
        raise DataError(f"{clip.url}: the sound file is {what}", hint="name a sound file")


@contextmanager
def _opened(clip: AudioClip, content: bytes) -> Iterator[soundfile.SoundFile]:
    """The decoder at the first sample of a whole file within the limits; its errors as DataError."""
    found = examine(content)
    if found.missing:
        hint = "fetch or record it again, or take its record out"
        raise DataError(f"{clip.url}: the sound file is cut short: {found.missing}", hint=hint)
    if found.more:
        raise DataError(f"{clip.url}: {found.more}", hint="decode both and write them as one file")
    try:
        with soundfile.SoundFile(_Content(found.data)) as file:
            _check_limits(clip, file)
            yield file
    except (soundfile.LibsndfileError, soundfile.SoundFileRuntimeError) as error:
        raise _unreadable(clip, error) from error


def _check_limits(clip: AudioClip, file: soundfile.SoundFile) -> None:
    """Hold what the header says against the limits; it may lie, and decoding looks again."""
    limits = _limits()
    if file.frames <= 0:
        raise _without_samples(clip)
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        message = f"{clip.url}: the sound file has {file.samplerate:,} samples a second"
        raise DataError(message, hint=f"sound between {LOWEST_RATE:,} and {HIGHEST_RATE:,} Hz is read")
    if file.channels > limits.max_channels:
        raise _beyond(clip, f"the sound file has {file.channels} channels", "max_channels", limits.max_channels)
    seconds = file.frames / file.samplerate
    if seconds > limits.max_seconds:
        raise _beyond(clip, f"the sound is {seconds:,.1f} s long", "max_seconds", limits.max_seconds)


def _mono(clip: AudioClip, file: soundfile.SoundFile) -> NDArray[np.float32]:
    """All samples [N], mixed to one channel block by block, never more than the limits allow."""
    limits = _limits()
    most = int(limits.max_seconds * file.samplerate)
    promised = int(file.frames) if file.format != "MP3" else 0  # without a Xing header that is an estimate
    if file.seekable():  # GSM in WAV is not
        file.seek(0)  # a decoder of MP3 that was not told to begins a little otherwise
    blocks: list[NDArray[np.float32]] = []
    count = 0
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        blocks.append(block.mean(axis=1, dtype=np.float32))
        count += len(block)
        if count > most:
            raise _beyond(clip, f"the sound is longer than {limits.max_seconds:g} s", "max_seconds", limits.max_seconds)
    if count == 0:
        raise _without_samples(clip)
    if count < promised:
        found = f"its header promises {promised:,} samples, and {count:,} are there"
        hint = "fetch or record it again, or take its record out"
        raise DataError(f"{clip.url}: the sound file is cut short: {found}", hint=hint)
    return np.concatenate(blocks)


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


def _beyond(clip: AudioClip, message: str, key: str, limit: float) -> DataError:
    hint = f"cut it, take its record out, or raise runtime.clips.{key}, which is {limit:g}"
    return DataError(f"{clip.url}: {message}", hint=hint)


def _said(error: Exception) -> str:
    """What the library found, without the Python object it was given."""
    return str(error.error_string) if isinstance(error, soundfile.LibsndfileError) else str(error)
