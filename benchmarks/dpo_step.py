"""A DPO training step beside TRL's DPOTrainer: time and memory at equal settings. Parity is `parity_trl.py`'s.

    python benchmarks/dpo_step.py [--sizes T S] [--vocabularies N ...] [--rounds N] [--steps N]

Every point runs in a process of its own, the two in turn.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.dpo.point import Point
from benchmarks.grpo.point import SIZES, Measured
from benchmarks.parity_trl import spawn

DISCLOSURE = """\
What is compared: one optimiser step of DPO, data, reference, metrics and all bookkeeping in between. WavAlign runs a
compiled recipe (type vita without prediction modules, which is a Qwen2), TRL its DPOTrainer over the same weights file,
pairs, ids, AdamW, float32 and one thread; all lengths are equal, so that padding favours nobody.
`each`: no step has seen its pairs before; TRL's trainer scores them with the reference beside the policy, WavAlign row
by row, and keeps the numbers. `once`: every step has the same pairs; TRL has computed the reference's log-probs before
the first step (precompute_ref_log_probs), WavAlign in its first, which is not timed.

What to keep in mind:
- CPU only, small networks. Nothing here says anything about a GPU, and no ratio carries over to a large model.
- TRL is not tuned for CPUs. Without Triton its fused head scores every position, the prompt's among them, and always
  computes entropy and further numbers of the logits. WavAlign scores the answers' positions alone.
- The machine is shared: look at the ratios, not at the milliseconds."""


HEADING = (
    "| network | vocabulary | reference | WavAlign ms | MiB | TRL ms | MiB | time, TRL : ours | memory, TRL : ours |\n"
    "|---|---:|---|---:|---:|---:|---:|---:|---:|"
)
REFERENCES: tuple[Literal["each", "once"], ...] = ("each", "once")


def points(options: argparse.Namespace) -> Iterator[Point]:
    """Networks x vocabularies x when the reference is asked."""
    for size, vocabulary, reference in itertools.product(options.sizes, options.vocabularies, REFERENCES):
        yield Point(size, vocabulary, reference=reference, fresh=reference == "each", steps=options.steps)


def measure(point: Point, rounds: int) -> dict[str, list[Measured]]:
    """Both contenders in turn, `rounds` times."""
    found: dict[str, list[Measured]] = {"ours": [], "trl": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        order: dict[str, Any] = {"point": point.to_dict(), "kind": "dpo", "world": str(folder / "world"), "log": False}
        spawn({**order, "do": "world"})
        for number in range(rounds):
            for who, measured in found.items():
                answer = spawn({**order, "do": who, "folder": str(folder / f"{who}-{number}")})
                measured.append(Measured(**answer["measured"]))
    return found


def row(point: Point, found: dict[str, list[Measured]]) -> str:
    """A line of the table."""
    cells, medians, peaks = [], {}, {}
    for who, many in found.items():
        cpu = [value for each in many for value in each.cpu]
        low, medians[who], high = statistics.quantiles([1000 * value for value in cpu], n=4, method="inclusive")
        grown = statistics.median(each.peak - each.before for each in many) / 2**20
        peaks[who] = statistics.median(each.peak for each in many) / 2**20
        cells.append(f"{medians[who]:.0f} ({high - low:.0f}) | {peaks[who]:.0f} (+{grown:.0f})")
    ratios = f"{medians['trl'] / medians['ours']:.2f} | {peaks['trl'] / peaks['ours']:.2f}"
    return f"| {point.size} | {point.vocabulary:,} | {point.reference} | {' | '.join(cells)} | {ratios} |"


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["T", "S"])
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[2048, 32_000, 151_936])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args(arguments)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    print(f"# DPO step: WavAlign and TRL\n\n{DISCLOSURE}\n")
    print(f"command: {' '.join(['python', *sys.argv])}  ")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {versions}\n")
    print("Median processor time of a step (interquartile range), peak memory (grown by).\n")
    print(HEADING)
    for point in points(options):
        print(row(point, measure(point, options.rounds)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
