"""Gates on the quickstart's world, by judges whose noise is known: does any gate beat the fixed half?

    python benchmarks/gates.py [--noises NAME ...] [--gates NAME ...] [--seeds 0 1 2 3 4] [--folder runs/gates]
        [--table] [--out MD]

Runs what `--folder` does not hold yet, one run after another, each in a process of its own on one thread, and goes on
with what was cut off; a row is printed as its run ends. Then prints and, with `--out`, writes: the mean of each gate
over its seeds, every gate against the fixed half item by item (`wavalign.engine.report.paired`), and every run.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavalign.engine.report.outcomes import Split, compare, read_outcomes
from wavalign.engine.report.paired import PairedDifference, holm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it can be run as a file

from benchmarks.runs import difference, interval, run_recipe, spread

NOISES: Mapping[str, Mapping[str, float]] = {
    "sd-1": {"sd": 1.0},
    "sd-2": {"sd": 2.0},
    "flips": {"sd": 0.0, "flips": 0.15},
    "exact": {"sd": 0.0},
}
"""By name, the options of the judge; its range is 1 to 5, right answers 5 and others 1."""
NOISE_SAYS = {
    "sd-1": "normal noise of standard deviation 1, variance 1",
    "sd-2": "normal noise of standard deviation 2, variance 4",
    "flips": "15 % of the grades turned around, variance 2.04",
    "exact": "none",
}
GATES = {
    "fixed": "half and half",
    "adaptive": "`rollout_adaptive` as it is",
    "leave-out": "`zero_variance: leave_out`",
    "per-prompt": "`per_prompt`",
    "noise-aware": "`subtract_noise`",
    "noise-aware-leave-out": "`subtract_noise`, `zero_variance: leave_out`",
    "noise-aware-per-prompt": "`subtract_noise`, `per_prompt`",
}
NORMAL = ("fixed", "adaptive", "noise-aware", "noise-aware-leave-out", "noise-aware-per-prompt")
COMBINED: Mapping[str, Sequence[str]] = {
    "sd-1": NORMAL,
    "sd-2": NORMAL,
    "flips": (*NORMAL[:2], "leave-out", *NORMAL[2:]),
    "exact": ("fixed", "adaptive", "leave-out", "per-prompt"),
}
"""Gates that differ under a noise: normal noise leaves no group without spread, and of an exact judge nothing is
subtracted."""
START = "start"
SHOWN = {"text_accuracy": "text right", "heard_answer": "heard right"}
LATE = 10
"""Steps at the end over which lambda is averaged."""
Name = tuple[str, str, int]
"""Noise, gate, seed."""


@final
@dataclass(frozen=True, slots=True)
class Run:
    """What a finished run left."""

    last: Mapping[str, Any]
    """The line of its last evaluation."""
    items: Split
    gate: float
    """Mean lambda of the last steps."""
    spread: tuple[float, float] | None
    """Of lambdas of single prompts in these, the means of the lowest and the highest."""


def main() -> None:
    """Run, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--noises", nargs="+", default=list(NOISES), choices=list(NOISES))
    parser.add_argument("--gates", nargs="+", default=list(GATES), choices=list(GATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/gates"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--out", type=Path, help="also write it there, e.g. benchmarks/gates.md")
    options = parser.parse_args()
    wanted = [(START, "fixed", 0), *names(options.noises, options.gates, options.seeds)]
    failed: list[str] = []
    for each in wanted:
        target = options.folder / "-".join(map(str, each))
        if not options.table:
            failed += filter(None, [run_recipe(" ".join(map(str, each)), arguments(*each), target)])
            print(row(each, finished(target)), flush=True)
    found = {each: made for each in wanted if (made := finished(options.folder / "-".join(map(str, each)))) is not None}
    text = "\n".join(page(found)) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    if failed:
        sys.exit("\n".join(failed))


def names(noises: Sequence[str], gates: Sequence[str], seeds: Sequence[int]) -> list[Name]:
    """Runs in the order in which they are made: seed by seed, so that what is there is always balanced."""
    return [(noise, gate, seed) for seed in seeds for noise in noises for gate in COMBINED[noise] if gate in gates]


def arguments(noise: str, gate: str, seed: int) -> list[str]:
    """Recipe and settings of a run; the start is measured by a run of one step that measures before it alone."""
    if noise == START:
        settings = ["steps=1", "evaluation.at_start=true", "evaluation.at_end=false", "evaluation.ceiling=true"]
    else:
        judge = {**NOISES[noise], "seed": seed}
        settings = [f"seed={seed}", *(f"rewards.judge.{key}={value}" for key, value in judge.items())]
    return [f"benchmarks/gating/{gate}.yaml", *(word for each in settings for word in ("--set", each))]


def finished(folder: Path) -> Run | None:
    """What the run in `folder` left; None for an unfinished one."""
    if not (folder / "finished.json").exists():
        return None
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    late = [line for line in found if line["split"] == "train"][-LATE:]
    notes: list[str] = []
    items = read_outcomes(folder, notes)["heldout"].last
    if notes:
        raise ValueError(f"{folder}: {notes[0]}")
    ends = [statistics.mean(line[key] for line in late) for key in ("gate/lowest", "gate/highest") if key in late[0]]
    return Run(
        last=next(line for line in reversed(found) if line["split"] == "heldout"),
        items=items,
        gate=statistics.mean(line["gate"] for line in late),
        spread=(ends[0], ends[1]) if ends else None,
    )


Runs = Mapping[Name, Run]
HEADER = f"""\
# Gates by judges of known noise

The quickstart with 40 steps: one base model, 16 prompts of 8 answers and 16 demonstrations a step, the same 213
held-out items (renditions never heard), greedy answers. The reward is `answer_match` (5 or 1) and an error that is
drawn anew for every answer, whose variance the judge states (recipes/gates/noisy_judge.py). All but the gate is
the same; a seed has the same demonstrations, prompts and first answers under every gate. *Heard right*: a recogniser
with a closed language model hears the right word in the sound. *Lambda*: its mean over the last {LATE} steps.

Under normal noise no group is without spread, so that `zero_variance: leave_out` alone is the adaptive gate, number by
number; of an exact judge nothing is subtracted. Such twins are not run. A row says how many seeds it is of.

    python benchmarks/gates.py --out benchmarks/gates.md"""
HOW_COMPARED = (
    "The gate minus the fixed half, item by item within a seed: difference [95 % interval], p (Holm's correction over "
    "the whole table), from a bootstrap over items and seeds. **Bold**: p below .05."
)
AMONG = (
    ("noise-aware", "adaptive", "the judge's variance is taken off"),
    ("leave-out", "adaptive", "groups without spread are in no mean"),
    ("noise-aware-leave-out", "noise-aware", "groups without spread are in no mean"),
    ("noise-aware-per-prompt", "noise-aware", "each prompt has its own lambda"),
    ("per-prompt", "adaptive", "each prompt has its own lambda"),
)
"""Pairs that differ in one thing."""


def page(found: Runs) -> Iterator[str]:
    """The whole page in Markdown."""
    yield from (HEADER, "", "## Means over seeds (lowest to highest seed)", "", *means(found), "")
    against = [(gate, "fixed", "") for gate in GATES if gate != "fixed"]
    yield from ("## Against the fixed half", "", HOW_COMPARED, "", *pairs(found, against), "")
    yield from ("## One option against none", "", "As above, corrected over this table.", "", *pairs(found, AMONG), "")
    yield from ("## Every run", "", "95 % intervals are those of the run's own 213 items.", "")
    yield f"| noise | gate | seed | {' | '.join(SHOWN.values())} | lambda |"
    yield f"|---|---|---|{'---|' * (len(SHOWN) + 1)}"
    yield from (row(each, found[each]) for each in ordered(found))


def ordered(found: Runs) -> list[Name]:
    """By noise, gate and seed."""
    noises, gates = list(NOISES), list(GATES)
    kept = [each for each in found if each[0] != START]
    return sorted(kept, key=lambda each: (noises.index(each[0]), gates.index(each[1]), each[2]))


def row(name: Name, run: Run | None) -> str:
    """A line a run."""
    noise, gate, seed = name
    if run is None:
        return f"| {noise} | {gate} | {seed} | failed |"
    cells = " | ".join(interval(run.last, each) for each in SHOWN)
    return f"| {noise} | {gate} | {seed} | {cells} | {run.gate:.3f}{_ends([run])} |"


def _ends(runs: Sequence[Run]) -> str:
    """Lowest and highest lambda of prompts, on average; empty where they have none of their own."""
    known = [each.spread for each in runs if each.spread is not None]
    if not known:
        return ""
    low, high = (statistics.mean(each[end] for each in known) for end in (0, 1))
    return f" ({low:.2f} to {high:.2f} by prompt)"


def of_gate(found: Runs, noise: str, gate: str) -> dict[int, Run]:
    """Its runs by seed."""
    return {each[2]: found[each] for each in ordered(found) if each[:2] == (noise, gate)}


def means(found: Runs) -> Iterator[str]:
    """A line a gate under every noise, behind the start."""
    yield f"| noise | gate | | seeds | {' | '.join(SHOWN.values())} | lambda |"
    yield f"|---|---|---|---|{'---|' * (len(SHOWN) + 1)}"
    start = found.get((START, "fixed", 0))
    if start is not None:
        yield f"| | *start* | | | {' | '.join(interval(start.last, name) for name in SHOWN)} | |"
    for noise, gate in dict.fromkeys(each[:2] for each in ordered(found)):
        runs = list(of_gate(found, noise, gate).values())
        cells = " | ".join(spread([each.last[name] for each in runs]) for name in SHOWN)
        lambdas = f"{statistics.mean(each.gate for each in runs):.3f}{_ends(runs)}"
        yield f"| {NOISE_SAYS[noise]} | {gate} | {GATES[gate]} | {len(runs)} | {cells} | {lambdas} |"
    if start is not None and "text_accuracy/ceiling" in start.last:
        cells = " | ".join(format(start.last[f"{name}/ceiling"], ".3f") for name in SHOWN)
        yield f"| | *gold tokens* | | | {cells} | |"


def pairs(found: Runs, edges: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """A line a pair of gates under every noise, of the seeds that both have."""
    says = any(what for _, _, what in edges)
    shown = " | ".join(SHOWN.values())
    yield f"| noise | first | second |{' the difference |' if says else ''} seeds, pairs | {shown} |"
    yield f"|---|---|---|{'---|' if says else ''}---|{'---|' * len(SHOWN)}"
    rows: list[tuple[str, list[PairedDifference | None]]] = []
    for noise in NOISES:
        for first, second, what in edges:
            a, b = of_gate(found, noise, first), of_gate(found, noise, second)
            if seeds := sorted(set(a) & set(b)):
                each = [compare([a[seed].items for seed in seeds], [b[seed].items for seed in seeds], x) for x in SHOWN]
                count = next((one.count for one in each if one is not None), 0)
                lead = f"| {noise} | {first} | {second} |{f' {what} |' if says else ''} {len(seeds)}, {count} |"
                rows.append((lead, each))
    known = [one for _, cells in rows for one in cells if one is not None]
    corrected = {id(one): p for one, p in zip(known, holm([one.p for one in known]), strict=True)}
    for lead, cells in rows:
        yield f"{lead} {' | '.join(difference(one, corrected) for one in cells)} |"


if __name__ == "__main__":
    main()
