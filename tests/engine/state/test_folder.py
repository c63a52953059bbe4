"""Folders of runs: names, locks, the unfinished one."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from wavalign.engine.state.files import write_text
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import FolderBusyError, StorageError, UsageError


def test_new_folders_differ_and_sort_by_time(tmp_path: Path) -> None:
    folders = [RunFolder.create(tmp_path / "runs", name="demo") for _ in range(3)]
    assert len({folder.path for folder in folders}) == 3
    assert all(folder.path.parent == tmp_path / "runs" / "demo" and folder.path.is_dir() for folder in folders)


def test_an_exact_folder_holds_one_run(tmp_path: Path) -> None:
    folder = RunFolder.exact(tmp_path / "here")
    assert folder.path == tmp_path / "here"
    assert RunFolder.exact(folder.path).path == folder.path, "an empty folder is as good as none"
    folder.write_json(folder.plan, {"name": "demo"})
    with pytest.raises(UsageError, match="already holds a run") as caught:
        RunFolder.exact(folder.path)
    assert "--resume" in caught.value.hint


def test_the_latest_unfinished_run(tmp_path: Path) -> None:
    assert RunFolder.latest_unfinished(tmp_path, name="demo") is None
    runs = []
    for index in range(4):
        folder = RunFolder(tmp_path / "demo" / f"run-{index}")
        folder.path.mkdir(parents=True)
        if index != 3:
            # The last one never came as far as a plan.
            folder.write_json(folder.plan, {})
            os.utime(folder.plan, (1000 + index, 1000 + index))
        runs.append(folder)
    runs[2].finish(planned=8)
    assert json.loads(runs[2].finished.read_text())["planned"] == 8
    found = RunFolder.latest_unfinished(tmp_path, name="demo")
    assert found is not None
    assert found.path == runs[1].path
    assert RunFolder.latest_unfinished(tmp_path, name="other") is None


def test_a_held_folder_is_refused_and_a_dead_holder_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from wavalign.engine.state.folder import RunFolder;"
        "folder = RunFolder(Path(sys.argv[1])); folder.lock(); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    holder = subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    folder = RunFolder(tmp_path)
    with pytest.raises(FolderBusyError, match=f"process {holder.pid} on "):
        folder.lock()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    folder.lock()
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    with pytest.raises(FolderBusyError, match=f"process {os.getpid()} on "):
        RunFolder(tmp_path).lock()
    folder.unlock()
    folder.unlock()
    other = RunFolder(tmp_path)
    other.lock()
    other.unlock()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    write_text(path, "old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=r"plan\.json: .*No space left") as caught:
        write_text(path, "new")
    assert "free space" in caught.value.hint
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["plan.json"]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path, open_mode: int) -> None:
    for text in ("first", "second"):
        write_text(tmp_path / "report.html", text)
        assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == open_mode
