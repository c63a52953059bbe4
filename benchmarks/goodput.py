"""Share of a cluster's time that trains, by simulation and formula: stragglers, failures, checkpoint intervals.

    python benchmarks/goodput.py          8 to 512 GPUs, two rates of failure, three ways to write a checkpoint

A simulated job trains, writes a checkpoint after every interval, and fails at random times; it then restarts from the
last whole checkpoint. What a failure interrupts is lost, a checkpoint that is half written too. Times are seconds.
"""

import argparse
from dataclasses import dataclass
from typing import final

import numpy as np

from wavalign.engine.compile.goodput import HOUR, Faults, mean_time_between_failures, slowest_of

GPUS_A_NODE = 8
RATES = {"steady": 419 / (54 * 24 * 16_384) * GPUS_A_NODE, "preempted": 0.02}
"""Failures per node-hour. steady: 419 unexpected interruptions in 54 days of 16,384 GPUs (arXiv 2407.21783, section
3.3.4); preempted: a node is taken away every 50 hours, an assumption."""
WRITES = {"blocking, slow store": 120.0, "blocking": 20.0, "asynchronous": 2.0}
"""Seconds that a checkpoint holds the steps up; assumptions: benchmarks of one's own storage give them."""
RESTART, STEP, SPREAD = 300.0, 30.0, 0.05
"""Seconds of a restart and of a step of the mean rank, and by what share of it ranks differ."""
INTERVALS = {"0.25": 0.25, "1": 1.0, "4": 4.0}
"""Of Daly's interval."""


@final
@dataclass(frozen=True, slots=True)
class Simulated:
    """What jobs kept of their time."""

    goodput: float
    half: float
    """Half of the 95 % interval over jobs."""


def simulated(faults: Faults, interval: float, *, span: float, jobs: int, seed: int = 0) -> Simulated:
    """Goodput of `jobs` jobs of `span` seconds each, with a checkpoint after every `interval` seconds of training."""
    kept = [_job(faults, interval, span, np.random.default_rng([seed, job])) for job in range(jobs)]
    return Simulated(float(np.mean(kept)), float(1.96 * np.std(kept, ddof=1) / np.sqrt(jobs)))


def _job(faults: Faults, interval: float, span: float, generator: np.random.Generator) -> float:
    """Share of the time between the first start and the last failure before the end that ends in kept training."""
    now = kept = 0.0
    period = interval + faults.checkpoint
    while now < span:
        alive = generator.exponential(faults.mean_time)
        whole = int(max(0.0, alive - (faults.restart if now else 0.0)) // period)
        kept += whole * interval
        now += alive
    return kept / now


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=400, help="simulated jobs a row")
    parser.add_argument("--days", type=float, default=30.0, help="days of each")
    args = parser.parse_args()
    print("| GPUs | failures | checkpoint s | slowest rank | hours between failures | Daly's interval, steps "
          "| goodput at it: simulated | formula | at a quarter | at four times |")  # fmt: skip
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for gpus in (8, 32, 128, 512):
        for rate, each in RATES.items():
            for write in WRITES.values():
                print(_row(gpus, rate, each, write, args), flush=True)


def _row(gpus: int, rate: str, each: float, write: float, args: argparse.Namespace) -> str:
    slowest = slowest_of(gpus, SPREAD)
    mean_time = mean_time_between_failures(max(1, gpus // GPUS_A_NODE), each)
    faults = Faults(mean_time, write, RESTART)
    steps = faults.steps_between(STEP * slowest)
    span = max(args.days * 24 * HOUR, 20 * mean_time)
    best = steps * STEP * slowest
    found = {name: simulated(faults, share * best, span=span, jobs=args.jobs) for name, share in INTERVALS.items()}
    shown = {name: f"{each.goodput:.4f}" for name, each in found.items()}
    return (
        f"| {gpus} | {rate} | {write:g} | {slowest:.3f} | {mean_time / HOUR:.1f} | {steps} "
        f"| {shown['1']} ± {found['1'].half:.4f} | {faults.goodput(best):.4f} | {shown['0.25']} | {shown['4']} |"
    )


if __name__ == "__main__":
    main()
