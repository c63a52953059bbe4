"""A calibration as one HTML page: the numbers, judge against people, and the answers over which they differ most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from markupsafe import Markup

from wavalign import __version__
from wavalign.engine.report.agreement import Judged
from wavalign.engine.report.corrections import as_correction, corrected
from wavalign.engine.report.judge_tables import SAYS, bins
from wavalign.engine.report.page import environment
from wavalign.engine.report.plots import HEIGHT, LEFT, WIDTH, Interval, interval_strip, tick_labels, ticks
from wavalign.engine.report.sound import Player, SoundBox
from wavalign.schema.calibration import Affine, Calibration, Estimate, Isotonic

BOTTOM, EDGE = 26, 10
MOST_DOTS = 2000
CURVE = 41
"""Places at which a correction is drawn."""
SHARED_AXIS = ("pearson", "spearman", "spearman_within", "self_icc", "length_words", "length_seconds")
"""Correlations: their intervals are drawn from -1 to 1."""


@final
@dataclass(frozen=True, slots=True)
class Apart:
    """An answer over which judge and people differ."""

    name: str
    question: str
    text: str
    audio: Path | None
    judge: float
    """Mean of the askings, on the people's scale."""
    people: float


@final
@dataclass(frozen=True, slots=True)
class Line:
    """A statistic in the table."""

    name: str
    says: str
    estimate: Estimate
    strip: Markup


def render_judge(found: Calibration, judged: Judged, apart: Sequence[Apart]) -> str:
    """The page."""
    box = SoundBox()
    return (
        environment()
        .get_template("judge.html")
        .render(
            version=__version__,
            made=found,
            lines=lines(found.statistics),
            kinds=[(name, lines(part)) for name, part in found.parts.items()],
            scatter=scatter(found, judged),
            bins=bins(judged, 8),
            apart=[(each, _player(box, each)) for each in apart],
            unreadable=box.unreadable,
        )
    )


def lines(found: Mapping[str, Estimate]) -> list[Line]:
    """The statistics in the order they are told."""
    return [Line(*SAYS[name], found[name], _strip(name, found[name])) for name in SAYS if name in found]


def _strip(name: str, found: Estimate) -> Markup:
    if found.value is None or found.low is None or found.high is None:
        return Markup("")
    axis = (-1.0, 1.0) if name in SHARED_AXIS else (min(0.0, found.low), max(0.0, found.high))
    return interval_strip(None, Interval(found.value, found.low, found.high), None, axis=axis)


def scatter(found: Calibration, judged: Judged) -> Markup:
    """Askings as dots, judge across and people up, with both corrections; dots on one place lie beside each other."""
    x_values = judged.judge[~np.isnan(judged.judge)]
    low, high = judged.span if judged.span is not None else (float(x_values.min()), float(x_values.max()))
    x_ticks, y_ticks = ticks(low, high), ticks(*found.scale)
    x, y = _Axis(x_ticks, LEFT, WIDTH - EDGE), _Axis(y_ticks, HEIGHT - BOTTOM, EDGE)
    body = [_grid(x, y)]
    body += [_dots(judged, x, y)]
    for fit, colour in ((found.affine, "c1"), (found.isotonic, "c2")):
        if fit is not None:
            body.append(_fit(fit, found.scale, (low, high), colour, x, y))
    said = f"people against {found.reward}: {found.answers} answers, asked {found.repeats} times"
    return Markup('<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{said}">{body}</svg>').format(
        w=WIDTH, h=HEIGHT, said=said, body=Markup("".join(body))
    )


@final
class _Axis:
    def __init__(self, marks: Sequence[float], start: float, end: float) -> None:
        self.marks, self._start, self._end = marks, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.marks[0]) / (self.marks[-1] - self.marks[0])
        return round(self._start + share * (self._end - self._start), 1)


def _grid(x: _Axis, y: _Axis) -> str:
    parts = []
    for value, label in zip(y.marks, tick_labels(y.marks)[0], strict=True):
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - EDGE}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y(value) + 3.5}" text-anchor="end">{label}</text>')
    for value, label in zip(x.marks, tick_labels(x.marks)[0], strict=True):
        parts.append(f'<text class="tick" x="{x(value)}" y="{HEIGHT - 9}" text-anchor="middle">{label}</text>')
    return "".join(parts)


def _dots(judged: Judged, x: _Axis, y: _Axis) -> str:
    generator, count = np.random.default_rng(0), judged.judge.size
    apart = generator.uniform(-3, 3, size=(2, *judged.judge.shape))
    chosen = [(r, i) for r, i in np.argwhere(~np.isnan(judged.judge)).tolist()]
    chosen = chosen[:: max(1, count // MOST_DOTS)]
    return "".join(
        f'<circle class="asked" cx="{x(float(judged.judge[r, i])) + apart[0, r, i]:.1f}" '
        f'cy="{y(float(judged.people[i])) + apart[1, r, i]:.1f}" r="1.6"/>'
        for r, i in chosen
    )


def _fit(
    fit: Affine | Isotonic, scale: tuple[float, float], span: tuple[float, float], colour: str, x: _Axis, y: _Axis
) -> str:
    at = np.linspace(*span, CURVE)
    values = corrected(at, as_correction(fit, scale))
    path = "L".join(f"{x(float(a)):g} {y(float(b)):g}" for a, b in zip(at, values, strict=True))
    return f'<g style="--c:var(--{colour})"><path class="line" d="M{path}"/></g>'


def _player(box: SoundBox, each: Apart) -> Player | None:
    sound = box.read(each.audio)
    return box.player(sound, sound.seconds) if sound is not None else None
