"""Small SVG drawings made by hand: line charts, interval strips, waveforms.

A drawing carries its numbers in `data-` attributes, so that the page's script can show the values under the pointer;
without script the drawing, its title and its legend still say everything. Colours are CSS variables of the page.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
MOST_POINTS = 240
"""Points drawn per curve; longer ones keep the lowest and highest of each bucket."""
MOST_BARS = 72
"""Bars of a waveform that fills its place."""
LONGEST_LABEL = 7
"""Characters that have room beside an axis."""
SMOOTH_FROM = 40
"""Curves with this many points get a moving average over the raw line."""

Points = Sequence[tuple[float, float]]
"""(step, value) in order of steps."""


@final
@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a chart."""

    label: str
    colour: str
    """Name of a colour variable of the page, e.g. `text`."""
    points: Points
    dashed: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    """(step, low, high) of an interval around the line."""


@final
@dataclass(frozen=True, slots=True)
class Chart:
    """A titled set of curves over steps."""

    title: str
    caption: str
    curves: Sequence[Curve]
    floor: float | None = None
    """Lowest value the axis must show."""
    top: float | None = None
    """Highest value the axis must show."""
    smooth: bool = False
    marks: Sequence[tuple[float, str]] = ()
    """Vertical lines with a name: where a stage begins."""
    unit: str = "step"
    """What the axis counts."""


@final
@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 1)


def number(value: float | None, digits: int = 3) -> str:
    """`value` for people: about `digits` significant digits, a true minus, no needless exponent."""
    if value is None:
        return "–"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000 and size < 1e7:
        text = f"{size:,.0f}"
    elif size >= 1e7 or size < 1e-3:
        text = f"{size:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e")
    else:
        text = f"{size:.{max(0, digits - 1 - math.floor(math.log10(size)))}f}"
    return ("−" if value < 0 else "") + text


def digits(values: Sequence[float]) -> int:
    """Significant digits that tell the lowest of `values` from the highest; 3 where that is enough."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if is_level(low, high):
        return 3
    return min(9, max(3, math.ceil(math.log10(max(abs(low), abs(high)) / (high - low))) + 2))


def is_level(low: float, high: float) -> bool:
    """Whether two values differ by no more than their rounding."""
    return high - low <= 1e-12 * max(abs(low), abs(high))


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round values that cover `low` to `high`, about `wanted` of them."""
    if is_level(low, high):
        pad = abs(low) * 0.1
        low, high = (low - pad, high + pad) if pad else (0.0, 1.0)
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if raw <= factor * power * 1.0001)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    places = max(0, 12 - math.floor(math.log10(step)))
    return [round(index * step, places) for index in range(first, last + 1)]


def thin(points: Points) -> list[tuple[float, float]]:
    """At most about `MOST_POINTS` of `points`: per bucket the lowest and the highest, so peaks stay."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (MOST_POINTS // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        extremes = {min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])}
        if start + size >= len(points):
            extremes.add(bucket[-1])
        kept.extend(sorted(extremes))
    return kept


def smoothed(points: Points) -> tuple[list[tuple[float, float]], int]:
    """Trailing moving average of `points` and its width in points."""
    width = max(2, len(points) // 20)
    values = np.asarray([value for _, value in points], dtype=np.float64)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    out: list[tuple[float, float]] = []
    for index, (step, _) in enumerate(points):
        start = max(0, index + 1 - width)
        out.append((step, float((sums[index + 1] - sums[start]) / (index + 1 - start))))
    return out, width


def line_chart(chart: Chart) -> Markup:
    """Draw `chart` as an `<svg>`; empty when no curve has a point."""
    curves = [curve for curve in chart.curves if curve.points]
    if not curves:
        return Markup("")
    steps = [step for curve in curves for step, _ in curve.points]
    values = [value for curve in curves for _, value in curve.points]
    values += [bound for curve in curves for _, low, high in curve.band for bound in (low, high)]
    values += [bound for bound in (chart.floor, chart.top) if bound is not None]
    y_ticks = ticks(min(values), max(values))
    x = _Scale(min(steps), max(steps), LEFT, WIDTH - RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    body = [_axes(x, y, y_ticks), _marks(x, chart.marks), *(_curve(curve, chart, x, y) for curve in curves)]
    body.append(f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="-9" x2="-9"/>')
    places = digits([value for curve in curves for _, value in curve.points])
    said = f"{chart.title}, {chart.unit}s {number(x.low)} to {number(x.high)}: " + "; ".join(
        f"{curve.label} from {number(curve.points[0][1], places)} to {number(curve.points[-1][1], places)}"
        for curve in curves
    )
    data = [[[step, float(f"{value:.{places + 2}g}")] for step, value in thin(curve.points)] for curve in curves]
    return Markup(
        '<svg class="chart" viewBox="0 0 {w} {h}" role="img" tabindex="0" aria-label="{said}" data-x="{x}" '
        'data-unit="{unit}" data-digits="{places}" data-series="{data}"><title>{said}</title>{body}</svg>'
    ).format(
        w=WIDTH,
        h=HEIGHT,
        said=said,
        places=places,
        unit=chart.unit,
        x=json.dumps([x.low, x.high, x.start, x.end]),
        data=json.dumps(data),
        body=Markup("".join(body)),
    )


def _axes(x: _Scale, y: _Scale, y_ticks: Sequence[float]) -> str:
    parts = []
    labels, base = tick_labels(y_ticks)
    for value, label in zip(y_ticks, labels, strict=True):
        at = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{at + 3.5}" text-anchor="end">{label}</text>')
    if base:
        parts.append(f'<text class="tick" x="{LEFT + 4}" y="{TOP + 8}">{base}</text>')
    for value in _whole_ticks(x.low, x.high):
        anchor = "end" if x(value) > WIDTH - RIGHT - 12 else "middle"
        parts.append(f'<text class="tick" x="{x(value)}" y="{HEIGHT - 9}" text-anchor="{anchor}">{_tick(value)}</text>')
    return "".join(parts)


def tick_labels(values: Sequence[float]) -> tuple[list[str], str]:
    """Labels that differ, and what they count from where that is not 0: close to a number, its distance is written."""
    plain = [_tick(value) for value in values]
    if len(set(plain)) == len(plain) and max(len(label) for label in plain) <= LONGEST_LABEL:
        return plain, ""
    step = min(later - earlier for earlier, later in pairwise(values))
    middle = values[len(values) // 2]
    # The roundest number near: 1 rather than 0.99999985.
    base = round(middle, max(0, -math.floor(math.log10(step)) - 2))
    labels = [_tick(value - base if abs(value - base) > step / 1e3 else 0.0) for value in values]
    signed = [label if label == "0" or label.startswith("−") else f"+{label}" for label in labels]
    return signed, f"from {base:.12g}"


def _whole_ticks(low: float, high: float) -> list[float]:
    return [value for value in ticks(low, high, 5) if low <= value <= high and value == int(value)]


def _tick(value: float) -> str:
    size = abs(value)
    if 0 < size < 1e-3 or size >= 1e6:
        text = f"{size:.1e}".replace("e-0", "e-").replace("e+0", "e").replace(".0e", "e")
    elif size >= 1e4:
        text = f"{size / 1000:g}k"
    else:
        text = f"{size:g}"
    return ("−" if value < 0 else "") + text


def _marks(x: _Scale, marks: Sequence[tuple[float, str]]) -> str:
    parts = []
    for step, name in marks:
        at = x(step)
        parts.append(f'<line class="stage" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{at + 3}" y="{TOP + 8}">{escape(name)}</text>')
    return "".join(parts)


def _curve(curve: Curve, chart: Chart, x: _Scale, y: _Scale) -> str:
    style = f'style="--c:var(--{escape(curve.colour)})"'
    dash = " dashed" if curve.dashed else ""
    parts = [f"<g {style}><title>{escape(curve.label)}</title>"]
    if curve.band:
        edge = [(step, high) for step, _, high in curve.band] + [(step, low) for step, low, _ in reversed(curve.band)]
        parts.append(f'<path class="band" d="{_path(edge, x, y)}Z"/>')
    main: Points = curve.points
    if chart.smooth and len(curve.points) >= SMOOTH_FROM:
        parts.append(f'<path class="line raw" d="{_path(thin(curve.points), x, y)}"/>')
        main, _ = smoothed(curve.points)
    parts.append(f'<path class="line{dash}" d="{_path(thin(main), x, y)}"/>')
    step, value = main[-1]
    parts.append(f'<circle class="end" cx="{x(step)}" cy="{y(value)}" r="2.6"/></g>')
    return "".join(parts)


def _path(points: Points, x: _Scale, y: _Scale) -> str:
    return "M" + "L".join(f"{x(step):g} {y(value):g}" for step, value in points)


@final
@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval; low and high are the value itself where none was logged."""

    value: float
    low: float
    high: float


def interval_strip(
    before: Interval | None,
    after: Interval | None,
    ceiling: Interval | None,
    *,
    axis: tuple[float, float] | None = None,
) -> Markup:
    """Before (hollow) above after (filled), with the gold answers as a tick behind both.

    `axis` (low, high) lets several strips share a scale; None spans what is shown.
    """
    shown = [part for part in (before, after, ceiling) if part is not None]
    if not shown:
        return Markup("")
    low, high = axis or (min(part.low for part in shown), max(part.high for part in shown))
    pad = (high - low) * 0.04 or 1.0
    x = _Scale(low - pad, high + pad, 4, 196)
    parts = []
    if ceiling is not None:
        width = max(1.5, x(ceiling.high) - x(ceiling.low))
        parts.append(f'<rect class="gold-band" x="{x(ceiling.low)}" y="1" width="{width:.1f}" height="28"/>')
        parts.append(f'<line class="gold-line" x1="{x(ceiling.value)}" x2="{x(ceiling.value)}" y1="1" y2="29"/>')
    for name, part, at in (("before", before, 9), ("after", after, 21)):
        if part is not None:
            parts.append(f'<line class="whisker {name}" x1="{x(part.low)}" x2="{x(part.high)}" y1="{at}" y2="{at}"/>')
            parts.append(f'<circle class="dot {name}" cx="{x(part.value)}" cy="{at}" r="4"/>')
    words = (("before", before), ("after", after), ("gold", ceiling))
    said = ", ".join(f"{n} {number(p.value)} ({number(p.low)} to {number(p.high)})" for n, p in words if p is not None)
    return Markup(
        '<svg class="strip" viewBox="0 0 200 30" role="img" aria-label="{said}"><title>{said}</title>{body}</svg>'
    ).format(said=said, body=Markup("".join(parts)))


def waveform(samples: npt.NDArray[np.float32], share: float) -> Markup:
    """Bars of the loudest sample per bucket; the drawing fills `share` (0..1) of the width it is given."""
    bars = max(4, round(MOST_BARS * share))
    edges = np.linspace(0, len(samples), bars + 1).astype(int)
    peaks = np.asarray([np.abs(samples[a:b]).max() if b > a else 0.0 for a, b in pairwise(edges)])
    loudest = float(peaks.max()) or 1.0
    path = "".join(
        f"M{2 * index + 1} {20 - max(0.6, 18 * peak / loudest):.1f}V{20 + max(0.6, 18 * peak / loudest):.1f}"
        for index, peak in enumerate(peaks.tolist())
    )
    return Markup(
        '<svg class="wave" viewBox="0 0 {w} 40" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="wave-all" d="{d}"/><path class="wave-played" d="{d}"/></svg>'
    ).format(w=2 * bars, d=path)
