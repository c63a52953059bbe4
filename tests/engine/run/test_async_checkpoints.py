"""Checkpoints that are written beside the steps: the same as those written at once, and as safe."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import run_ranks
from tests.e2e.runs import comparable, lines
from tests.engine.run.test_moved_runs import ZERO3, go, on, part
from tests.engine.run.test_survival import Cut, fail_at
from tests.engine.run.test_trainer import Signals, assert_same_run, run
from tests.toy.compiled import Change, compiled, put
from wavalign.engine.run.opening import Resume, open_run
from wavalign.engine.state.background import Background
from wavalign.engine.state.checkpoint import CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.step.operators import FUNCTIONS
from wavalign.errors import Interrupted, StorageError, WavAlignError

BESIDE: tuple[Change, ...] = (
    put("runtime.async_checkpoints", True),
    put("runtime.checkpoint_every", 1),
    put("runtime.keep_checkpoints", 3),
)


def slowed(monkeypatch: pytest.MonkeyPatch, done: threading.Event, *, step: int = 1) -> None:
    """The checkpoint of `step` is not complete before `done` is set."""
    complete = CheckpointStore.complete

    def slow(self: CheckpointStore, at: int, *arguments: Any, **named: Any) -> Path:
        if at == step:
            assert done.wait(60)
        return complete(self, at, *arguments, **named)

    monkeypatch.setattr(CheckpointStore, "complete", slow)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that writes its checkpoints at once."""
    return run(tmp_path_factory.mktemp("whole"), put("runtime.checkpoint_every", 1))


def test_the_same_run_and_the_same_checkpoints(whole: Path, tmp_path: Path) -> None:
    found = run(tmp_path, *BESIDE)
    assert_same_run(found, whole)
    assert sorted(path.name for path in (found / "checkpoints").iterdir()) == ["step-4", "step-5", "step-6"]
    for name in ("step-5", "step-6"):
        ours, theirs = (each / "checkpoints" / name / "training.safetensors" for each in (found, whole))
        assert ours.read_bytes() == theirs.read_bytes()


def test_steps_go_on_while_it_is_written(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step ends before the first one's checkpoint, which holds the weights of its own moment."""
    done, seen = threading.Event(), list[list[str]]()
    slowed(monkeypatch, done)

    class Watcher(Signals):
        def step(self, values: Any, steps_done: int) -> None:
            seen.append(sorted(path.name for path in (tmp_path / "run/checkpoints").glob("*")))
            if steps_done == 2:
                done.set()

    found = run(tmp_path, *BESIDE, put("runtime.keep_checkpoints", 9), observer=Watcher(-1))
    assert seen[1] == [".tmp-step-1"], "the second step was over, and the first one's checkpoint was not there"
    assert_same_run(found, whole)
    other = run(tmp_path / "again", put("steps", 1), put("runtime.checkpoint_every", 1))
    ours, theirs = (each / "checkpoints/step-1/training.safetensors" for each in (found, other))
    assert ours.read_bytes() == theirs.read_bytes(), "not of the weights that were trained meanwhile"


@pytest.mark.parametrize("at", [2, 4])
def test_cut_off_and_resumed(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    fail_at(monkeypatch, FUNCTIONS, "gate", at, Cut())
    with pytest.raises(Cut):
        run(tmp_path, *BESIDE)
    monkeypatch.undo()
    run(tmp_path, *BESIDE, resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_a_disk_that_refuses_ends_the_run_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the words of one that is written at once; the checkpoint before stays, nothing half is left."""
    messages = []
    for changes in ((), BESIDE):
        folder = tmp_path / str(len(changes))
        seal, seen = CheckpointStore._seal, 0

        def full(self: CheckpointStore, aside: Path, world: Any, original: Callable[..., Any] = seal) -> Any:
            nonlocal seen
            seen += 1
            if seen >= 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(self, aside, world)

        with monkeypatch.context() as patched:
            patched.setattr(CheckpointStore, "_seal", full)
            with pytest.raises(StorageError, match="No space left") as caught:
                run(folder, put("runtime.checkpoint_every", 1), *changes)
        messages.append(caught.value.message.replace(str(folder), ""))
        assert sorted(path.name for path in (folder / "run/checkpoints").glob("*")) == ["step-1"]
        steps = [line["step"] for line in lines(folder / "run/metrics.jsonl") if line["split"] == "train"]
        assert steps[-1] == (3 if changes else 2)
        assert "free space" in caught.value.hint
    assert messages[0] == messages[1] == "could not write /run/checkpoints/step-2: [Errno 28] No space left on device"


def test_a_signal_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    slowed(monkeypatch, done, step=2)
    threading.Timer(2.0, done.set).start()
    with pytest.raises(Interrupted) as caught:
        run(tmp_path, *BESIDE, observer=Signals(3))
    assert caught.value.checkpoint.endswith("step-3") and caught.value.lost == 0
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").glob("*")) == ["step-1", "step-2", "step-3"]


def killed_in_write(world: World, plan: str, folder: str, at: int) -> None:
    """The process is killed while the checkpoint of step `at` is written, which its steps do not wait for."""
    complete = CheckpointStore.complete

    def kill(self: CheckpointStore, step: int, write: Callable[[Path], None], **named: Any) -> Path:
        def write_and_die(aside: Path) -> None:
            write(aside)
            time.sleep(0.3)  # into the next step
            os.kill(os.getpid(), signal.SIGKILL)

        return complete(self, step, write_and_die if step == at else write, **named)

    CheckpointStore.complete = kill  # type: ignore[method-assign]  # the process is this run's alone
    part(world, plan, folder, False, -1)


@pytest.mark.parametrize("changes", [(), pytest.param(on(2, ZERO3), marks=pytest.mark.slow)])
def test_kill_9_while_it_is_written_leaves_the_one_before(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    go(tmp_path / "whole", *changes, put("runtime.checkpoint_every", 1))
    plan = compiled(tmp_path, *changes, *BESIDE)
    folder = open_run(plan, None, lambda text: None)
    folder.unlock()
    with pytest.raises(AssertionError, match="the process died"):
        run_ranks(killed_in_write, plan.processes, plan.to_json(), str(folder.path), 3)
    left = sorted(path.name for path in folder.checkpoints.glob("*"))
    assert left == [".tmp-step-3", "step-1", "step-2"]
    open_run(plan, Resume(), lambda text: None).unlock()
    run_ranks(part, plan.processes, plan.to_json(), str(folder.path), True, -1)
    assert_same_run(folder.path, tmp_path / "whole" / "run")


def two(world: World, path: str) -> str:
    """Every rank writes in a thread; the second one's disk is full the second time."""
    store, meeting, background = CheckpointStore(Path(path), keep=2), world.beside(), Background()
    for step in (1, 2):

        def write(folder: Path, step: int = step) -> None:
            if step == 2 and world.rank == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            time.sleep(0.2 * world.rank)
            (folder / f"rank-{world.rank}.json").write_text(str(step))

        def complete(step: int = step, write: Callable[[Path], None] = write) -> None:
            try:
                store.complete(step, write, meta={}, world=meeting)
            except BaseException:
                meeting.fail()  # type: ignore[attr-defined]  # of several ranks
                raise

        background.wait()
        store.prepare(step, world=world)
        background.start(complete)
        world.barrier()
    try:
        background.wait()
    except WavAlignError as error:
        return type(error).__name__
    return ""


def test_it_is_complete_only_with_every_rank(tmp_path: Path) -> None:
    assert run_ranks(two, 2, str(tmp_path / "checkpoints")) == ["RankLostError", "StorageError"]
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    latest = store.latest()
    assert latest is not None and latest.step == 1
    assert sorted(latest.files) == ["rank-0.json", "rank-1.json"]


def test_one_piece_of_work_at_a_time_and_its_error_once() -> None:
    background, order = Background(), list[int]()

    def work(number: int) -> None:
        time.sleep(0.2 / number)
        order.append(number)

    background.start(lambda: work(1))
    background.start(lambda: work(2))
    background.wait()
    assert order == [1, 2]

    def broken() -> None:
        raise ValueError("no")

    background.start(broken)
    assert background.ends_within(10) and background.failed
    with pytest.raises(ValueError, match="no"):
        background.wait()
    assert not background.failed
    background.wait()


@pytest.mark.slow
def test_zero_3_on_two_processes(tmp_path: Path) -> None:
    go(tmp_path / "whole", *on(2, ZERO3), put("runtime.checkpoint_every", 1))
    cut = tmp_path / "cut"
    with pytest.raises(AssertionError, match="the process died"):
        go(cut, *on(2, ZERO3), *BESIDE, killed_at=4)
    go(cut, *on(2, ZERO3), *BESIDE, resume=True)
    assert_same_run(cut / "run", tmp_path / "whole" / "run")
    assert comparable(cut / "run/metrics.jsonl")
