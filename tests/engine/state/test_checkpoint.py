"""Checkpoints: complete or absent, checked, pruned."""

import errno
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.distributed import run_ranks
from wavalign.engine.state.checkpoint import CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.errors import CheckpointError, RankLostError, StorageError

WORLD = World.single()


def write(folder: Path) -> None:
    """Two files, one in a folder of its own."""
    (folder / "state").mkdir()
    save_file({"weight": torch.arange(4.0)}, folder / "state" / "weights.safetensors")
    (folder / "cursor.json").write_text('{"position": 3}')


def store(path: Path, *, keep: int = 2, steps: tuple[int, ...] = ()) -> CheckpointStore:
    """A store that holds checkpoints of `steps`."""
    result = CheckpointStore(path / "checkpoints", keep=keep)
    for step in steps:
        result.save(step, write, meta={"fingerprint": "abc"}, world=WORLD)
    return result


def names(path: Path) -> list[str]:
    """What lies in the checkpoints' folder."""
    return sorted(entry.name for entry in (path / "checkpoints").iterdir())


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    assert checkpoints.latest() is None
    assert checkpoints.save(9, write, meta={"fingerprint": "abc"}, world=WORLD) == tmp_path / "checkpoints" / "step-9"
    store(tmp_path, steps=(10,))
    latest = checkpoints.latest()
    assert latest is not None
    assert (latest.step, latest.meta) == (10, {"fingerprint": "abc"}), "steps are numbers, not words"
    read: list[Path] = []
    checkpoints.load(latest, read.append, world=WORLD)
    assert read == [latest.folder]
    assert load_file(latest.folder / "state" / "weights.safetensors")["weight"].tolist() == [0, 1, 2, 3]
    manifest = json.loads((latest.folder / "checkpoint.json").read_text())
    assert sorted(manifest["files"]) == ["cursor.json", "state/weights.safetensors"]
    assert manifest["files"]["cursor.json"]["size"] == 15


def test_only_the_newest_stay(tmp_path: Path) -> None:
    store(tmp_path, keep=2, steps=(1, 2, 9, 10))
    assert names(tmp_path) == ["step-10", "step-9"]


def test_every_fifth_stays_beside_the_newest(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path / "checkpoints", keep=1, every=5)
    for step in (4, 5, 9, 10, 12):
        checkpoints.save(step, write, meta={}, world=WORLD)
    assert names(tmp_path) == ["step-10", "step-12", "step-5"]


def test_a_step_is_saved_again(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, steps=(4,))

    def other(folder: Path) -> None:
        (folder / "other.json").write_text("{}")

    checkpoints.save(4, other, meta={}, world=WORLD)
    latest = checkpoints.latest()
    assert latest is not None
    assert list(latest.files) == ["other.json"]
    assert names(tmp_path) == ["step-4"]


def killed(world: World, path: str, moment: str) -> None:
    """Die while the files are written, or just before they get their name."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write_and_die(folder: Path) -> None:
        write(folder)
        die()

    if moment == "rename":
        Path.rename = die  # type: ignore[assignment, method-assign]  # the process ends in it
    store(Path(path)).save(2, write_and_die if moment == "write" else write, meta={}, world=world)


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_killed_save_leaves_no_checkpoint(tmp_path: Path, moment: str) -> None:
    checkpoints = store(tmp_path, steps=(1,))
    with pytest.raises(AssertionError, match="the process died"):
        run_ranks(killed, 1, str(tmp_path), moment)
    assert names(tmp_path) == [".tmp-step-2", "step-1"]
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 1
    checkpoints.load(latest, lambda _: None, world=WORLD)
    store(tmp_path, steps=(2,))
    assert names(tmp_path) == ["step-1", "step-2"]


def damage(kind: str, folder: Path) -> str:
    """Harm a checkpoint; gives what the error must name."""
    weights = folder / "state" / "weights.safetensors"
    manifest = folder / "checkpoint.json"
    data = bytearray(weights.read_bytes())
    if kind == "bit":
        data[-3] ^= 1
        weights.write_bytes(data)
        return f"{weights} was changed"
    if kind == "torn":
        weights.write_bytes(data[:-1])
        return f"{weights} has {len(data) - 1} bytes instead of {len(data)}"
    if kind == "gone":
        weights.unlink()
        return f"{weights} is missing"
    if kind == "manifest gone":
        manifest.unlink()
        return f"{manifest} is missing"
    if kind == "manifest changed":
        manifest.write_text(manifest.read_text().replace("abc", "abd"))
        return f"{manifest} was changed"
    manifest.write_text(manifest.read_text()[:-10])
    return f"{manifest} cannot be read"


KINDS = ("bit", "torn", "gone", "manifest gone", "manifest changed", "manifest torn")


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_with_the_way_out(tmp_path: Path, kind: str) -> None:
    checkpoints = store(tmp_path, keep=3, steps=(1, 2, 3))
    damage("bit", tmp_path / "checkpoints" / "step-2")
    expected = damage(kind, tmp_path / "checkpoints" / "step-3")

    def never(_: Path) -> None:
        raise AssertionError("a damaged checkpoint was read")

    def resume() -> None:
        latest = checkpoints.latest()
        assert latest is not None
        checkpoints.load(latest, never, world=WORLD)

    with pytest.raises(CheckpointError) as caught:
        resume()
    assert "checkpoint of step 3 is damaged" in caught.value.message
    assert expected in caught.value.message
    assert "continue from step 1, which is intact" in caught.value.hint


def test_damage_without_a_way_back(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, steps=(3,))
    damage("bit", tmp_path / "checkpoints" / "step-3")
    latest = checkpoints.latest()
    assert latest is not None
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(latest, lambda _: None, world=WORLD)
    assert "there is no earlier checkpoint" in caught.value.hint


BIG = torch.zeros(1 << 18)


def write_json(folder: Path) -> None:
    (folder / "big.json").write_text("x" * (1 << 20))


WRITERS: dict[str, Callable[[Path], None]] = {
    "safetensors": lambda folder: save_file({"big": BIG}, folder / "big.safetensors"),
    "torch": lambda folder: torch.save(BIG, folder / "big.pt"),
    "json": write_json,
}


def confined(world: World, path: str) -> dict[str, str]:
    """Save 1 MiB where the system lets no file grow above 64 KiB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    messages = {}
    for name, writer in WRITERS.items():
        with pytest.raises(StorageError) as caught:
            store(Path(path)).save(2, writer, meta={}, world=world)
        messages[name] = caught.value.message
    return messages


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    store(tmp_path, steps=(1,))
    messages = run_ranks(confined, 1, str(tmp_path))[0]
    assert set(messages) == set(WRITERS)
    for message in messages.values():
        assert f"could not write {tmp_path / 'checkpoints' / 'step-2'}" in message
    assert names(tmp_path) == ["step-1"]


def test_no_space_says_what_to_do(tmp_path: Path) -> None:
    checkpoints = store(tmp_path, steps=(1,))

    def full(folder: Path) -> None:
        write(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="No space left") as caught:
        checkpoints.save(2, full, meta={}, world=WORLD)
    assert "free space" in caught.value.hint
    assert names(tmp_path) == ["step-1"]


def test_other_failures_are_not_called_storage(tmp_path: Path) -> None:
    def broken(_: Path) -> None:
        raise RuntimeError("the shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        store(tmp_path).save(2, broken, meta={}, world=WORLD)
    assert store(tmp_path).latest() is None


def both(world: World, path: str) -> str:
    """Every rank writes; one file is harmed; every rank sees it, whosever it is."""
    checkpoints = CheckpointStore(Path(path), keep=1)

    def own(folder: Path) -> None:
        for index in range(3):
            (folder / f"rank-{world.rank}-{index}.json").write_text(str(world.rank))

    checkpoints.save(1, own, meta={}, world=world)
    folder = checkpoints.save(2, own, meta={"seed": 7}, world=world)
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 2
    assert len(latest.files) == 6
    read: list[Path] = []
    checkpoints.load(latest, read.append, world=world)
    assert read == [folder]
    world.barrier()
    if world.is_first:
        (folder / "rank-1-1.json").write_text("7")
    world.barrier()
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(latest, read.append, world=world)
    return caught.value.message


def test_two_ranks(tmp_path: Path) -> None:
    first, second = run_ranks(both, 2, str(tmp_path / "checkpoints"))
    assert first == second
    assert "rank-1-1.json was changed" in first
    assert names(tmp_path) == ["step-2"]


def refused(world: World, path: str) -> str:
    """Rank 1's disk is full."""

    def own(folder: Path) -> None:
        if world.rank == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    try:
        CheckpointStore(Path(path), keep=1).save(5, own, meta={}, world=world)
    except StorageError:
        world.close()
        world.size = 1
        return "storage"
    except RankLostError:
        world.size = 1
        return "lost"
    return "saved"


def test_a_disk_that_is_full_for_one_rank(tmp_path: Path) -> None:
    assert run_ranks(refused, 2, str(tmp_path / "checkpoints")) == ["lost", "storage"]
    assert CheckpointStore(tmp_path / "checkpoints", keep=1).latest() is None
