"""A file that holds less than it promises is refused; what pipes write, which promises nothing, is read."""

import io
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip
from wavalign.plugins.sound_files import examine
from wavalign.schema.clips import ClipLimits

FORMATS = [
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("RF64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"),
    ("W64", "PCM_16"), ("CAF", "PCM_16"),
    ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip
LOOKS: tuple[Callable[[AudioClip], object], ...] = (audio.header, partial(audio.read, sample_rate=16_000))
"""As `data check` does, and as a run does."""
IDS = [f"{name}-{kind}" for name, kind in FORMATS]


def noise(seconds: float, rate: int, channels: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(-0.3, 0.3, (int(seconds * rate), channels)).astype(np.float32)


def encoded(name: str, kind: str, *, seconds: float = 1.5, rate: int = 16_000, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(seconds, rate, channels), rate, format=name, subtype=kind)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def default_limits() -> Iterator[None]:
    yield
    audio.set_limits(ClipLimits())


def clip_of(folder: Path, content: bytes) -> AudioClip:
    path = folder / "clip.bin"
    path.write_bytes(content)
    return AudioClip(str(path))


@pytest.mark.parametrize(("name", "kind"), FORMATS, ids=IDS)
@pytest.mark.parametrize(("rate", "channels", "seconds"), [(16_000, 1, 1.5), (48_000, 2, 0.7), (8_000, 1, 0.05)])
def test_whole_files_are_whole(tmp_path: Path, name: str, kind: str, rate: int, channels: int, seconds: float) -> None:
    content = encoded(name, kind, seconds=seconds, rate=rate, channels=channels)
    assert examine(content).missing == ""
    assert examine(content).data == content
    clip = clip_of(tmp_path, content)
    found = audio.read(clip, sample_rate=None)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    assert np.array_equal(found.samples, expected.mean(axis=1, dtype=np.float32))
    assert audio.header(clip).seconds == pytest.approx(found.seconds)


@pytest.mark.parametrize(("name", "kind"), FORMATS, ids=IDS)
@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.2])
def test_files_cut_short_are_refused(tmp_path: Path, name: str, kind: str, kept: float) -> None:
    """When read and when only looked at, as `data check` does."""
    content = encoded(name, kind)
    clip = clip_of(tmp_path, content[: int(len(content) * kept)])
    for look in LOOKS:
        with pytest.raises(DataError) as caught:
            look(clip)
        assert caught.value.message.startswith(f"{clip.url}: the sound file is cut short: ")
        assert caught.value.hint


def test_what_was_promised_and_what_was_found_is_said() -> None:
    wav = encoded("WAV", "PCM_16", seconds=1.0)
    assert examine(wav[:-10_000]).missing == "its header promises 32,000 bytes of samples, and 22,000 are there"
    flac = encoded("FLAC", "PCM_16", seconds=1.0)
    assert examine(flac[:-10]).missing == "its header promises 16,000 samples, and 12,288 are there"


@pytest.mark.parametrize(
    ("whole", "size"), [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFF024, 0x7FFFF000), (0, 0), (0x80000024, 0x80000000)]
)
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path: Path, whole: int, size: int) -> None:
    content = encoded("WAV", "PCM_16")
    at = content.index(b"data") + 4
    piped = content[:4] + struct.pack("<I", whole) + content[8:at] + struct.pack("<I", size) + content[at + 4 :]
    found = audio.read(clip_of(tmp_path, piped), sample_rate=None)
    assert np.array_equal(found.samples, audio.read(clip_of(tmp_path, content), sample_rate=None).samples)


def streaminfo(flac: bytes, total: int) -> bytes:
    packed = int.from_bytes(flac[18:26], "big") >> 36 << 36 | total
    return flac[:18] + packed.to_bytes(8, "big") + flac[26:]


def test_a_flac_from_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    content = encoded("FLAC", "PCM_16")
    found = audio.read(clip_of(tmp_path, streaminfo(content, 0)), sample_rate=None)
    assert np.array_equal(found.samples, audio.read(clip_of(tmp_path, content), sample_rate=None).samples)


def test_an_empty_wav_with_a_chunk_behind_it_has_no_samples(tmp_path: Path) -> None:
    content = encoded("WAV", "PCM_16", seconds=0.0)
    content += b"LIST" + struct.pack("<I", 4) + b"INFO"
    content = content[:4] + struct.pack("<I", len(content) - 8) + content[8:]
    with pytest.raises(DataError, match="no samples"):
        audio.read(clip_of(tmp_path, content), sample_rate=None)


def test_tags_behind_the_last_frame_are_no_frames(tmp_path: Path) -> None:
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 32, 0, 0) + bytes(8)
    for name, kind in (("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")):
        content = encoded(name, kind) + ape + b"TAG" + bytes(125)
        assert examine(content).missing == ""


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "says", "key"),
    [
        (ClipLimits(max_seconds=1), "the sound is 1.5 s long", "max_seconds, which is 1"),
        (ClipLimits(max_megabytes=0.01), "larger than 0.01 MiB", "max_megabytes, which is 0.01"),
        (ClipLimits(max_channels=1), "has 2 channels", "max_channels, which is 1"),
    ],
)
def test_limits(tmp_path: Path, limits: ClipLimits, says: str, key: str) -> None:
    clip = clip_of(tmp_path, encoded("WAV", "PCM_16", channels=2))
    audio.read(clip, sample_rate=None)
    audio.set_limits(limits)
    for look in LOOKS:
        with pytest.raises(DataError, match=says) as caught:
            look(clip)
        assert clip.url in caught.value.message
        assert f"raise runtime.clips.{key}" in caught.value.hint


@pytest.mark.parametrize("total", [(1 << 36) - 1, 16_000 * 4000])
def test_a_header_that_lies_takes_no_memory(tmp_path: Path, total: int) -> None:
    clip = clip_of(tmp_path, streaminfo(encoded("FLAC", "PCM_16"), total))
    tracemalloc.start()
    try:
        for look in LOOKS:
            with pytest.raises(DataError, match=r"cut short|s long"):
                look(clip)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_small_file_that_unpacks_to_much(tmp_path: Path) -> None:
    """Ten minutes of silence in eight channels: 77 MB as bytes of samples, a few KB as a file."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 8_000, 8, format="FLAC", subtype="PCM_16") as file:
        for _ in range(10):
            file.write(np.zeros((8_000 * 60, 8), np.int16))
    clip = clip_of(tmp_path, buffer.getvalue())
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"the sound is 600\.0 s long"):
            audio.read(clip, sample_rate=None)
        audio.set_limits(ClipLimits(max_seconds=600))
        assert audio.read(clip, sample_rate=None).seconds == 600
        # The mono float32 samples twice (blocks, then joined), not eight channels of them.
        assert tracemalloc.get_traced_memory()[1] < 3 * 600 * 8_000 * 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("rate", [1, 99, 384_001, 10_000_000])
def test_rates_that_no_recording_has(tmp_path: Path, rate: int) -> None:
    content = encoded("WAV", "PCM_16")
    clip = clip_of(tmp_path, content[:24] + struct.pack("<I", rate) + content[28:])
    for look in LOOKS:
        with pytest.raises(DataError, match="samples a second"):
            look(clip)


@pytest.mark.parametrize("url", ["/dev/zero", "/dev/null", "/"])
def test_what_is_no_file(url: str) -> None:
    with pytest.raises(DataError, match=r"is a pipe or a device|is a folder"):
        audio.read(AudioClip(url), sample_rate=None)


@given(st.sampled_from(FORMATS), st.data())
def test_damage_is_a_data_error_or_a_sound(form: tuple[str, str], data: st.DataObject) -> None:
    """Whatever bytes are changed."""
    content = bytearray(SMALL[form])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 200)))] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(0, len(content)))
    clip = AudioClip("memory://damaged.bin")
    with fsspec.open(clip.url, "wb") as file:
        file.write(bytes(content[:kept]))
    try:
        found = audio.read(clip, sample_rate=16_000)
    except DataError:
        return
    assert 0 < found.seconds <= ClipLimits().max_seconds + 1


SMALL = {(name, kind): encoded(name, kind, seconds=0.2) for name, kind in FORMATS}


def test_a_file_that_sends_its_decoder_before_its_first_byte() -> None:
    content = bytearray(SMALL["AIFF", "PCM_16"])
    for place, byte in ((38, 255), (64, 178), (71, 0)):
        content[place] = byte
    clip = AudioClip("memory://before.bin")
    with fsspec.open(clip.url, "wb") as file:
        file.write(bytes(content[:577]))
    with pytest.raises(DataError):  # and nothing that a callback of the decoder has raised
        audio.read(clip, sample_rate=16_000)


@pytest.mark.parametrize("kind", [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
@pytest.mark.parametrize("look", LOOKS)
def test_files_written_one_behind_another(tmp_path: Path, kind: tuple[str, str], look: Callable[..., object]) -> None:
    """A decoder stops behind the first: the rest would be lost without a word."""
    content = encoded(*kind)
    with pytest.raises(DataError, match=f"two streams, and the one from byte {len(content):,} on"):
        look(clip_of(tmp_path, content * 2))


def test_what_follows_the_samples_of_w64_is_no_sound(tmp_path: Path) -> None:
    content = encoded("W64", "PCM_16")
    heard = audio.read(clip_of(tmp_path, content + b"junk" * 100), sample_rate=None)
    assert len(heard.samples) == 24_000


@pytest.mark.parametrize("look", LOOKS)
def test_gsm_cannot_be_wound_back(tmp_path: Path, look: Callable[..., object]) -> None:
    look(clip_of(tmp_path, encoded("WAV", "GSM610", rate=8_000)))


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "no numbers"), (-np.inf, "no numbers"), (8_000.0, "full scale is 1")]
)
@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE"])
def test_floats_of_another_scale_and_no_numbers(
    tmp_path: Path, look: Callable[..., object], value: float, words: str, kind: str
) -> None:
    """Also where they stand behind what is heard, and in `data check` as in a run."""
    samples = noise(3.0, 16_000, 1)
    samples[-5] = value
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV", subtype=kind)
    with pytest.raises(DataError, match=words):
        look(clip_of(tmp_path, buffer.getvalue()))


@pytest.mark.parametrize("form", ["{}", "file://{}", "file:{}", "local://{}", "local:{}"])
@pytest.mark.parametrize("look", LOOKS)
def test_a_pipe_by_any_address(tmp_path: Path, look: Callable[..., object], form: str) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(DataError, match="a pipe or a device"):
        look(AudioClip(form.format(tmp_path / "pipe.wav")))


@pytest.mark.parametrize("url", ["reference://x", "blockcache::file:///dev/zero", "x\0y.wav", "foo://x"])
@pytest.mark.parametrize("look", LOOKS)
def test_an_address_that_a_file_system_chokes_on(look: Callable[..., object], url: str) -> None:
    with pytest.raises(DataError, match="cannot be opened"):
        look(AudioClip(url))
