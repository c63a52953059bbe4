"""What sampling a step ahead saves beside a slow judge, and what it costs in what is learned.

    python benchmarks/ahead.py [--steps N] [--learning N] [--judges 1 2 4]

The quickstart's step with a reward that waits, as one behind HTTP does. `--judges` says how long all its calls take, in
times of sampling. `rollout.ahead` 0 and 1 step in turn in one process, so that both meet the same machine; medians are
shown, of steps behind the first two. Expected are sampling + judge + learning, and with a step ahead the longer of the
first two + learning. `--learning` trains that many steps both ways, with an instant judge.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster
from wavalign.engine.run.builder import Builder
from wavalign.engine.state.distributed import World
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.step import StepExecutor
from wavalign.schema.loading import load_recipe

WORKERS, WARM = 16, 2


@dataclass(frozen=True, slots=True)
class Arm:
    """A stage that is stepped through."""

    live: LiveStage
    executor: StepExecutor
    lines: list[Mapping[str, float]]

    def step(self) -> None:
        """One more."""
        self.lines.append(self.executor.step(len(self.lines)).metrics)

    def median(self, name: str) -> float:
        """Of a metric, over the steps behind the first ones."""
        return statistics.median(line[name] for line in self.lines[WARM:])


def arm(ahead: int, seconds: float, steps: int) -> Arm:
    """The quickstart's stage, `ahead` 0 or 1, with a judge that takes `seconds` a call."""
    judge = f"{{type: slow_judge, seconds: {seconds}}}"
    settings = (
        f"rollout.ahead={ahead}",
        f"rewards.answer={judge}",
        f"plugins=[{Path(__file__).parent / 'ahead_judge.py'}]",
        f"runtime.reward_workers={WORKERS}",
        f"steps={steps}",
        "runtime.trackers=[]",
    )
    plan = compile_recipe(load_recipe(str(ROOT / "recipes" / "quickstart.yaml"), settings), Cluster(cores=2))
    live = Builder(plan, World.single("cpu"), lambda *_: None).stage(plan.stages[0], None)
    return Arm(live, StepExecutor(live), [])


def together(seconds: float, steps: int) -> list[Arm]:
    """Both arms, stepped in turn."""
    arms = [arm(ahead, seconds, steps + WARM + 1) for ahead in (0, 1)]  # the last step samples nothing ahead
    for _ in range(steps + WARM):
        for each in arms:
            each.step()
    for each in arms:
        each.live.close()
    return arms


def table(judges: Sequence[float], steps: int) -> None:
    """Seconds of a step by how long the judge takes."""
    waits, ahead = together(0.0, steps)
    sampling, learning = (waits.median(f"{name}_seconds") for name in ("rollout", "learn"))
    calls = waits.live.settings.geometry.prompts * waits.live.settings.geometry.group_size
    print(
        f"sampling {sampling:.2f} s, learning {learning:.2f} s (ahead {ahead.median('learn_seconds'):.2f} s); "
        f"{calls} calls on {WORKERS} threads\n"
    )
    print("| judge s | ahead 0: step s | waits s | ahead 1: step s | waits s | 0 over 1 | expected 0 | expected 1 |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for times in judges:
        judge = times * sampling
        waits, ahead = together(judge * WORKERS / calls, steps)
        one, other = waits.median("step_seconds"), ahead.median("step_seconds")
        print(
            f"| {judge:.2f} | {one:.2f} | {waits.median('reward_seconds'):.2f} | {other:.2f} "
            f"| {ahead.median('reward_seconds'):.2f} | {one / other:.2f} | {sampling + judge + learning:.2f} "
            f"| {max(sampling, judge) + learning:.2f} |",
            flush=True,
        )


def learned(steps: int) -> None:
    """What both come to, and how far apart the sampling and the learning weights are."""
    print(f"\n| ahead | reward, first 5 steps | reward, last 5 of {steps} | mismatch/mean | mismatch/max |")
    print("|---:|---:|---:|---:|---:|")
    for ahead in (0, 1):
        found = arm(ahead, 0.0, steps)
        for _ in range(steps):
            found.step()
        found.live.close()
        first, last = (statistics.mean(x["reward"] for x in part) for part in (found.lines[:5], found.lines[-5:]))
        gaps = [max((x.get(f"mismatch/{name}", 0.0) for x in found.lines), default=0.0) for name in ("mean", "max")]
        shown = [f"{gap:.2g}" if ahead else "" for gap in gaps]
        print(f"| {ahead} | {first:.2f} | {last:.2f} | {shown[0]} | {shown[1]} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--learning", type=int, default=0)
    parser.add_argument("--judges", type=float, nargs="*", default=[1.0, 2.0, 4.0])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(f"quickstart, float32, cpu, threads 1, torch {torch.__version__}, median of {chosen.steps} steps")
    if chosen.judges:
        table(chosen.judges, chosen.steps)
    if chosen.learning:
        learned(chosen.learning)


if __name__ == "__main__":
    main()
