"""Stages, evaluations, signals and resumes, without starting processes."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.distributed import run_ranks
from tests.e2e.runs import comparable, lines
from tests.toy.compiled import Change, compiled, put
from wavalign.engine import api
from wavalign.engine.compile.plan import Plan
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.run.observers import Observer, RunInfo
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.state.checkpoint import CheckpointStore
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import FolderBusyError, Interrupted, ResumeError, UsageError

STAGED: tuple[Change, ...] = (
    put("stages", [{"name": "warm", "steps": 3}, {"name": "align", "steps": 3}]),
    put("evaluation.every", 2),
    put("runtime.checkpoint_every", 2),
)


class Stop(BaseException):
    """As sudden as a kill."""


def run(folder: Path, *changes: Change, resume: bool = False, observer: Observer | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    return api.run(compiled(folder, *changes), resume=resume, observer=observer)


def assert_same(found: Path, wanted: Path) -> None:
    for name in ("metrics.jsonl", "rollouts.jsonl", "evaluation.jsonl"):
        assert comparable(found / name) == comparable(wanted / name)
    for stage in ("warm", "align"):
        ours, theirs = (load_file(each / "stages" / stage / "model" / "model.safetensors") for each in (found, wanted))
        assert all(ours[name].equal(theirs[name]) for name in theirs)


def assert_same_run(found: Path, wanted: Path) -> None:
    """The same lines, and the same model to the last bit."""
    for name in ("metrics.jsonl", "rollouts.jsonl", "evaluation.jsonl"):
        assert comparable(found / name) == comparable(wanted / name)
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (found, wanted))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def assert_resumes(folder: Path, *changes: Change, monkeypatch: pytest.MonkeyPatch, at: int = 3) -> None:
    """A run that is killed before step `at` (from 0) goes on as one that never was; a checkpoint every two steps."""
    changes = (*changes, put("runtime.checkpoint_every", 2))
    uncut, step = run(folder / "whole", *changes), StepExecutor.step

    def killed(self: StepExecutor, index: int) -> Any:
        if index == at:
            raise Stop
        return step(self, index)

    with monkeypatch.context() as patched:
        patched.setattr(StepExecutor, "step", killed)
        with pytest.raises(Stop):
            run(folder / "cut", *changes)
    assert_same_run(run(folder / "cut", *changes, resume=True), uncut)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages that went through."""
    return run(tmp_path_factory.mktemp("whole"), *STAGED)


def test_what_is_measured_when(whole: Path) -> None:
    found = [(line["stage"], line["step"], line["split"]) for line in lines(whole / "metrics.jsonl")]
    assert found == [
        ("warm", 0, "heldout"),
        ("warm", 1, "train"),
        ("warm", 2, "train"),
        ("warm", 2, "heldout"),
        ("warm", 3, "train"),
        ("warm", 3, "heldout"),
        ("align", 3, "heldout"),
        ("align", 4, "train"),
        ("align", 5, "train"),
        ("align", 5, "heldout"),
        ("align", 6, "train"),
        ("align", 6, "heldout"),
    ]


def test_a_stage_starts_with_the_weights_of_the_one_before(whole: Path) -> None:
    end, start = lines(whole / "metrics.jsonl")[5:7]
    assert (end["accuracy"], end["accuracy/ceiling"]) == (start["accuracy"], start["accuracy/ceiling"])
    final, last = (load_file(whole / name / "model.safetensors") for name in ("model", "stages/align/model"))
    assert all(final[name].equal(last[name]) for name in last)


@pytest.mark.parametrize("at", range(1, 9))
def test_stopped_anywhere_and_resumed(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """At every evaluation, and at each end of a stage: nothing is lost, nothing is there twice."""
    seen = 0

    def counted(original: Any) -> Any:
        def call(self: object, *arguments: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                raise Stop
            original(self, *arguments)

        return call

    monkeypatch.setattr(Measuring, "evaluate", counted(Measuring.evaluate))
    monkeypatch.setattr(Trainer, "export", counted(Trainer.export))
    with pytest.raises(Stop):
        run(tmp_path / "cut", *STAGED)
    run(tmp_path / "cut", *STAGED, resume=True)
    assert_same(tmp_path / "cut" / "run", whole)


def test_stopped_between_two_stages_and_resumed(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage is complete, the second has no checkpoint: the first one's last lines must stay."""
    build = Trainer._stage

    def stop_at_align(self: Trainer, stage: Any) -> None:
        if stage.name == "align":
            raise Stop
        build(self, stage)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_stage", stop_at_align)
        with pytest.raises(Stop):
            run(tmp_path / "cut", *STAGED)
    run(tmp_path / "cut", *STAGED, resume=True)
    assert_same(tmp_path / "cut" / "run", whole)


class Signals(Observer):
    """Sends this process a signal when a step is told, and keeps what is said."""

    def __init__(self, at: int) -> None:
        self.at, self.said = at, list[str]()

    def start(self, run: RunInfo) -> None:
        return

    def stage(self, name: str, steps: int) -> None:
        return

    def step(self, values: Any, steps_done: int) -> None:
        if steps_done == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def evaluation(self, split: str, values: Any, when: str) -> None:
        if self.at == 0:
            os.kill(os.getpid(), signal.SIGINT)

    def message(self, text: str) -> None:
        self.said.append(text)

    def progress(self, what: str, done: int, total: int) -> None:
        return

    def finish(self, summary: str) -> None:
        self.said.append(summary)

    def close(self) -> None:
        return


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_signal_while_a_step_is_written_waits_for_the_checkpoint(whole: Path, tmp_path: Path, at: int) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    watcher = Signals(at)
    with pytest.raises(Interrupted) as caught:
        run(tmp_path / "cut", *STAGED, observer=watcher)
    assert caught.value.exit_code == 143
    assert caught.value.checkpoint.endswith(f"step-{at}")
    assert watcher.said == ["stopping after this step; press again to stop at once"]
    assert signal.getsignal(signal.SIGTERM) is handler
    run(tmp_path / "cut", *STAGED, resume=True)
    assert_same(tmp_path / "cut" / "run", whole)


def test_a_signal_elsewhere_stops_at_once_and_names_the_newest_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        run(tmp_path / "cut", *STAGED, observer=Signals(0))
    assert (caught.value.exit_code, caught.value.checkpoint) == (130, "")
    run(tmp_path / "cut", *STAGED, resume=True)
    assert (tmp_path / "cut" / "run" / "finished.json").exists()


def test_another_plan_is_refused_also_before_the_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: CheckpointStore, *arguments: Any, **named: Any) -> Path:
        raise Stop

    monkeypatch.setattr(CheckpointStore, "save", stop)
    with pytest.raises(Stop):
        run(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ResumeError, match="begun by plan") as caught:
        run(tmp_path, put("optim.learning_rate", 0.1), resume=True)
    assert caught.value.exit_code == 7
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_folders_that_are_taken(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already holds a run"):
        run(whole.parent, *STAGED)
    with pytest.raises(UsageError, match="is finished"):
        run(whole.parent, *STAGED, resume=True)
    with pytest.raises(UsageError, match="no unfinished run"):
        run(tmp_path, resume=True)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """The second one writes nothing, not even to the lock."""
    with pytest.raises(Interrupted):
        run(tmp_path, observer=Signals(2))
    holder = RunFolder(tmp_path / "run")
    holder.lock()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    try:
        with pytest.raises(FolderBusyError, match=f"process {os.getpid()} on "):
            run(tmp_path, resume=True)
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    finally:
        holder.unlock()
    run(tmp_path, resume=True)


def rank(world: World, plan: str, folder: str) -> bool:
    Trainer(Plan.from_json(plan), RunFolder(Path(folder)), world, Signals(-1)).run(resume=False)
    return True


def test_two_processes_with_held_out_data_of_its_own(tmp_path: Path) -> None:
    """Each rank measures its share; preparing the data must not put the ranks out of step."""
    own = (put("data.evaluation", {"type": "toy_sums", "limit": 20}), put("steps", 2))
    (tmp_path / "run").mkdir()
    plan = compiled(tmp_path, *own, put("runtime.processes", 2))
    assert run_ranks(rank, 2, plan.to_json(), str(tmp_path / "run")) == [True, True]
    counts = [line["accuracy/count"] for line in lines(tmp_path / "run" / "metrics.jsonl") if line["split"] != "train"]
    assert counts == [20, 20]
    alone = run(tmp_path / "alone", *own)
    ours, theirs = (comparable(each / "metrics.jsonl") for each in (tmp_path / "run", alone))
    for mine, other in zip(ours, theirs, strict=True):
        key = "loss" if mine["split"] == "train" else "accuracy"
        assert mine[key] == pytest.approx(other[key], rel=1e-4)
