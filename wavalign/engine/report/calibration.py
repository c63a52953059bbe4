"""Calibration curves of reward models: of the held-out pairs it is as sure about, how many it is right about."""

import re

from wavalign.engine.report.data import MetricLine, RunData
from wavalign.engine.report.plots import Chart, Curve

_KEY = re.compile(r"(?:(?P<facet>.+)/)?calibration/(?P<bin>\d+)/sure")
_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6")


def calibration_charts(run: RunData) -> list[Chart]:
    """A chart of every stage and split that was judged in pairs, from its last measurement."""
    last = {(line.stage, line.split): line for line in run.lines if any(_KEY.fullmatch(key) for key in line.values)}
    return [_chart(line, several=len({stage for stage, _ in last}) > 1) for line in last.values()]


def _chart(line: MetricLine, *, several: bool) -> Chart:
    facets: dict[str, list[tuple[float, float]]] = {}
    for key in line.values:
        if found := _KEY.fullmatch(key):
            right = line.values.get(f"{key.removesuffix('/sure')}/right")
            if right is not None:
                facets.setdefault(found["facet"] or "", []).append((100 * line.values[key], right))
    curves = [
        Curve(name or "share it is right about", colour, sorted(points))
        for (name, points), colour in zip(facets.items(), _COLOURS, strict=False)
    ]
    ideal = Curve("as right as sure", "ink", [(50.0, 0.5), (100.0, 1.0)], dashed=True)
    errors = [f"{key.removesuffix('ece').rstrip('/')} {line.values[key]:.3f}".strip() for key in _errors(line)]
    title = f"Calibration on {line.split}" + (f" ({line.stage})" if several else "")
    caption = f"of pairs by how sure it is of them, in percent; calibration error {', '.join(errors)}"
    return Chart(title, caption, (*curves, ideal), floor=0.0, top=1.0, unit="percentage point")


def _errors(line: MetricLine) -> list[str]:
    """Keys of calibration errors, that of one facet first."""
    return sorted(key for key in line.values if key == "ece" or key.endswith("/ece"))
