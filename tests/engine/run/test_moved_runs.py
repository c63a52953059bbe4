"""Runs that go on on other numbers of processes and by other engines; and one that was killed, bit for bit."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

from tests.distributed import free_port, run_ranks
from tests.e2e.runs import comparable
from tests.engine.run.test_trainer import assert_same_run
from tests.toy.compiled import Change, compiled, put
from wavalign.engine.compile.plan import Plan
from wavalign.engine.rank import run_rank
from wavalign.engine.run.opening import Resume, open_run
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.step import StepExecutor

ZERO1, ZERO3 = ({"type": "deepspeed", "zero": stage} for stage in (1, 3))
PLAIN = {"type": "plain"}
AHEAD = put("rollout.ahead", 1)


def on(processes: int, engine: dict[str, Any], steps: int = 6) -> tuple[Change, ...]:
    return (put("runtime.processes", processes), put("runtime.engine", engine), put("steps", steps))


def part(world: World, plan: str, folder: str, resume: bool, killed_at: int) -> None:
    """This rank's part of a run; every rank is killed as step `killed_at` (from 0) begins, if it does."""
    os.environ["MASTER_PORT"] = str(world.broadcast(free_port()))
    world.close()
    step = StepExecutor.step

    def killing(self: StepExecutor, index: int) -> Any:
        if index == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, index)

    StepExecutor.step = killing  # type: ignore[method-assign]  # the process is this run's alone
    try:
        run_rank(RunFolder(Path(folder)), plan=Plan.from_json(plan), resume=resume)
    finally:
        StepExecutor.step = step  # type: ignore[method-assign]
        if dist.is_initialized():
            dist.destroy_process_group()
        world.size = 1


def go(folder: Path, *changes: Change, resume: bool = False, killed_at: int = -1) -> list[str]:
    """A run in processes of their own, in `folder`/run; what was said as it was opened."""
    folder.mkdir(exist_ok=True)
    said: list[str] = []
    plan = compiled(folder, *changes)
    opened = open_run(plan, Resume() if resume else None, said.append)
    opened.unlock()
    run_ranks(part, plan.processes, plan.to_json(), str(opened.path), resume, killed_at)
    return said


def assert_close(found: Path, wanted: Path) -> None:
    """The same lines and weights, but for what another order of sums leaves."""
    ours, theirs = (comparable(each / "metrics.jsonl") for each in (found, wanted))
    assert [(line["split"], line["step"]) for line in ours] == [(line["split"], line["step"]) for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("loss", "reward", "gradient_norm", "accuracy"):
            if name in other:
                assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), (mine["step"], name)
    model, reference = (load_file(each / "model" / "model.safetensors") for each in (found, wanted))
    for name, weight in reference.items():
        assert float((model[name] - weight).abs().max()) < 1e-4, name


def test_four_processes_two_and_one(tmp_path: Path) -> None:
    """ZeRO-3 on four, ZeRO-1 on two, plain on one, ZeRO-3 on two: as one that was plain on one throughout."""
    go(tmp_path / "whole", *on(1, PLAIN, 5))
    moved = tmp_path / "moved"
    go(moved, *on(4, ZERO3, 2))
    said = go(moved, *on(2, ZERO1, 3), resume=True)
    assert "the run goes on with 2 processes (it had 4) and ZeRO 1 (it had ZeRO 3): weights and" in said[0]
    said = go(moved, *on(1, PLAIN, 4), resume=True)
    assert "with 1 process (it had 2) and the plain engine (it had ZeRO 1)" in said[0]
    go(moved, *on(2, ZERO3, 5), resume=True)
    assert_close(moved / "run", tmp_path / "whole" / "run")


@pytest.mark.slow
def test_killed_on_four_and_resumed_on_two(tmp_path: Path) -> None:
    """Answers that wait for their step, of four processes, are shared out among two."""
    go(tmp_path / "whole", *on(1, PLAIN), AHEAD)
    cut = tmp_path / "cut"
    with pytest.raises(AssertionError, match="the process died"):
        go(cut, *on(4, ZERO3), AHEAD, killed_at=3)
    assert [path.name for path in (cut / "run/checkpoints").glob("step-*")] == ["step-2"]
    assert len(list((cut / "run/checkpoints/step-2/in_flight").iterdir())) == 4
    go(cut, *on(2, ZERO3), AHEAD, resume=True)
    assert_close(cut / "run", tmp_path / "whole" / "run")


def test_two_of_zero_3_killed_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    go(tmp_path / "whole", *on(2, ZERO3))
    cut = tmp_path / "cut"
    with pytest.raises(AssertionError, match="the process died"):
        go(cut, *on(2, ZERO3), killed_at=3)
    assert go(cut, *on(2, ZERO3), resume=True) == []
    assert_same_run(cut / "run", tmp_path / "whole" / "run")
