"""The run's page: one HTML file that opens offline, sound included."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from wavalign import __version__
from wavalign.engine.report.cards import Card, before_and_after
from wavalign.engine.report.curves import Section, sections
from wavalign.engine.report.data import Measure, RunData, read_run
from wavalign.engine.report.memory import WHEN, memories
from wavalign.engine.report.paired import said_p
from wavalign.engine.report.pictures import picture_rows
from wavalign.engine.report.plots import SMOOTH_FROM, Chart, digits, interval_strip, line_chart, number
from wavalign.engine.report.rounds import all_rounds
from wavalign.engine.report.sides import CardMaker, CardView, Column
from wavalign.engine.report.sound import SoundBox
from wavalign.engine.report.speed import speeds
from wavalign.engine.report.summary import fixed, headline, rows, verdict
from wavalign.engine.report.training import steps, worries
from wavalign.engine.state.files import write_text
from wavalign.engine.state.folder import RunFolder
from wavalign.redaction import REDACTOR

MOST_HEADLINES = 4
"""Figures in large type under the verdict."""
MOST_CARDS = 36
"""Held-out dialogues on a page."""
COLUMNS = (
    Column("Before", "the answer before training", "before", filled=False),
    Column("After", "the answer after training", "c2"),
)

SMOOTH_NOTE = (
    f"Rewards, losses and speed over {SMOOTH_FROM} steps or more are drawn faintly as logged, "
    "boldly as a moving average."
)


@final
@dataclass(frozen=True, slots=True)
class LegendItem:
    """A curve's name, colour and last value."""

    label: str
    colour: str
    dashed: bool
    value: str


@final
@dataclass(frozen=True, slots=True)
class ChartView:
    """A chart ready for the template."""

    title: str
    caption: str
    svg: Markup
    legend: tuple[LegendItem, ...]
    last_step: str
    unit: str = "step"
    """What the axis counts."""


@final
@dataclass(frozen=True, slots=True)
class SectionView:
    """Charts under one heading, ready for the template."""

    title: str
    charts: tuple[ChartView, ...]


def write_report(folder: Path, *, complete: bool = False) -> Path:
    """Write `report.html` into the run's `folder` and give its path.

    A run that ends says `complete` itself: the mark of a finished run is written last, after its report.
    Raises DataError when `folder` is no run's folder, StorageError when the file cannot be written.
    """
    path = RunFolder(folder).report
    run = read_run(folder)
    write_text(path, render_report(replace(run, complete=run.complete or complete)))
    return path


def render_report(run: RunData) -> str:
    """The page of `run` as HTML."""
    box = SoundBox()
    found = rows(run)
    cards, left_out = card_views(before_and_after(run), COLUMNS, box, run.measures)
    rollouts = steps(run, box)
    damaged: list[str] = []
    held = memories(run, damaged)
    notes = [*run.notes, *damaged, *left_out, *(f"Sound could not be read: {what}" for what in box.unreadable)]
    return (
        environment()
        .get_template("template.html")
        .render(
            run=run,
            version=__version__,
            verdict=verdict(run, found),
            headline=headline(found, MOST_HEADLINES),
            worries=worries(run, found),
            rows=[(split, list(group)) for split, group in groupby(found, key=lambda row: row.split)],
            by_item=any(row.paired is not None for row in found),
            num_tested=sum(row.counts and row.paired is not None for row in found),
            strip=lambda row: interval_strip(row.before, row.after, row.drawn_ceiling),
            cards=cards,
            filters=filters(cards),
            rounds=[(each, [chart_view(chart) for chart in each.charts]) for each in all_rounds(run)],
            pictures=picture_rows(run),
            rollouts=rollouts,
            sound_note=sound_note(box),
            sections=section_views(sections(run)),
            smooth_note=SMOOTH_NOTE,
            speeds=speeds(run),
            memories=held,
            when=WHEN,
            facts=_facts(run),
            started=_started(run),
            recipe=highlighted(run.recipe),
            pruned=[item for stage in run.stages for item in stage.pruned],
            notes=notes,
        )
    )


def environment() -> Environment:
    """Templates of the report, with everything escaped and nothing silently undefined."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_without_secrets,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["fixed"] = fixed
    made.filters["number"] = number
    made.filters["counted"] = _counted
    made.filters["said_p"] = said_p
    return made


def card_views(
    cards: Sequence[Card], columns: Sequence[Column], box: SoundBox, measures: Mapping[str, Measure]
) -> tuple[list[CardView], list[str]]:
    """As many of `cards` as a page holds, those that can be heard first, in their order; and a note on the others."""
    left, maker = len(cards) - MOST_CARDS, CardMaker(box, measures, cards)
    notes = [f"{left} of {len(cards)} kept dialogues are not shown; see evaluation.jsonl."] if left > 0 else []
    # What is odd must not crowd out the samples that were chosen beforehand: they have all their sounds.
    chosen = {id(card) for card in sorted(cards, key=lambda card: card.num_sounds, reverse=True)[:MOST_CARDS]}
    return [maker.view(card, columns) for card in cards if id(card) in chosen], notes


def filters(cards: Sequence[CardView]) -> list[tuple[str, str, int]]:
    """Tag, name and number of cards of every filter that would show some of them and not all."""
    named = {
        "suspicious": "suspicious",
        "apart": "runs differ",
        "wrong": "something wrong",
        "right": "all right",
        "worse": "got worse",
        "better": "got better",
    }
    counted = {tag: sum(tag in card.tags.split() for card in cards) for tag in named}
    return [("", "all", len(cards)), *((tag, named[tag], count) for tag, count in counted.items() if count)]


def _without_secrets(value: object) -> object:
    """What a template writes, last of all; markup was made of texts that came through `read_run`."""
    return REDACTOR.text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _counted(value: float | None) -> str:
    """Whole numbers whole."""
    return f"{value:,.0f}" if value is not None and value == int(value) else number(value)


def section_views(groups: Iterable[Section]) -> list[SectionView]:
    """Draw every chart."""
    return [SectionView(group.title, tuple(chart_view(chart) for chart in group.charts)) for group in groups]


def chart_view(chart: Chart) -> ChartView:
    """Draw one chart and write its legend; curves without a point are left out of both."""
    curves = [curve for curve in chart.curves if curve.points]
    places = digits([value for curve in curves for _, value in curve.points])
    legend = tuple(LegendItem(c.label, c.colour, c.dashed, number(c.points[-1][1], places)) for c in curves)
    last = max((step for curve in curves for step, _ in curve.points), default=0)
    return ChartView(chart.title, chart.caption, line_chart(chart), legend, f"{last:,.0f}", chart.unit)


def highlighted(recipe: str) -> Markup:
    """YAML text with keys and comments in colour."""
    shown = []
    for line in recipe.splitlines():
        if line.lstrip().startswith("#"):
            shown.append(Markup('<span class="c">{}</span>').format(line))
            continue
        match = re.match(r"(\s*(?:- )*)([\w.\-/]+)(:(?:\s.*)?)$", line)
        shown.append(Markup('{}<span class="k">{}</span>{}').format(*match.groups()) if match else escape(line))
    return Markup("\n").join(shown)


def duration(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return "not logged"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def sound_note(box: SoundBox) -> str:
    """What to say where sounds were left out; empty where none was."""
    if not box.left_out:
        return ""
    total = box.embedded + box.left_out
    return (
        f"To keep this page small, {box.left_out} of {total} sounds were left out; they are in the run's audio folder."
    )


def _started(run: RunData) -> str:
    times = [line.time for line in run.lines if line.time]
    return min(times)[:16].replace("T", " ") if times else ""


def _facts(run: RunData) -> list[tuple[str, str]]:
    stages = ", ".join(f"{stage.name} ({stage.steps:,} steps)" for stage in run.stages)
    steps = f"{run.steps_done:,} of {run.steps_planned:,}" if run.steps_planned else f"{run.steps_done:,}"
    known = dict(run.environment)
    hardware = [known[key] for key in ("hardware", "gpus", "processor") if key in known]
    if "cores" in known:
        hardware.append(f"{known['cores']} cores")
    versions = [f"{key} {known[key]}" for key in ("wavalign", "python") if key in known]
    versions += [f"{key.split('.', 1)[1]} {value}" for key, value in known.items() if key.startswith("versions.")]
    facts = [
        ("Recipe", run.name),
        ("Seed", str(run.seed) if run.seed is not None else ""),
        ("Steps", steps),
        ("Stages", stages),
        ("Time in steps and evaluations", duration(run.seconds)),
        ("Hardware", ", ".join(hardware)),
        ("Versions", ", ".join(versions)),
        ("Plan fingerprint", run.fingerprint),
        ("Command", known.get("command", "")),
    ]
    return [(name, value) for name, value in facts if value]
