"""The rows of SpeechAlign's main table on the embedded world: recipes/speechalign/tiny-*.yaml, several seeds each.

    python benchmarks/speechalign.py [--rows NAME ...] [--seeds 0 1 2] [--at-once 2] [--folder runs/speechalign]
                                     [--table] [--out benchmarks/speechalign.md]

Runs what `--folder` does not hold yet, every run in a process of its own on one thread, and goes on with what was cut
off. Prints and, with `--out`, writes: what each row sees, its mean over the seeds after every round, pairs of rows
compared item by item (`wavalign.engine.report.paired`), how the preferences moved, and every run.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavalign.engine.report.outcomes import Split, compare, read_outcomes
from wavalign.engine.report.paired import PairedDifference, holm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it can be run as a file

from benchmarks.runs import difference, interval, run_recipe, spread

SHOWN = {
    "word_error_rate": "WER",
    "speaker_similarity": "similarity",
    "golden_distance": "distance",
    "duration_ratio": "duration",
    "no_end_rate": "no end",
}
COMPARED = ("word_error_rate", "speaker_similarity")
START = "tiny-sft"


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table."""

    recipe: str
    stage: str
    """The stage that measured it."""
    says: str
    """What it does, in a few words."""
    split: str = "heldout"


ROWS = {
    "SFT (the start)": Row(START, "measure", "reads, and mumbles every second sentence"),
    "continue SFT, 60": Row("tiny-continue-sft", "first", "60 steps of CE on golden tokens"),
    "continue SFT, 180": Row("tiny-continue-sft", "third", "180 steps of CE on golden tokens"),
    "CoH": Row("tiny-coh", "measure", "CE on golden and synthetic, told apart in the prompt"),
    "best of 4": Row("tiny-best-of-n", "measure", "the start; a reward model picks", "heldout.best_of_4"),
    "PPO": Row("tiny-ppo", "measure", "PPO against that reward model"),
    "DPO, round 1": Row("tiny-rounds", "round-1.measure", "60 steps of DPO, golden against synthetic"),
    "DPO, round 2": Row("tiny-rounds", "round-2.measure", "60 more, against both rounds' synthetic"),
    "DPO, round 3": Row("tiny-rounds", "round-3.measure", "60 more, against the last two rounds'"),
}
EDGES = (
    ("DPO, round 1", "SFT (the start)"),
    ("DPO, round 2", "DPO, round 1"),
    ("DPO, round 3", "DPO, round 2"),
    ("continue SFT, 60", "SFT (the start)"),
    ("DPO, round 1", "continue SFT, 60"),
    ("DPO, round 3", "continue SFT, 180"),
    ("CoH", "continue SFT, 180"),
    ("best of 4", "SFT (the start)"),
    ("PPO", "SFT (the start)"),
)
HEADER = """\
# SpeechAlign's rows on the embedded world

A codec language model of 0.8 M weights reads sentences aloud; it was taught to mumble every second one, so golden
tokens (clean speech) and its own differ by design. Nothing of the paper's scale: this shows that the recipes do what
they say, what each row costs, and what its measures do. 160 held-out readings of 32 sentences that no model here was
trained to read (their words were); answers are sampled at temperature 1, as the paper samples. *WER*: what a recogniser
hears (PocketSphinx, words of the 245 sentences), *similarity*: cosine of speaker embeddings to the golden sound,
*distance*: how often a linear probe tells golden from sampled answers (0.5 is guessing), *duration*: over that of the
golden sound.

DPO and SFT rows see the same golden tokens, 16 a step at one learning rate; DPO sees as many synthetic ones beside
them. Seeds draw the order of data and what is sampled in training; the start is one model."""


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """One row at one seed."""

    line: Mapping[str, Any]
    items: Split
    seconds: float
    """Of the whole run up to here."""


Found = Mapping[tuple[str, int], Measured]


def main() -> None:
    """Run, then print."""
    recipes = list(dict.fromkeys(row.recipe for row in ROWS.values()))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", nargs="+", default=recipes, choices=recipes)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/speechalign"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--out", type=Path, help="also write it there")
    options = parser.parse_args()
    wanted = [(recipe, seed) for seed in options.seeds for recipe in options.rows if recipe != START or seed == 0]
    failed: list[str] = []
    if not options.table:
        with ThreadPoolExecutor(options.at_once) as pool:
            failed = [each for each in pool.map(lambda each: run(each[0], each[1], options.folder), wanted) if each]
    text = "\n".join(page(read(options.folder, options.seeds), options.folder, options.seeds)) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    if failed:
        sys.exit("\n".join(failed))


def run(recipe: str, seed: int, folder: Path) -> str:
    """One run, unless it is complete already; says what went wrong, nothing where all went well."""
    arguments = [f"recipes/speechalign/{recipe}.yaml", "--set", f"seed={seed}"]
    return run_recipe(f"{recipe}, seed {seed}", arguments, folder / f"{recipe}-{seed}")


def read(folder: Path, seeds: Sequence[int]) -> Found:
    """What finished runs left, by row and seed."""
    found = {}
    for name, row in ROWS.items():
        for seed in seeds:
            target = folder / f"{row.recipe}-{seed}"
            if (target / "finished.json").exists():
                found[name, seed] = measured(target, row)
    return found


def measured(folder: Path, row: Row) -> Measured:
    """What the row's stage of the run in `folder` measured last; raises ValueError where it measured nothing."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    mine = [line for line in lines if line["split"] == row.split and line["stage"] == row.stage]
    notes: list[str] = []
    items = read_outcomes(folder, notes)[row.split].by_stage.get(row.stage, {})
    if notes or not mine:
        raise ValueError(f"{folder}: {notes[0] if notes else f'stage {row.stage} measured nothing'}")
    seconds = sum(line.get("step_seconds", 0.0) for line in lines[: lines.index(mine[-1])])
    return Measured(mine[-1], items, seconds)


def page(found: Found, folder: Path, seeds: Sequence[int]) -> Iterator[str]:
    """The whole page in Markdown."""
    yield from (HEADER, "", "## Means over seeds (lowest to highest)", "", *means(found), "")
    yield from ("## Compared item by item", "", HOW, "", *pairs(found), "")
    yield from ("## The reward model on held-out pairs", "", JUDGED, "", *judges(folder, seeds), "")
    yield from ("## Every run", "", "95 % intervals are those of the run's own 160 items.", "", *every(found))


HOW = (
    "First row minus second within a seed: difference [95 % interval], p (Holm's correction over this table), from a "
    "bootstrap over items and seeds. Of WER less is better. **Bold**: p below .05."
)


JUDGED = (
    "Of tiny-best-of-n: golden against synthetic is what it learned; the best against the worst of four synthetic "
    "readings, told apart by a recogniser, is what best-of-N asks of it. Share of pairs in the right order, expected "
    "calibration error. Every second synthetic reading is as clear as golden ones, so that golden against synthetic "
    "cannot go far beyond three quarters."
)


def judges(folder: Path, seeds: Sequence[int]) -> Iterator[str]:
    """A line a seed."""
    yield "| seed | golden against synthetic | synthetic against synthetic | calibration error, of either |"
    yield "|---|---|---|---|"
    for seed in seeds:
        path = folder / f"tiny-best-of-n-{seed}" / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        last = {line["split"]: line for line in lines if line["stage"] == "judge" and line["split"] != "train"}
        if {"golden", "synthetic"} <= set(last):
            cells = " | ".join(interval(last[split], "accuracy") for split in ("golden", "synthetic"))
            errors = ", ".join(f"{last[split]['ece']:.3f}" for split in ("golden", "synthetic"))
            yield f"| {seed} | {cells} | {errors} |"


def of_row(found: Found, name: str) -> dict[int, Measured]:
    """Runs of a row by seed."""
    return {seed: found[each, seed] for each, seed in sorted(found) if each == name}


def means(found: Found) -> Iterator[str]:
    """A line a row, and the golden tokens."""
    yield f"| row | what | seeds | {' | '.join(SHOWN.values())} | seconds of steps |"
    yield f"|---|---|---|{'---|' * (len(SHOWN) + 1)}"
    for name, row in ROWS.items():
        if runs := list(of_row(found, name).values()):
            cells = " | ".join(spread([each.line[value] for each in runs]) for value in SHOWN)
            seconds = statistics.mean(each.seconds for each in runs)
            yield f"| {name} | {row.says} | {len(runs)} | {cells} | {seconds:.0f} |"
    if start := of_row(found, next(iter(ROWS))):
        line = next(iter(start.values())).line
        yield f"| *golden tokens* | | | {' | '.join(_ceiling(line, value) for value in SHOWN)} | |"


def pairs(found: Found) -> Iterator[str]:
    """A line a pair of rows."""
    yield f"| first | second | seeds, pairs | {' | '.join(SHOWN[each] for each in COMPARED)} |"
    yield f"|---|---|---|{'---|' * len(COMPARED)}"
    rows: list[tuple[str, list[PairedDifference | None]]] = []
    for first, second in EDGES:
        a, b = of_row(found, first), of_row(found, second)
        if second == next(iter(ROWS)) and b:  # one model, measured once
            b = dict.fromkeys(a, next(iter(b.values())))
        seeds = sorted(set(a) & set(b))
        if not seeds:
            continue
        each = [compare([a[seed].items for seed in seeds], [b[seed].items for seed in seeds], x) for x in COMPARED]
        count = next((one.count for one in each if one is not None), 0)
        rows.append((f"| {first} | {second} | {len(seeds)}, {count} |", each))
    known = [one for _, row in rows for one in row if one is not None]
    corrected = {id(one): p for one, p in zip(known, holm([one.p for one in known]), strict=True)}
    for lead, row in rows:
        yield f"{lead} {' | '.join(difference(one, corrected) for one in row)} |"


def every(found: Found) -> Iterator[str]:
    """A line a run."""
    yield f"| row | seed | {' | '.join(SHOWN.values())} |"
    yield f"|---|---|{'---|' * len(SHOWN)}"
    for name in ROWS:
        for seed, each in of_row(found, name).items():
            yield f"| {name} | {seed} | {' | '.join(interval(each.line, value) for value in SHOWN)} |"


def _ceiling(line: Mapping[str, Any], name: str) -> str:
    value = line.get(f"{name}/ceiling")
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
