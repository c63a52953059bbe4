"""Several runs on one page: arms and seeds in one table, curves laid over one another."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import final

from wavalign import __version__
from wavalign.engine.report.cards import side_by_side
from wavalign.engine.report.curves import PALETTE, Section
from wavalign.engine.report.data import RunData, read_run
from wavalign.engine.report.outcomes import compare
from wavalign.engine.report.page import card_views, duration, environment, filters, section_views, sound_note
from wavalign.engine.report.paired import PairedDifference, holm, sentence
from wavalign.engine.report.plots import Chart, Curve, Interval, interval_strip
from wavalign.engine.report.preferences import OWN
from wavalign.engine.report.sides import Column
from wavalign.engine.report.sound import SoundBox
from wavalign.engine.report.summary import Row, decimals, rows
from wavalign.engine.state.files import write_text
from wavalign.errors import UsageError

CURVES = {
    "Reward": ("reward", "reward/"),
    "Gate": ("gate", "gate/", "share/"),
    "Loss": ("loss", "loss/"),
    "Preferences": tuple(f"*/{name}" for name in ("margin", "accuracy", *sorted(OWN - {"margin", "accuracy"}))),
    "By token kind": ("kl/",),
    "Answers and speed": ("rollout_length", "truncated", "grad_norm", "tokens_per_second"),
}
"""Heading -> keys, beginnings of keys where they end in a slash, or ends of keys behind a star."""
MOST_CROSSED = 4
"""Arms that are compared each with each."""
SMOOTH = ("reward", "loss", "tokens_per_second")


@final
@dataclass(frozen=True, slots=True)
class Arm:
    """Runs of one recipe that differ in nothing but the seed."""

    name: str
    colour: str
    runs: tuple[RunData, ...]


@final
@dataclass(frozen=True, slots=True)
class TableLine:
    """A row of the table: a run's, or the mean of an arm's seeds."""

    label: str
    colour: str
    row: Row
    is_mean: bool


@final
@dataclass(frozen=True, slots=True)
class Block:
    """One held-out value over all runs."""

    split: str
    name: str
    lines: tuple[TableLine, ...]
    decimals: int
    axis: tuple[float, float]
    says: str = ""
    """What the value is, in a sentence."""
    verdicts: tuple[str, ...] = ()
    """Arm against arm, on the same items."""

    @property
    def is_part(self) -> bool:
        """It breaks another value down."""
        return "/" in self.name


@final
@dataclass(frozen=True, slots=True)
class Listed:
    """A run with its label and colour."""

    label: str
    colour: str
    run: RunData
    time: str


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write a page that compares the runs in `folders` to `out` and give its path.

    Raises UsageError for fewer than two folders, DataError for one that is no run's, StorageError when it cannot write.
    """
    if len(folders) < 2:
        raise UsageError("a comparison needs at least two runs", hint="name two or more run folders")
    write_text(out, render_comparison([read_run(folder) for folder in folders]))
    return out


def render_comparison(runs: Sequence[RunData]) -> str:
    """The comparison of `runs` as HTML."""
    grouped = arms(runs)
    listing = [Listed(_label(arm, run), arm.colour, run, duration(run.seconds)) for arm in grouped for run in arm.runs]
    page, box = environment().get_template("comparison.html"), SoundBox()
    columns = [Column(listed.label, f"the answer of {listed.label}", listed.colour) for listed in listing]
    measures = {name: each for run in runs for name, each in run.measures.items()}
    cards, left_out = card_views(side_by_side([listed.run for listed in listing]), columns, box, measures)
    found = compared(blocks(grouped), grouped)
    return page.render(
        version=__version__,
        num_runs=len(runs),
        arms=grouped,
        blocks=found,
        shown=[block for block in found if block.split == found[0].split and block.verdicts],
        num_tested=sum(len(block.verdicts) for block in found),
        strip=lambda row, axis: interval_strip(row.before, row.after, row.drawn_ceiling, axis=axis),
        cards=cards,
        filters=filters(cards),
        sound_note=sound_note(box),
        sections=section_views(_sections(listing)),
        listing=listing,
        notes=[
            *(f"{listed.label}: {note}" for listed in listing for note in listed.run.notes),
            *left_out,
            *(f"Sound could not be read: {what}" for what in box.unreadable),
        ],
    )


def arms(runs: Sequence[RunData]) -> list[Arm]:
    """Group `runs` by recipe without its seed and folder, in order of appearance; equal names are told apart."""
    grouped: dict[tuple[str, str], list[RunData]] = {}
    for run in runs:
        grouped.setdefault((run.name, _without_seed(run.recipe)), []).append(run)
    names = [name for name, _ in grouped]
    made = []
    for index, ((name, _), members) in enumerate(grouped.items()):
        shown = name if names.count(name) == 1 else f"{name} ({members[0].folder.name})"
        made.append(Arm(shown, PALETTE[index % len(PALETTE)], tuple(members)))
    return made


def blocks(grouped: Sequence[Arm]) -> list[Block]:
    """One table per split and value, runs as rows, with a row of means for arms of several seeds."""
    tables: dict[tuple[str, str], list[TableLine]] = {}
    for arm in grouped:
        own: dict[tuple[str, str], list[TableLine]] = {}
        for run in arm.runs:
            for row in rows(run):
                line = TableLine(_label(arm, run), arm.colour, row, is_mean=False)
                own.setdefault((row.split, row.name), []).append(line)
        for key, lines in own.items():
            mean = [_mean(arm, [line.row for line in lines])] if len(lines) > 1 else []
            tables.setdefault(key, []).extend([*lines, *mean])
    return [_block(split, name, lines) for (split, name), lines in tables.items()]


def compared(found: Sequence[Block], grouped: Sequence[Arm]) -> list[Block]:
    """The blocks with what every pair of arms (of many arms, the first with each other) shows on the same items."""
    pairs = list(combinations(grouped, 2)) if len(grouped) <= MOST_CROSSED else [(grouped[0], b) for b in grouped[1:]]
    differences: list[tuple[Block, Arm, Arm, PairedDifference]] = []
    for block in found:
        for a, b in () if block.is_part or _is_still(block) else pairs:
            difference = against(a, b, block.split, block.name)
            if difference is not None:
                differences.append((block, a, b, difference))
    corrected = holm([difference.p for *_, difference in differences])
    said: dict[int, list[str]] = {}
    for (block, a, b, difference), p in zip(differences, corrected, strict=True):
        said.setdefault(id(block), []).append(_said(block, (a, b), difference, p))
    return [replace(block, verdicts=tuple(said.get(id(block), ()))) for block in found]


def against(a: Arm, b: Arm, split: str, value: str) -> PairedDifference | None:
    """How much `value` of arm `a` lies above that of `b` at the end, on the seeds that both ran; None where none is."""
    ours, theirs = ({run.seed: run for run in reversed(arm.runs) if split in run.outcomes} for arm in (a, b))
    seeds = sorted(ours.keys() & theirs.keys(), key=str)
    if not seeds:
        return None
    ends = [[each[seed].outcomes[split].last for seed in seeds] for each in (ours, theirs)]
    return compare(ends[0], ends[1], value)


def _is_still(block: Block) -> bool:
    """All items right, or none, at the end of every run."""
    ends = {line.row.after.value for line in block.lines if line.row.after is not None and not line.is_mean}
    return ends in ({0.0}, {1.0})


def _said(block: Block, pair: tuple[Arm, Arm], difference: PairedDifference, p: float) -> str:
    seeds = f", {difference.seeds} seeds" if difference.seeds > 1 else ""
    text = sentence(difference, pair[0].name, pair[1].name, places=block.decimals, p=p)
    return f"{text} ({difference.count // difference.seeds} items{seeds})"


def _block(split: str, name: str, lines: Sequence[TableLine]) -> Block:
    shown = [
        part
        for line in lines
        for part in (line.row.before, line.row.after, line.row.ceiling)
        if part is not None
    ]  # fmt: skip
    axis = (min((part.low for part in shown), default=0.0), max((part.high for part in shown), default=1.0))
    measure = lines[0].row.measure
    says = "" if measure is None else measure.says
    return Block(split, name, tuple(lines), decimals([part.value for part in shown]), axis, says)


def _mean(arm: Arm, found: Sequence[Row]) -> TableLine:
    first = found[0]
    row = Row(
        split=first.split,
        name=first.name,
        before=_spread([row.before for row in found]),
        after=_spread([row.after for row in found]),
        ceiling=_spread([row.ceiling for row in found]),
        count=None,
    )
    return TableLine(f"{arm.name}, mean of {len(found)} seeds", arm.colour, row, is_mean=True)


def _spread(parts: Sequence[Interval | None]) -> Interval | None:
    """Mean, lowest and highest value; None unless every seed has one."""
    values = [part.value for part in parts if part is not None]
    if len(values) < len(parts):
        return None
    return Interval(fmean(values), min(values), max(values))


def _sections(listing: Sequence[Listed]) -> list[Section]:
    keys = list(dict.fromkeys(key for listed in listing for line in listed.run.train for key in line.values))
    made = []
    for title, wanted in CURVES.items():
        chosen = [key for key in keys if _is_wanted(key, wanted)]
        charts = tuple(_chart(key, listing) for key in chosen)
        made.append(Section(title, charts))
    return [section for section in made if section.charts]


def _is_wanted(key: str, wanted: Sequence[str]) -> bool:
    if key.endswith(("/failed", "/absent")):
        return False
    return any(
        key == name or (name.endswith("/") and key.startswith(name)) or (name[0] == "*" and key.endswith(name[1:]))
        for name in wanted
    )


def _chart(key: str, listing: Sequence[Listed]) -> Chart:
    curves = []
    for listed in listing:
        points = [(float(line.step), line.values[key]) for line in listed.run.train if key in line.values]
        curves.append(Curve(listed.label, listed.colour, points))
    return Chart(key, "", tuple(curves), smooth=key.split("/", maxsplit=1)[0] in SMOOTH)


def _label(arm: Arm, run: RunData) -> str:
    twins = [other for other in arm.runs if other.seed == run.seed]
    seed = f"seed {run.seed}" if run.seed is not None else run.folder.name
    return f"{arm.name}, {seed}" if len(twins) == 1 else f"{arm.name}, {seed} ({run.folder.name})"


def _without_seed(recipe: str) -> str:
    """The resolved recipe without its top-level `seed:` and any `folder:` line."""
    return re.sub(r"(?m)^(seed:|\s*folder:).*\n?", "", recipe)
