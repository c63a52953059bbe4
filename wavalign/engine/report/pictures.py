"""Clouds of points that metrics left with their items: one picture an evaluation, side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from markupsafe import Markup

from wavalign.engine.report.data import RunData
from wavalign.engine.report.outcomes import Split
from wavalign.engine.report.plots import number
from wavalign.engine.report.summary import interval

SIZE, EDGE = 220, 8
"""Of a picture and its margin."""
MOST_PICTURES, MOST_DOTS = 12, 400
"""In a row, and of one cloud."""
COLOURS = {"gold": "gold", "sampled": "c2"}
MORE_COLOURS = ("c1", "c3", "c4", "c5")


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """The clouds of one evaluation."""

    title: str
    caption: str
    svg: Markup


@final
@dataclass(frozen=True, slots=True)
class PictureRow:
    """The pictures of one value on one split, in the order of the evaluations."""

    split: str
    name: str
    says: str
    clouds: tuple[tuple[str, str], ...]
    """Names and colours."""
    pictures: tuple[Picture, ...]


def picture_rows(run: RunData) -> list[PictureRow]:
    """All pictures of a run: those of each split's first evaluation and of the last one of every stage."""
    rows = []
    for split, ends in run.outcomes.items():
        moments = {_when(each): each for each in (ends.first, *ends.by_stage.values())}
        splits = list(moments.values())
        names = dict.fromkeys(name for each in splits for outcome in each.values() for name in outcome.points)
        for name in names:
            drawn = [each for each in splits if any(name in outcome.points for outcome in each.values())]
            rows.append(_row(run, split, name, _spread(drawn)))
    return rows


def _row(run: RunData, split: str, name: str, drawn: Sequence[Split]) -> PictureRow:
    clouds = dict.fromkeys(cloud for each in drawn for one in each.values() for cloud in one.points.get(name, {}))
    colours = dict(_coloured(clouds))
    measure = run.measures.get(name)
    return PictureRow(
        split,
        name,
        "" if measure is None else measure.says,
        tuple(colours.items()),
        tuple(_picture(run, split, name, items=each, colours=colours) for each in drawn),
    )


def _coloured(clouds: Mapping[str, None]) -> Iterator[tuple[str, str]]:
    others = iter(MORE_COLOURS * len(clouds))
    for cloud in clouds:
        yield cloud, COLOURS.get(cloud) or next(others)


def _picture(run: RunData, split: str, name: str, *, items: Split, colours: Mapping[str, str]) -> Picture:
    stage, step = _when(items)
    points = {
        cloud: [one.points[name][cloud] for one in items.values() if cloud in one.points.get(name, {})]
        for cloud in colours
    }
    line = next((x for x in run.lines if (x.stage, x.step, x.split) == (stage, step, split)), None)
    value = None if line is None else interval(line, name)
    said = "" if value is None else f"{number(value.value)} ({number(value.low)} to {number(value.high)})"
    title = _title(run, stage, step)
    return Picture(title, said, scatter(points, colours, f"{title}: {name} {said}"))


def _title(run: RunData, stage: str, step: int) -> str:
    mine = next((each for each in run.stages if each.name == stage), None)
    if mine is not None and mine.round is not None:
        return f"round {mine.round.number}, {stage.split('.', 1)[-1]}"
    return f"{stage}, step {step}" if step else "before training"


def scatter(clouds: Mapping[str, Sequence[tuple[float, float]]], colours: Mapping[str, str], said: str) -> Markup:
    """Dots of every cloud in one frame, as far apart sideways as upwards where their numbers are."""
    every = [point for points in clouds.values() for point in points]
    if not every:
        return Markup("")
    lows, highs = ([end(point[axis] for point in every) for axis in (0, 1)] for end in (min, max))
    span = max(high - low for low, high in zip(lows, highs, strict=True)) or 1.0
    scale = (SIZE - 2 * EDGE) / span
    middle = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]

    def dot(x: float, y: float) -> str:
        place = SIZE / 2 + (x - middle[0]) * scale, SIZE / 2 - (y - middle[1]) * scale
        return f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="2.6"/>'

    drawn = "".join(
        str(Markup('<g style="--c:var(--{})"><title>{}</title>{}</g>').format(
            colours[cloud], cloud, Markup("".join(dot(*point) for point in _thinned(points)))
        ))
        for cloud, points in clouds.items()
    )  # fmt: skip
    return Markup(
        '<svg class="cloud" viewBox="0 0 {s} {s}" role="img" aria-label="{said}"><title>{said}</title>{body}</svg>'
    ).format(s=SIZE, said=said, body=Markup(drawn))


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    count = min(MOST_DOTS, len(points))
    return [points[index * len(points) // count] for index in range(count)]


def _spread(drawn: Sequence[Split]) -> list[Split]:
    """As many as stand in a row, the first and the last among them."""
    count = min(MOST_PICTURES, len(drawn))
    return [drawn[round(index * (len(drawn) - 1) / max(1, count - 1))] for index in range(count)]


def _when(items: Split) -> tuple[str, int]:
    return next((one.stage, one.step) for one in items.values())
