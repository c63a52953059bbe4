"""Features of sound are computed once, by content, and come back from the disk to the last bit."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from wavalign.errors import DataError
from wavalign.plugins import audio, clip_features
from wavalign.plugins.architectures.vita_audio.features import FeatureExtractor, Normalization, no_normalization
from wavalign.plugins.batch import AudioClip
from wavalign.plugins.clip_features import ClipFeatures, computed_by
from wavalign.storage.cache import uses_said


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    uses_said()
    monkeypatch.setenv("WAVALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def clip(tmp_path: Path) -> AudioClip:
    path = tmp_path / "one.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 16000)
    return AudioClip(str(path))


class Counted:
    """The extractor, and how often it was asked."""

    def __init__(self) -> None:
        self.extractor, self.calls = FeatureExtractor(no_normalization()), 0

    def __call__(self, clip: AudioClip, content: bytes) -> Tensor:
        self.calls += 1
        return self.extractor(clip, content)


def features(extract: Counted, identity: str = "one") -> ClipFeatures:
    return ClipFeatures(extract, lambda: identity)


def test_computed_once_in_memory_on_disk_and_under_another_name(clip: AudioClip, tmp_path: Path, folder: Path) -> None:
    extract, plain = Counted(), FeatureExtractor(no_normalization())(clip)
    here = features(extract)
    assert not folder.exists()  # until somebody asks, nothing is written
    cold, at_hand = here(clip), here(clip)
    copy = shutil.copy(clip.url, tmp_path / "copy.wav")
    copied, warm = here(AudioClip(str(copy))), features(extract)(clip)
    assert all(torch.equal(each, plain) and each.dtype == torch.float32 for each in (cold, at_hand, copied, warm))
    assert extract.calls == 1
    assert uses_said() == [f"features of sound: 1 computed, 2 read from {folder / 'features.sqlite'}"]
    assert warm.clone().requires_grad_().requires_grad  # memory of its own that may be learned from


def test_another_extractor_or_another_sound_is_another_entry(clip: AudioClip) -> None:
    extract = Counted()
    features(extract)(clip)
    features(extract, "two")(clip)
    assert extract.calls == 2
    soundfile.write(clip.url, np.full(8000, 0.1), 16000)
    found = features(extract)(clip)
    assert extract.calls == 3
    assert torch.equal(found, extract.extractor(clip))


def test_a_damaged_entry_is_computed_anew(clip: AudioClip, folder: Path) -> None:
    extract = Counted()
    wanted = features(extract)(clip)
    with sqlite3.connect(folder / "features.sqlite") as database:
        (value,) = database.execute("SELECT numbers FROM features").fetchone()
        database.execute("UPDATE features SET numbers = ?", (value[:-1] + b"\x7f",))
    assert torch.equal(features(extract)(clip), wanted)
    assert extract.calls == 2
    assert "1 of them anew, for their entries were damaged" in uses_said()[0]


def test_without_room_on_disk_the_numbers_are_the_same(clip: AudioClip, monkeypatch: pytest.MonkeyPatch) -> None:
    extract = Counted()
    kept = features(extract)(clip)
    monkeypatch.setenv("WAVALIGN_CACHE_GB", "0")
    extract_again = Counted()
    assert torch.equal(features(extract_again, "another")(clip), kept)
    assert torch.equal(features(extract_again, "another")(clip), kept)
    assert extract_again.calls == 2


def test_in_memory_only_so_many_bytes_stay(clip: AudioClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_features, "AT_HAND", 2 * 9 * 560 * 4)  # two clips of half a second
    read: list[str] = []
    original = audio.read_bytes

    def counted(clip: AudioClip) -> bytes:
        read.append(Path(clip.url).name)
        return original(clip)

    monkeypatch.setattr(audio, "read_bytes", counted)
    names = {name: AudioClip(str(shutil.copy(clip.url, tmp_path / name))) for name in ("a.wav", "b.wav", "c.wav")}
    extract = Counted()
    here = features(extract)
    for name in ("a.wav", "b.wav", "a.wav", "c.wav", "a.wav", "b.wav"):
        here(names[name])
    assert read == ["a.wav", "b.wav", "c.wav", "b.wav"]  # b went when c came, as a had been asked for since
    assert extract.calls == 1  # they are one sound


def test_features_may_be_learned_from_wherever_they_were_first_asked_for(clip: AudioClip) -> None:
    for _ in range(2):  # computed, then read
        with torch.inference_mode():
            found = features(Counted())(clip)
        assert not found.is_inference()


def test_a_bad_sound_is_named_every_time(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    here = features(Counted())
    for _ in range(2):
        with pytest.raises(DataError, match=r"bad\.wav"):
            here(AudioClip(str(tmp_path / "bad.wav")))


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(torch, "get_num_threads", lambda: 77),
        lambda patch: patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ANOTHER"),
        lambda patch: patch.setattr(clip_features, "version", lambda name: "99"),
    ],
    ids=["threads", "processor", "libraries"],
)
def test_what_numbers_hang_on_is_in_the_identity(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    before = computed_by((__file__,), ("torch",), "x")
    assert before == computed_by((__file__,), ("torch",), "x")
    assert before not in (computed_by((audio.__file__,), ("torch",), "x"), computed_by((__file__,), ("torch",), "y"))
    change(monkeypatch)
    assert before != computed_by((__file__,), ("torch",), "x")


def test_other_statistics_are_another_extractor() -> None:
    plain = no_normalization()
    other = Normalization(plain.shift, plain.scale, plain.text + " ")
    assert FeatureExtractor(plain).identity() != FeatureExtractor(other).identity()
