"""What every codec owes the rest: one suite over small instances of all of them.

A new codec joins by a line in `makers.MAKERS`. What only one has is tested beside it, in tests/plugins/codecs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.codecs.makers import MAKERS, Maker, noise
from wavalign.engine.feeding.feeds import CodeCache
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import AudioClip, Waveform
from wavalign.plugins.catalog import CATALOG


@dataclass(frozen=True, slots=True)
class Specimen:
    """A codec, how it was made and where."""

    codec: Codec
    maker: Maker
    folder: Path
    made: dict[int, Codec] = field(default_factory=dict)

    @property
    def size(self) -> float:
        """Samples in a frame."""
        return self.codec.sample_rate / self.codec.frame_rate

    def sound(self, frames: float = 12.5, seed: int = 0) -> Waveform:
        return noise(round(frames * self.size), self.codec.sample_rate, seed)

    def again(self, seed: int) -> Codec:
        """Another instance, in a folder of its own; from seed 0 its files are those of the first."""
        if seed not in self.made:
            folder = self.folder.with_name(f"{self.folder.name}-again-{seed}")
            folder.mkdir()
            self.made[seed] = self.maker.make(folder, seed)
        return self.made[seed]


@pytest.fixture(scope="module", params=sorted(MAKERS))
def specimen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    """One instance for all tests, which leave it as it was."""
    maker, folder = MAKERS[request.param], tmp_path_factory.mktemp("codec")
    return Specimen(maker.make(folder, 0), maker, folder)


def test_every_built_in_codec_is_here() -> None:
    assert {name.split(",")[0] for name in MAKERS} == {type_ for kind, type_ in CATALOG if kind == "codec"}


def test_another_rate_is_refused(specimen: Specimen) -> None:
    rate = specimen.codec.sample_rate
    with pytest.raises(DataError, match=f"takes {rate} Hz, the sound has {rate + 1}"):
        specimen.codec.encode(Waveform(np.zeros(800, np.float32), rate + 1))


def test_ids_are_in_range_and_tell_more_than_one_sound(specimen: Specimen) -> None:
    codes = specimen.codec.encode(specimen.sound(40))
    assert all(type(code) is int and 0 <= code < specimen.codec.num_codes for code in codes)
    assert len(set(codes)) >= 2 * specimen.codec.codes_per_frame
    assert codes != specimen.codec.encode(specimen.sound(40, seed=1))


def test_each_code_book_has_a_range_of_its_own_in_the_order_of_a_frame(specimen: Specimen) -> None:
    codec, count = specimen.codec, specimen.codec.codes_per_frame
    codes = [code for seed in range(3) for code in codec.encode(specimen.sound(40, seed))]
    books = [codes[book::count] for book in range(count)]
    assert all(max(lower) < min(higher) for lower, higher in pairwise(books))


def test_ids_depend_on_the_sound_alone(specimen: Specimen) -> None:
    """Not on what was encoded before, nor on the instance."""
    codec, sounds = specimen.codec, [specimen.sound(frames, seed) for seed, frames in enumerate((12.5, 3, 30, 7.2))]
    first = [codec.encode(sound) for sound in sounds]
    assert [codec.encode(sound) for sound in reversed(sounds)][::-1] == first
    assert [specimen.again(0).encode(sound) for sound in sounds] == first


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_length(specimen: Specimen, frames: int, extra: int) -> None:
    codec, count = specimen.codec, round(frames * specimen.size) + extra
    codes = codec.encode(noise(count, codec.sample_rate))
    assert len(codes) == specimen.maker.frames(count) * codec.codes_per_frame
    assert abs(len(codes) / codec.codes_per_frame - count / specimen.size) < 1


def test_decoding_gives_sound_of_the_right_length_at_a_rate_of_its_own(specimen: Specimen) -> None:
    codec = specimen.codec
    codes = codec.encode(specimen.sound(12.5))
    sound = codec.decode(codes)
    assert sound.samples.dtype == np.float32 and sound.samples.ndim == 1
    assert np.isfinite(sound.samples).all() and np.abs(sound.samples).max() > 0
    assert sound.seconds == pytest.approx(len(codes) / codec.codes_per_frame / codec.frame_rate, rel=1e-6)
    assert np.array_equal(codec.decode(codes).samples, sound.samples), "the same codes are the same sound"


def test_no_sound_is_no_code_and_no_code_no_sound(specimen: Specimen) -> None:
    codec = specimen.codec
    assert codec.encode(Waveform(np.zeros(0, np.float32), codec.sample_rate)) == []
    nothing = codec.decode([])
    assert len(nothing.samples) == 0 and nothing.sample_rate == codec.decode(codec.encode(specimen.sound())).sample_rate


def test_malformed_codes_sound_as_far_as_they_are_well_formed(specimen: Specimen) -> None:
    codec = specimen.codec
    codes, per_frame, beyond = codec.encode(specimen.sound(6)), codec.codes_per_frame, codec.num_codes
    whole = codec.decode(codes).samples

    def sounds_whole(broken: Sequence[int]) -> bool:
        return np.array_equal(codec.decode(broken).samples, whole)

    assert sounds_whole([beyond, -1, *codes[:per_frame], beyond + 5, *codes[per_frame:]])
    assert sounds_whole([*codes, *codes[: per_frame - 1]]), "a frame that was cut off"
    assert sounds_whole([*codes[1:per_frame], *codes]), "a frame whose beginning is missing"
    assert len(codec.decode([beyond, -3]).samples) == 0
    drawn = np.random.default_rng(0).integers(-2, beyond + 2, size=(5, 31)).tolist()
    assert all(np.isfinite(codec.decode(row).samples).all() for row in drawn)


def test_the_fingerprint_is_that_of_the_weights(specimen: Specimen) -> None:
    fingerprint = specimen.codec.fingerprint()
    assert specimen.codec.fingerprint() == specimen.again(0).fingerprint() == fingerprint
    assert specimen.again(1).fingerprint() != fingerprint


def test_codes_of_a_dataset_are_computed_once_for_each_codec(
    specimen: Specimen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, codec = AudioClip(str(tmp_path / "one.wav")), specimen.codec
    audio.write(specimen.sound(20), clip.url)
    expected = codec.encode(audio.read(clip, sample_rate=codec.sample_rate))
    assert list(CodeCache(codec, tmp_path / "codes.sqlite")(clip)) == expected
    other, third = specimen.again(1), specimen.again(0)
    heard = audio.read(clip, sample_rate=other.sample_rate)
    assert list(CodeCache(other, tmp_path / "codes.sqlite")(clip)) == other.encode(heard)

    def computed(waveform: Waveform) -> list[int]:
        raise AssertionError("the codes are in the cache")

    monkeypatch.setattr(third, "encode", computed)
    assert list(CodeCache(third, tmp_path / "codes.sqlite")(clip)) == expected
