"""A run's copy in an object store: complete or no checkpoint, compared, tried again, and enough to go on from."""

import json
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.engine.run.test_pair_rounds import assert_same as assert_same_rounds
from tests.engine.run.test_pair_rounds import staged
from tests.engine.run.test_survival import Cut, fail_at
from tests.engine.run.test_trainer import Signals, assert_same_run, run
from tests.toy.compiled import Change, compiled, problems, put
from wavalign.engine import api
from wavalign.engine.api import Resume
from wavalign.engine.run import checkpoint_writing
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.stages.dataset import DatasetPart
from wavalign.engine.step.operators import FUNCTIONS
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import CheckpointError, Interrupted, PreflightError, UsageError
from wavalign.storage import copies
from wavalign.storage.copies import Copies, CopyError

EVERY = put("runtime.checkpoint_every", 1)


class Shaky(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store that fails when it is told to."""

    protocol = "shaky"
    store: dict[str, Any] = {}  # noqa: RUF012 - fsspec's own way
    pseudo_dirs = [""]  # noqa: RUF012
    fail_next = 0
    spoil = False
    written: list[str] = []  # noqa: RUF012
    answers = threading.Event()
    """Not set, no file of the first step's checkpoint ends."""
    hangs = threading.Event()
    pause = 0.0
    """Seconds before each file of a checkpoint."""

    def _open(self, path: str, mode: str = "rb", **named: Any) -> Any:
        if Shaky.fail_next:
            Shaky.fail_next -= 1
            raise ConnectionError("down")
        if "w" in mode:
            Shaky.written.append(path)
            if "/checkpoints/" in path:
                time.sleep(Shaky.pause)
            if "/step-1/" in path:
                Shaky.hangs.set()
                assert Shaky.answers.wait(60)
        elif Shaky.spoil and "training" in path:
            content = bytearray(self.store[path].getvalue())
            content[-1] ^= 1
            self.store[path].seek(0)
            self.store[path].write(bytes(content))
        return super()._open(path, mode=mode, **named)

    def find(self, path: str, *arguments: Any, **named: Any) -> Any:
        if Shaky.fail_next:
            raise ConnectionError("down")
        return super().find(path, *arguments, **named)

    def cat_file(self, path: str, *arguments: Any, **named: Any) -> Any:
        if Shaky.fail_next:
            raise ConnectionError("down")
        return super().cat_file(path, *arguments, **named)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a store that is empty."""
    fsspec.register_implementation("shaky", Shaky, clobber=True)
    monkeypatch.setattr(copies, "FIRST_PAUSE", 0.001)
    Shaky.fail_next, Shaky.spoil, Shaky.pause = 0, False, 0.0
    Shaky.written.clear()
    Shaky.answers.set()
    Shaky.hangs.clear()
    yield f"shaky://bucket/{uuid.uuid4().hex}"
    Shaky.store.clear()
    Shaky.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), EVERY)


def stored(address: str) -> list[str]:
    return sorted(Copies(address).names())


def cut(folder: Path, *changes: Change, at: int = 4) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, FUNCTIONS, "gate", at, Cut())
        with pytest.raises(Cut):
            run(folder, EVERY, *changes)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("named", ["", "checkpoints/step-2"])
def test_goes_on_on_an_empty_machine(whole: Path, tmp_path: Path, address: str, beside: bool, named: str) -> None:
    there = (put("runtime.checkpoint_store", address), put("runtime.async_checkpoints", beside))
    cut(tmp_path, *there)
    kept = [name for name in stored(address) if name.endswith("checkpoint.json")]
    assert kept == ["checkpoints/step-2/checkpoint.json", "checkpoints/step-3/checkpoint.json"], "those kept here"
    shutil.rmtree(tmp_path / "run")
    said: list[str] = []
    watcher = Signals(-1)
    at = f"{address}/{named}" if named else ""  # the recipe names the store
    api.run(compiled(tmp_path, EVERY, *there), resume=Resume(at=at), observer=watcher)
    said += watcher.said
    assert any(f"with its checkpoint {named.rpartition('/')[2] or 'step-3'}" in text for text in said)
    assert_same_run(tmp_path / "run", whole)
    assert "model/model.safetensors" in stored(address)


def test_the_manifest_is_the_last_of_a_checkpoint_and_its_removal_the_first(tmp_path: Path, address: str) -> None:
    run(tmp_path, EVERY, put("runtime.checkpoint_store", address), put("steps", 3))
    for step in (1, 2, 3):
        mine = [path for path in Shaky.written if f"/checkpoints/step-{step}/" in path]
        assert mine[-1].endswith("checkpoint.json") and sum(path.endswith("checkpoint.json") for path in mine) == 1
    assert {name.split("/")[1] for name in stored(address) if name.startswith("checkpoints")} == {"step-2", "step-3"}


def test_a_folder_elsewhere_is_a_store(tmp_path: Path) -> None:
    """Such as one on a disk of the network; no empty folders are left in it."""
    there = tmp_path / "there"
    done = run(tmp_path, EVERY, put("runtime.checkpoint_store", f"file://{there}"))
    kept = sorted(path.name for path in (done / "checkpoints").iterdir())
    assert sorted(path.name for path in (there / "checkpoints").iterdir()) == kept == ["step-5", "step-6"]


def test_a_store_that_is_down_costs_nothing_but_the_copy(whole: Path, tmp_path: Path, address: str) -> None:
    """It is said once, counted, and tried again."""

    class Watcher(Signals):
        def step(self, values: Any, steps_done: int) -> None:
            Shaky.fail_next = 10**6 if steps_done in (2, 3) else 0

    watcher = Watcher(-1)
    plan = compiled(tmp_path, EVERY, put("runtime.checkpoint_store", address))
    api.run(plan, resume=False, observer=watcher)
    assert_same_run(tmp_path / "run", whole)
    assert sum("nothing is lost here" in text for text in watcher.said) == 1
    assert any(f"{address} takes copies again; " in text for text in watcher.said)
    assert "checkpoints/step-6/checkpoint.json" in stored(address)


def test_a_store_that_is_down_to_the_end_is_said(tmp_path: Path, address: str) -> None:
    Shaky.fail_next = 10**6
    watcher = Signals(-1)
    plan = compiled(tmp_path, EVERY, put("runtime.checkpoint_store", address), put("steps", 2))
    found = api.run(plan, resume=False, observer=watcher)
    assert (found / "checkpoints/step-2/checkpoint.json").exists() and (found / "finished.json").exists()
    assert any("copies are missing there" in text for text in watcher.said)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("later", [False, True])
def test_a_store_that_hangs_costs_no_checkpoint_of_a_run_that_is_asked_to_end(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, later: bool, beside: bool
) -> None:
    """Asked within a step, or `later`, while its checkpoint waits for the copy of an earlier one."""
    monkeypatch.setattr(checkpoint_writing, "COPY_WAIT", 0.5)
    Shaky.answers.clear()

    class Watcher(Signals):
        def step(self, values: Any, steps_done: int) -> None:
            if steps_done == 2:
                assert Shaky.hangs.wait(60)
                timer = threading.Timer(2.0 if later else 0.0, lambda: os.kill(os.getpid(), signal.SIGTERM))
                timer.start()
                if not later:
                    timer.join()

    watcher = Watcher(-1)
    there = (put("runtime.checkpoint_store", address), put("runtime.async_checkpoints", beside))
    try:
        with pytest.raises(Interrupted):
            api.run(compiled(tmp_path, EVERY, *there), resume=False, observer=watcher)
        assert any(f"{address} does not answer" in text for text in watcher.said)
        assert (tmp_path / "run/checkpoints/step-2/checkpoint.json").exists()
    finally:
        Shaky.answers.set()
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join(60)


@pytest.mark.parametrize("beside", [False, True])
def test_a_run_that_is_asked_to_end_copies_its_last_checkpoint_to_a_slow_store(
    tmp_path: Path, address: str, beside: bool
) -> None:
    """The copy before it is broken off, and this one is waited for."""
    Shaky.pause = 0.5
    there = (put("runtime.checkpoint_store", address), put("runtime.async_checkpoints", beside))
    with pytest.raises(Interrupted):
        api.run(compiled(tmp_path, EVERY, *there), resume=False, observer=Signals(2))
    assert "checkpoints/step-2/checkpoint.json" in stored(address)


@pytest.mark.parametrize("beside", [False, True])
def test_a_run_that_fails_ends_after_the_copy_of_its_last_checkpoint(
    tmp_path: Path, address: str, beside: bool
) -> None:
    """So that nothing is copied any more when another run begins in its place."""
    Shaky.pause = 0.5
    cut(tmp_path, put("runtime.checkpoint_store", address), put("runtime.async_checkpoints", beside))
    assert "checkpoints/step-3/checkpoint.json" in stored(address)
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoint"]


def test_one_failure_is_tried_again(tmp_path: Path, address: str) -> None:
    (tmp_path / "a").write_bytes(b"0123")
    Shaky.fail_next = copies.TRIES - 1
    Copies(address).put(tmp_path / "a", "x/a")
    assert Copies(address).names() == {"x/a": 4}
    Shaky.fail_next = copies.TRIES
    with pytest.raises(CopyError, match="ConnectionError"):
        Copies(address).put(tmp_path / "a", "x/b")
    assert "x/b" not in Copies(address).names()


def test_what_the_store_changes_is_no_copy(tmp_path: Path, address: str) -> None:
    Shaky.spoil = True
    watcher = Signals(-1)
    plan = compiled(tmp_path, EVERY, put("runtime.checkpoint_store", address), put("steps", 2))
    api.run(plan, resume=False, observer=watcher)
    assert any("what came back is not what was sent" in text for text in watcher.said)
    assert not [name for name in stored(address) if name.endswith("checkpoint.json")], "no manifest: no checkpoint"


def test_a_flipped_bit_is_found_at_the_resume(tmp_path: Path, address: str) -> None:
    there = put("runtime.checkpoint_store", address)
    cut(tmp_path, there)
    shutil.rmtree(tmp_path / "run")
    path = next(path for path in Shaky.store if path.endswith("step-3/training.safetensors"))
    content = bytearray(Shaky.store[path].getvalue())
    content[-1] ^= 1
    Shaky.store[path].seek(0)
    Shaky.store[path].write(bytes(content))
    with pytest.raises(CheckpointError, match="checkpoint of step 3 is damaged"):
        api.run(compiled(tmp_path, EVERY, there), resume=Resume(at=address))


def test_another_runs_copy_is_not_written_over(tmp_path: Path, address: str) -> None:
    there = put("runtime.checkpoint_store", address)
    run(tmp_path / "one", EVERY, there, put("steps", 1))
    before = Copies(address).text("copied.json")
    with pytest.raises(PreflightError, match="holds the copy of another run"):
        run(tmp_path / "two", EVERY, there, put("steps", 1))
    assert Copies(address).text("copied.json") == before
    with pytest.raises(UsageError, match="already holds a run"):
        api.run(compiled(tmp_path / "one", EVERY, there), resume=Resume(at=address))


def test_places_without_a_run(tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError, match="holds no copy of a run"):
        api.run(compiled(tmp_path, EVERY), resume=Resume(at=address))
    run(tmp_path / "one", EVERY, put("runtime.checkpoint_store", address), put("steps", 1))
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="has no checkpoint step-7") as caught:
        api.run(compiled(tmp_path / "other", EVERY), resume=Resume(at=f"{address}/checkpoints/step-7"))
    assert "it has: step-1" in caught.value.hint
    (problem,) = problems(tmp_path, put("runtime.checkpoint_store", "s3://key@bucket/run"))
    assert problem.path == "runtime.checkpoint_store"


def test_a_local_place(whole: Path, tmp_path: Path) -> None:
    there = put("runtime.checkpoint_store", f"file://{tmp_path}/far/away")
    cut(tmp_path, there)
    assert json.loads((tmp_path / "far/away/plan.json").read_text())["name"] == "toy"
    shutil.rmtree(tmp_path / "run")
    api.run(compiled(tmp_path, EVERY, there), resume=Resume(at=f"file://{tmp_path}/far/away"))
    assert_same_run(tmp_path / "run", whole)


def test_a_finished_run_is_whole_there_and_goes_on_from_an_earlier_checkpoint(
    whole: Path, tmp_path: Path, address: str
) -> None:
    there = (put("runtime.checkpoint_store", address), put("runtime.report", True))
    run(tmp_path, EVERY, *there)
    assert Shaky.written[-1].endswith("/finished.json")
    assert Copies(address).text("report.html") == (tmp_path / "run/report.html").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(UsageError, match="is finished"):
        api.run(compiled(tmp_path, EVERY, *there), resume=Resume(at=address))
    shutil.rmtree(tmp_path / "run")
    Shaky.written.clear()
    api.run(compiled(tmp_path, EVERY, *there), resume=Resume(at=f"{address}/checkpoints/step-5"))
    assert_same_run(tmp_path / "run", whole)
    assert any(path.endswith("checkpoints/step-6/training.safetensors") for path in Shaky.written), "trained again"


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("rounds"), *staged())


@pytest.mark.parametrize(
    ("owner", "method", "at", "seen"),
    [
        (DatasetPart, "append", 5, "round-1.sample"),  # pairing in the first round: there is no checkpoint yet
        (Measuring, "measure", 1, "round-1.train"),
        (DatasetPart, "append", 8, "round-1.measure"),  # sampling in the second
        (StepExecutor, "step", 4, "round-2.pair"),
    ],
)
def test_rounds_go_on_on_an_empty_machine(
    rounds: Path, tmp_path: Path, address: str, owner: Any, method: str, at: int, seen: str
) -> None:
    """With every stage that was complete, though no checkpoint followed it."""
    there = (put("runtime.checkpoint_store", address), *staged(), EVERY)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, owner, method, at, Cut())
        with pytest.raises(Cut):
            run(tmp_path, *there)
    here = {path.parent.name for path in (tmp_path / "run/stages").glob("*/complete.json")}
    kept = {name.split("/")[1] for name in stored(address) if name.startswith("stages/")}
    assert here <= kept and seen in here
    shutil.rmtree(tmp_path / "run")
    made, append = list[str](), DatasetPart.append

    def noting(part: DatasetPart, records: Any) -> None:
        made.append(part.path.parent.parent.name)
        append(part, records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatasetPart, "append", noting)
        api.run(compiled(tmp_path, *there), resume=Resume())
    assert not set(made) & here, "nothing is made twice"
    assert_same_rounds(tmp_path / "run", rounds)


def test_what_was_sampled_is_copied_when_a_run_is_stopped(rounds: Path, tmp_path: Path, address: str) -> None:
    append, chunks = DatasetPart.append, list[str]()

    def stopping(part: DatasetPart, records: Any) -> None:
        append(part, records)
        chunks.append(part.name)
        if len(chunks) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    there = (put("runtime.checkpoint_store", address), *staged(), EVERY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatasetPart, "append", stopping)
        with pytest.raises(Interrupted):
            run(tmp_path, *there)
        shutil.rmtree(tmp_path / "run")
        api.run(compiled(tmp_path, *there), resume=Resume())
    marks = [json.loads(path.read_text()) for path in rounds.glob("stages/*/part-*.json")]
    assert len(chunks) == sum(mark["chunks"] for mark in marks) > 2, "none is made twice"
    assert_same_rounds(tmp_path / "run", rounds)


def test_a_place_whose_run_left_nothing_is_free(tmp_path: Path, address: str) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    there = (put("runtime.checkpoint_store", address), EVERY)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, FUNCTIONS, "gate", 1, Cut())
        with pytest.raises(Cut):
            run(tmp_path / "one", *there)
    assert stored(address) == ["copied.json"]
    with pytest.raises(UsageError, match="holds no copy of a run"):
        api.run(compiled(tmp_path / "two", *there), resume=Resume())
    run(tmp_path / "two", *there)
    assert "finished.json" in stored(address)
