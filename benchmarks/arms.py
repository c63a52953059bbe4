"""The arms of recipes/arms/: the same start, steps and held-out items; each differs from another in one thing.

    python benchmarks/arms.py [--arms NAME ...] [--seeds 0 1 2] [--at-once 2] [--folder runs/arms] [--table] [--out MD]

Runs what `--folder` does not hold yet, every run in a process of its own on one thread, and goes on with what was cut
off. Prints and, with `--out`, writes: what each arm sees, every run, the mean of each arm over its seeds, and pairs of
arms compared item by item (`wavalign.engine.report.paired`). The start and the gold tokens are measured once.
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
from wavalign.plugins.speech.world.script import Scene, lines

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it can be run as a file

from benchmarks.runs import difference, interval, run_recipe, spread

START = "start"
"""The run that measures the model all arms start from, and the gold tokens."""
SHOWN = {
    "text_accuracy": "text right",
    "heard_answer": "heard right",
    "style_accuracy": "style as asked",
    "well_formed": "whole",
}
COMPARED = ("text_accuracy", "heard_answer", "style_accuracy")


@final
@dataclass(frozen=True, slots=True)
class Arm:
    """What an arm is given, of the 213 facts."""

    rewarded: str
    """Facts whose right answer the reward reads."""
    demonstrated: str
    """Facts whose right answer is shown, in text and clear sound."""
    objective: str


ARMS = {
    "sft-only": Arm("-", "64", "SFT, all tokens"),
    "sft-all-facts": Arm("-", "213", "SFT, all tokens"),
    "text-grpo": Arm("213", "-", "GRPO, text tokens"),
    "text-grpo-kl": Arm("213", "-", "GRPO, text tokens, KL .02"),
    "text-grpo-demonstrated": Arm("the 64", "-", "GRPO, text tokens"),
    "full-grpo": Arm("213", "-", "GRPO, all tokens"),
    "hybrid-fixed": Arm("213", "64", "half GRPO (text), half SFT (all tokens)"),
    "hybrid-adaptive": Arm("213", "64", "GRPO (text) and SFT (all tokens) by the gate"),
}
EDGES = (
    ("hybrid-fixed", "sft-only", "half of the loss is GRPO's"),
    ("hybrid-fixed", "text-grpo", "half of the loss is SFT's"),
    ("hybrid-adaptive", "hybrid-fixed", "the gate is adaptive"),
    ("sft-all-facts", "sft-only", "213 facts are demonstrated, not 64"),
    ("text-grpo-kl", "text-grpo", "a KL of .02 to the start"),
    ("text-grpo-demonstrated", "text-grpo", "64 facts are asked, not 213"),
    ("full-grpo", "text-grpo", "all tokens are trained"),
)
"""Pairs that differ in one thing."""
SAME_FACTS = (
    ("text-grpo", "sft-all-facts", "reward against demonstrations, of all 213 facts"),
    ("text-grpo-demonstrated", "sft-only", "reward against demonstrations, of the same 64 facts"),
)
"""Pairs that know the right answers to the same facts, by another way."""
HEADER = """\
# The arms

One base model, 80 steps of 16 prompts or 16 demonstrations each, the same 213 held-out items, greedy answers.
**Held-out means held-out sound**: every item is a rendition that neither the base nor any arm ever heard. Its text is
not new: all 213 questions are among the training prompts (64 of them in text-grpo-demonstrated), and the base was
taught all 213 facts, 97 of them mostly wrong. So these numbers are about repairing what a model was taught, not about
facts it never met. *Heard right*: a recogniser with a closed language model hears the right word in the sound.

**What an arm sees differs**: the reward reads the right answer to every question that is asked, so text-token GRPO is
told of 213 facts whether it is right, and SFT on 64 demonstrations of 64. The arms that know the same facts are
compared below. The arms that sample answers also spend more time; the seconds of steps are as they came, on a machine
that did other work beside these runs: they tell arms apart by factors, not by parts."""


@final
@dataclass(frozen=True, slots=True)
class Run:
    """What a finished run left."""

    last: Mapping[str, Any]
    """The line of its last evaluation."""
    items: Split
    seconds: float
    gate: float | None


def main() -> None:
    """Run, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/arms"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--out", type=Path, help="also write it there, e.g. benchmarks/arms.md")
    options = parser.parse_args()
    wanted = [(START, 0), *((arm, seed) for seed in options.seeds for arm in options.arms)]
    failed: list[str] = []
    if not options.table:
        with ThreadPoolExecutor(options.at_once) as pool:
            failed = [each for each in pool.map(lambda each: run(each[0], each[1], options.folder), wanted) if each]
    found = {each: made for each in wanted if (made := finished(options.folder / f"{each[0]}-{each[1]}")) is not None}
    text = "\n".join(page(found)) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    if failed:
        sys.exit("\n".join(failed))


def run(arm: str, seed: int, folder: Path) -> str:
    """One run, unless it is complete already; says what went wrong, nothing where all went well."""
    return run_recipe(f"{arm}, seed {seed}", arguments(arm, seed), folder / f"{arm}-{seed}")


def arguments(arm: str, seed: int) -> list[str]:
    """Recipe and settings of a run; the start is measured by a run of one step that measures before it alone."""
    if arm != START:
        settings = [f"seed={seed}", "evaluation.ceiling=false"]
    else:
        settings = ["steps=1", "evaluation.at_start=true", "evaluation.at_end=false"]
    name = "sft-only" if arm == START else arm
    return [f"recipes/arms/{name}.yaml", *(word for each in settings for word in ("--set", each))]


def finished(folder: Path) -> Run | None:
    """What the run in `folder` left; None for an unfinished one."""
    if not (folder / "finished.json").exists():
        return None
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [line for line in found if line["split"] == "train"]
    notes: list[str] = []
    items = read_outcomes(folder, notes)["heldout"].last
    if notes:
        raise ValueError(f"{folder}: {notes[0]}")
    return Run(
        last=next(line for line in reversed(found) if line["split"] == "heldout"),
        items=items,
        seconds=sum(line["step_seconds"] for line in steps),
        gate=steps[-1].get("gate"),
    )


Runs = Mapping[tuple[str, int], Run]


def page(found: Runs) -> Iterator[str]:
    """The whole page in Markdown."""
    yield from (HEADER, "", *what_they_see(), "")
    yield from ("## Means over seeds (lowest to highest seed)", "", *means(found), "")
    yield from ("## Pairs that differ in one thing", "", HOW_COMPARED, "", *pairs(found, EDGES), "")
    yield from ("## Pairs that know the same facts, by reward or by demonstration", "", *pairs(found, SAME_FACTS), "")
    yield from ("## Text right by what was demonstrated", "", SPLIT_SAYS, "", *by_demonstration(found), "")
    yield from ("## Every run", "", "95 % intervals are those of the run's own 213 items.", "", *every(found))


HOW_COMPARED = (
    "First arm minus second, item by item within a seed: difference [95 % interval], p (Holm's correction over this "
    "table), from a bootstrap over items and seeds; one seed: McNemar's exact test. **Bold**: p below .05."
)
SPLIT_SAYS = (
    "The seed draws the 64 facts that are demonstrated (to the arms that see demonstrations) and asked in "
    "text-grpo-demonstrated. Share of right answers to these, and to the other 149."
)


def what_they_see() -> Iterator[str]:
    """A line an arm."""
    yield "| arm | objective | reward reads the answers to | demonstrated (text and sound) |"
    yield "|---|---|---|---|"
    yield from (f"| {name} | {arm.objective} | {arm.rewarded} | {arm.demonstrated} |" for name, arm in ARMS.items())


def of_arm(found: Runs, arm: str) -> dict[int, Run]:
    """Runs of `arm` by seed."""
    return {seed: found[each, seed] for each, seed in sorted(found) if each == arm}


def means(found: Runs) -> Iterator[str]:
    """A line an arm, between the start and the gold tokens."""
    yield f"| arm | seeds | {' | '.join(SHOWN.values())} | gate at the end | seconds of steps |"
    yield f"|---|---|{'---|' * (len(SHOWN) + 2)}"
    start = of_arm(found, START).get(0)
    if start is not None:
        yield f"| *start* | | {' | '.join(interval(start.last, name) for name in SHOWN)} | | |"
    for arm in ARMS:
        if runs := list(of_arm(found, arm).values()):
            cells = " | ".join(spread([each.last[name] for each in runs]) for name in SHOWN)
            gates = [each.gate for each in runs if each.gate is not None]
            seconds = f"{min(each.seconds for each in runs):.0f} to {max(each.seconds for each in runs):.0f}"
            yield f"| {arm} | {len(runs)} | {cells} | {spread(gates) if gates else ''} | {seconds} |"
    if start is not None and f"{COMPARED[0]}/ceiling" in start.last:
        yield f"| *gold tokens* | | {' | '.join(format(start.last[f'{name}/ceiling'], '.3f') for name in SHOWN)} | | |"


def pairs(found: Runs, edges: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    """A line a pair whose arms have seeds in common."""
    yield f"| first | second | the difference | seeds, pairs | {' | '.join(SHOWN[each] for each in COMPARED)} |"
    yield f"|---|---|---|---|{'---|' * len(COMPARED)}"
    rows: list[tuple[str, list[PairedDifference | None]]] = []
    for first, second, what in edges:
        a, b = of_arm(found, first), of_arm(found, second)
        seeds = sorted(set(a) & set(b))
        if not seeds:
            continue
        each = [compare([a[seed].items for seed in seeds], [b[seed].items for seed in seeds], x) for x in COMPARED]
        count = next((one.count for one in each if one is not None), 0)
        rows.append((f"| {first} | {second} | {what} | {len(seeds)}, {count} |", each))
    known = [one for _, row in rows for one in row if one is not None]
    corrected = {id(one): p for one, p in zip(known, holm([one.p for one in known]), strict=True)}
    for lead, row in rows:
        yield f"{lead} {' | '.join(difference(one, corrected) for one in row)} |"


def by_demonstration(found: Runs) -> Iterator[str]:
    """A line an arm: facts that the seed's demonstrations show, and the others."""
    yield "| arm | seeds | the 64 | the other 149 |"
    yield "|---|---|---|---|"
    start = found.get((START, 0))
    seeds = sorted({seed for arm, seed in found if arm != START})
    arms = {"*start*": dict.fromkeys(seeds, start)} if start is not None else {}
    for arm, runs in {**arms, **{arm: of_arm(found, arm) for arm in ARMS}}.items():
        shares = [_shares(each.items, demonstrated(seed)) for seed, each in runs.items() if each is not None]
        if shares:
            yield f"| {arm} | {len(shares)} | {' | '.join(spread(column) for column in zip(*shares, strict=True))} |"


def every(found: Runs) -> Iterator[str]:
    """A line a run."""
    yield f"| arm | seed | {' | '.join(SHOWN.values())} | gate at the end | seconds of steps |"
    yield f"|---|---|{'---|' * (len(SHOWN) + 2)}"
    for arm in ARMS:
        for seed, each in of_arm(found, arm).items():
            cells = " | ".join(interval(each.last, name) for name in SHOWN)
            gate = "" if each.gate is None else f"{each.gate:.3f}"
            yield f"| {arm} | {seed} | {cells} | {gate} | {each.seconds:.0f} |"


def demonstrated(seed: int) -> frozenset[str]:
    """Facts that the quickstart's demonstrations show under `seed`."""
    scene = Scene(
        split="demonstrations", renditions=1, limit=None, voices=1, cue="both", misconceptions=0.0, slips=0.0,
        mumbling=0.0, demonstrations=64, world_seed=0, seed=seed,
    )  # fmt: skip
    return frozenset(line.fact.id for line in lines(scene))


def _shares(items: Split, facts: frozenset[str]) -> tuple[float, float]:
    """Text right among the items about `facts`, and among the others; an item is named split-fact-style-rendition."""
    right: tuple[list[float], list[float]] = ([], [])
    for (dialogue, _), outcome in items.items():
        fact = dialogue.removeprefix("heldout-").rsplit("-", 2)[0]
        right[0 if fact in facts else 1].append(outcome.values["text_accuracy"] or 0.0)
    return statistics.mean(right[0]), statistics.mean(right[1])


if __name__ == "__main__":
    main()
