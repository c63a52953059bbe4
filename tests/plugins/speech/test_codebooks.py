import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.plugins.spoken import say
from wavalign.errors import CheckpointError, StorageError
from wavalign.plugins.speech.codebooks import Codebooks, Settings, fit, k_means, load, save


def test_k_means_finds_two_clouds_and_repeats_itself() -> None:
    cloud = torch.tensor([[0.0, 0.0], [0.2, 0.0], [10.0, 10.0], [10.0, 10.2]])
    centroids = k_means(cloud, 2, generator=torch.Generator().manual_seed(3))
    assert sorted(map(tuple, centroids.tolist())) == [pytest.approx((0.1, 0.0)), pytest.approx((10.0, 10.1))]
    assert torch.equal(centroids, k_means(cloud, 2, generator=torch.Generator().manual_seed(3)))


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ValueError, match="3 points"):
        k_means(torch.zeros(3, 2), 4, generator=torch.Generator())


def test_a_saved_codec_is_the_same_codec(tmp_path: Path) -> None:
    settings = Settings(num_content=8, num_prosody=4)
    books = fit([say("it is twelve")], settings, generator=torch.Generator().manual_seed(0))
    save(books, tmp_path / "c.safetensors")
    again = load(tmp_path / "c.safetensors")
    assert again.settings == settings and again.fingerprint() == books.fingerprint()
    assert again.lookup(say("it is two")) == books.lookup(say("it is two"))
    other = fit([say("it is twelve")], settings, generator=torch.Generator().manual_seed(1))
    assert other.fingerprint() != books.fingerprint()


def test_a_codec_is_written_whole_and_for_whom_the_umask_lets(tmp_path: Path, open_mode: int) -> None:
    books = Codebooks(Settings(num_content=2, num_prosody=1), torch.zeros(2, 104), torch.zeros(1, 3))
    save(books, tmp_path / "c.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]
    assert stat.S_IMODE((tmp_path / "c.safetensors").stat().st_mode) == open_mode
    with pytest.raises(StorageError, match="absent"):
        save(books, tmp_path / "absent" / "c.safetensors")


def test_what_is_not_a_codec_is_refused(tmp_path: Path) -> None:
    save_file({"content": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    for name in ("other.safetensors", "torn.safetensors", "absent.safetensors"):
        with pytest.raises(CheckpointError, match=name):
            load(tmp_path / name)


def test_sizes_that_contradict_the_settings_are_refused(tmp_path: Path) -> None:
    metadata = {"format": "wavalign-source-filter-1", "settings": '{"num_content": 3, "num_prosody": 1}'}
    save_file({"content": torch.zeros(2, 104), "prosody": torch.zeros(1, 3)}, tmp_path / "c", metadata=metadata)
    with pytest.raises(CheckpointError, match=r"content is \(2, 104\), not \(3, 104\)"):
        load(tmp_path / "c")


def test_frames_take_pitch_and_level_from_prosody_and_voicing_from_content() -> None:
    books = fit([say("it is nineteen")], Settings(num_content=8, num_prosody=4), generator=torch.Generator())
    frames = books.frames([0, 1], [2, 2])
    assert frames.cepstra.shape == (8, 25)
    semitones = float(books.prosody[2, 0])
    voiced = frames.pitch[frames.pitch > 0]
    assert np.allclose(voiced, 100.0 * 2 ** (semitones / 12.0), rtol=1e-5)
