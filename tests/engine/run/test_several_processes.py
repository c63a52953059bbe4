"""A fault that one of several processes meets: the others end soon and say what they lost and what is left."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.distributed import run_ranks
from tests.toy import one_sided
from tests.toy.compiled import Change, compiled, put
from wavalign.engine.compile.plan import Plan
from wavalign.engine.rank import run_rank
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import Interrupted, WavAlignError

SOON = 20.0
"""Seconds in which everybody has ended, on a busy machine."""
TWO: tuple[Change, ...] = (
    lambda recipe: recipe["plugins"].append(one_sided.__file__),
    put("runtime.processes", 2),
    put("runtime.checkpoint_every", 0),
    put("evaluation.every", 2),
    put("evaluation.ceiling", False),
)
ENGINES = {
    "plain": {"type": "plain"},
    **{f"zero{stage}": {"type": "deepspeed", "zero": stage} for stage in (0, 2, 3)},
}


def part(world: World, plan: str, folder: str, resume: bool) -> dict[str, Any]:
    """This rank's part of a run; how it ended."""
    began = time.monotonic()
    world.close()  # a run joins by itself
    try:
        run_rank(RunFolder(Path(folder)), plan=Plan.from_json(plan), resume=resume)
    except WavAlignError as error:
        return {
            "type": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "seconds": time.monotonic() - began,
            "code": error.exit_code,
        }
    except Interrupted as stopped:
        return {"type": "Interrupted", "seconds": time.monotonic() - began, "code": stopped.exit_code}
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        world.size = 1  # there is nobody left to say goodbye to
    return {"type": "", "seconds": time.monotonic() - began}


def joined(folder: Path, *changes: Change, resume: bool = False) -> list[dict[str, Any]]:
    """How each rank of a run ended."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    plan = compiled(folder, *TWO, *changes)
    return run_ranks(part, 2, plan.to_json(), str(folder / "run"), resume)


def newest(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "checkpoints").glob("*"))


def sided(kind: str, rank: int, after: int) -> dict[str, Any]:
    return {"type": f"sided_{kind}", "rank": rank, "after": after}


CASES: dict[str, tuple[Change, int, str, int]] = {
    "metric": (put("evaluation.metrics.odd", sided("metric", 0, 2)), 0, "metric 'sided_metric'", 4),
    "observer": (put("evaluation.metrics.odd", sided("observer", 1, 2)), 1, "metric 'sided_observer'", 4),
    "first_observer": (put("evaluation.metrics.odd", sided("observer", 0, 2)), 0, "metric 'sided_observer'", 4),
    "advantage": (put("objective.advantage", sided("advantage", 1, 3)), 1, "advantage 'sided_advantage'", 3),
    "first": (put("objective.advantage", sided("advantage", 0, 3)), 0, "advantage 'sided_advantage'", 3),
    "constructor": (put("objective.advantage", sided("advantage", 1, -1)), 1, "advantage 'sided_advantage'", 0),
    "metric_constructor": (put("evaluation.metrics.odd", sided("metric", 0, -1)), 0, "metric 'sided_metric'", 0),
    "other_constructor": (put("evaluation.metrics.odd", sided("metric", 1, -1)), 1, "metric 'sided_metric'", 0),
}
"""What fails, on which rank, by what name, and the step whose checkpoint is left."""
SOME = [pytest.param(name, marks=() if name == "plain" else pytest.mark.slow) for name in ENGINES]
QUICK_CASES = ("metric", "observer", "advantage")
SOME_CASES = [pytest.param(name, marks=() if name in QUICK_CASES else pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("engine", SOME)
@pytest.mark.parametrize("case", SOME_CASES)
def test_a_fault_on_one_rank(tmp_path: Path, case: str, engine: str) -> None:
    """Its process names the plugin, the other says what it lost; both say what is left."""
    change, rank, named, kept = CASES[case]
    ends = joined(tmp_path, put("runtime.engine", ENGINES[engine]), change)
    assert ends[rank]["type"] == "PluginError" and named in ends[rank]["message"]
    assert ends[1 - rank]["type"] == "RankLostError"
    assert max(end["seconds"] for end in ends) < SOON
    if kept and case in ("advantage", "first") and engine != "plain":
        assert newest(tmp_path) == []
        assert all("DeepSpeed needs every process" in end["hint"] for end in ends)
        return
    assert newest(tmp_path) == ([f"step-{kept}"] if kept else [])
    if kept:
        assert f"the checkpoint of step {kept} was written" in ends[0]["hint"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_a_reward_on_one_rank(tmp_path: Path, engine: str) -> None:
    ends = joined(
        tmp_path,
        put("runtime.engine", ENGINES[engine]),
        put("rewards.exact", sided("reward", 1, 3 * 8)),
        put("runtime.reward_failure_budget", 0.4),
    )
    assert [end["type"] for end in ends] == ["RewardBudgetError"] * 2
    assert newest(tmp_path) == ["step-3"]


def test_a_reward_that_cannot_go_on(tmp_path: Path) -> None:
    """Both end alike with the last complete step kept; what rewards count is summed over both, and remembered."""
    ends = joined(tmp_path, put("rewards.exact", sided("spender", 1, 3 * 8)))
    assert [(end["type"], end["code"]) for end in ends] == [("RewardStopped", 6)] * 2
    assert all("the money is spent" in end["message"] and "earn some" in end["hint"] for end in ends)
    assert newest(tmp_path) == ["step-3"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["split"] == "train"]
    assert [(line["reward/exact/asked"], line["reward/exact/euros"]) for line in steps] == [(16, 8)] * 3
    kept = json.loads((tmp_path / "run" / "checkpoints" / "step-3" / "checkpoint.json").read_text())
    assert kept["meta"]["remembered"]["reward.exact"] == {"euros": 24.0}
    left = {each.name for each in (tmp_path / "run" / "rewards" / "exact").iterdir()}
    assert left == {"0 of 2", "1 of 2"}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_while_it_answers_its_share(tmp_path: Path, rank: int) -> None:
    """It stops at once, the other when they meet; the checkpoint of the step before is written by both."""
    told = {**sided("observer", rank, 2), "signal": int(signal.SIGTERM)}
    ends = joined(tmp_path, put("evaluation.metrics.odd", told))
    assert [(end["type"], end["code"]) for end in ends] == [("Interrupted", 143)] * 2
    assert max(end["seconds"] for end in ends) < SOON
    assert newest(tmp_path) == ["step-4"]
