"""What an export takes along lies in the checkpoint, whatever its links say."""

import os
import socket
from pathlib import Path

import pytest

from tests.engine.run.test_exporting import STILL, public_checkpoint, trained
from wavalign.engine import api
from wavalign.engine.run.original_files import original_files
from wavalign.errors import CheckpointError, UsageError


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "encoder" / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "encoder" / "a.bin").write_bytes(b"a")
    (folder / "encoder" / "deep" / "b.bin").write_bytes(b"bb")
    (folder / ".git").mkdir()
    (folder / ".git" / "loop").symlink_to(folder)
    return folder


def names(folder: Path) -> list[str]:
    return [file.name for file in original_files(folder)]


def test_files_in_order(checkpoint: Path) -> None:
    assert names(checkpoint) == ["config.json", "encoder/a.bin", "encoder/deep/b.bin"]
    assert [file.size for file in original_files(checkpoint)] == [2, 1, 2]


def test_links_that_stay_inside_are_followed_once(checkpoint: Path) -> None:
    (checkpoint / "latest").symlink_to("encoder", target_is_directory=True)
    (checkpoint / "same.json").symlink_to("config.json")
    found = {file.name: file.path for file in original_files(checkpoint)}
    assert found["latest/deep/b.bin"] == checkpoint / "encoder" / "deep" / "b.bin"
    assert found["same.json"] == checkpoint / "config.json"
    (checkpoint / "encoder" / "other").symlink_to("deep")
    (checkpoint / "oldest").symlink_to("encoder", target_is_directory=True)
    with pytest.raises(CheckpointError, match="again"):
        names(checkpoint)


def test_the_hubs_cache_is_one_place(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc" / "part"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "123").write_bytes(b"content")
    (snapshot / "config.json").symlink_to("../../../blobs/123")
    assert names(snapshot) == ["config.json"]
    (snapshot / "refs").symlink_to(repository, target_is_directory=True)
    with pytest.raises(CheckpointError, match="out of the checkpoint"):
        names(snapshot)


@pytest.mark.parametrize(
    "target", [".", "..", "deep/..", "../encoder", "/", "/etc/passwd", "missing", "self", "../../x"]
)
def test_other_links_are_refused(checkpoint: Path, target: str) -> None:
    (checkpoint.parent / "x").write_text("private", encoding="utf-8")
    name = "self" if target == "self" else "link"
    (checkpoint / "encoder" / name).symlink_to(target)
    with pytest.raises(CheckpointError, match=f"encoder/{name} is a link") as caught:
        original_files(checkpoint)
    assert caught.value.hint


def test_pipes_and_sockets_are_refused(checkpoint: Path) -> None:
    os.mkfifo(checkpoint / "pipe")
    with pytest.raises(CheckpointError, match="pipe is neither a file nor a folder"):
        original_files(checkpoint)
    (checkpoint / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(checkpoint, os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{here}/socket")  # a socket's path is short
        finally:
            os.close(here)
        with pytest.raises(CheckpointError, match="socket is neither"):
            original_files(checkpoint)


def test_an_export_refuses_them_and_leaves_nothing(tmp_path: Path) -> None:
    source = public_checkpoint(tmp_path / "public", sharded=False)
    run = trained(tmp_path, source, STILL)
    (source / "loop").symlink_to(".", target_is_directory=True)
    with pytest.raises(CheckpointError, match="loop is a link"):
        api.export(run, tmp_path / "out")
    (source / "loop").unlink()
    (tmp_path / "private").mkdir()
    (source / "encoder").symlink_to(tmp_path / "private", target_is_directory=True)
    with pytest.raises(CheckpointError, match="out of the checkpoint"):
        api.export(run, tmp_path / "out")
    (source / "encoder").unlink()
    os.mkfifo(source / "vocoder" / "pipe")
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        api.export(run, tmp_path / "out")
    (source / "vocoder" / "pipe").unlink()
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
    (tmp_path / "out").symlink_to(tmp_path / "private", target_is_directory=True)
    with pytest.raises(UsageError, match="is a link"):
        api.export(run, tmp_path / "out")
    (tmp_path / "out").unlink()
    (source / "latest").symlink_to("vocoder", target_is_directory=True)
    api.export(run, tmp_path / "out")
    assert (tmp_path / "out" / "latest" / "model.pt").read_bytes() == (source / "vocoder" / "model.pt").read_bytes()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]
