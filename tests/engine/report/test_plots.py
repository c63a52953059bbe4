"""Drawings: numbers, axes, thinning, escaping."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from wavalign.engine.report.plots import (
    MOST_POINTS,
    Chart,
    Curve,
    Interval,
    digits,
    interval_strip,
    line_chart,
    number,
    smoothed,
    thin,
    tick_labels,
    ticks,
    waveform,
)


class Tags(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.31, "0.310"), (-0.0123, "−0.0123"), (1.0, "1.00"), (12.34, "12.3"), (123.4, "123"),
        (3129.4, "3,129"), (1e-4, "1.00e-4"), (2.5e8, "2.50e8"), (None, "–"),
    ],
)  # fmt: skip
def test_number_has_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_ticks_are_round_and_cover() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(3.0, 97.0) == [0.0, 25.0, 50.0, 75.0, 100.0]
    level = ticks(5.0, 5.0)
    assert level[0] < 5.0 < level[-1]


def test_thin_keeps_peaks_and_the_end() -> None:
    points = [(float(step), 0.0) for step in range(5000)]
    points[3210] = (3210.0, 9.0)
    points[4321] = (4321.0, -9.0)
    kept = thin(points)
    assert len(kept) <= MOST_POINTS + 2
    assert {(3210.0, 9.0), (4321.0, -9.0), (4999.0, 0.0)} <= set(kept)
    assert kept == sorted(kept)


def test_smoothed_is_a_trailing_mean() -> None:
    averaged, width = smoothed([(float(step), float(step)) for step in range(60)])
    assert width == 3
    assert averaged[0] == (0.0, 0.0)
    assert averaged[1] == (1.0, 0.5)
    assert averaged[59] == (59.0, 58.0)


def test_chart_carries_its_points_and_escapes_names() -> None:
    chart = Chart("<b>loss</b>", "", [Curve('a"><script>', "c1", [(1.0, 0.5), (3.0, 0.25)])], marks=[(2.0, "<i>")])
    svg = str(line_chart(chart))
    assert "<script>" not in svg
    assert "<i>" not in svg
    assert "<b>" not in svg
    attributes = Tags(svg).found[0][1]
    assert json.loads(attributes["data-series"] or "") == [[[1.0, 0.5], [3.0, 0.25]]]
    assert 'a"><script> from 0.500 to 0.250' in (attributes["aria-label"] or "")


def test_chart_puts_values_where_they_belong() -> None:
    svg = str(line_chart(Chart("t", "", [Curve("c", "c1", [(0.0, 0.0), (10.0, 1.0)])])))
    line = re.search(r'class="line" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    assert line is not None
    left, bottom, right, top = (float(part) for part in line.groups())
    assert (left, right) == (46, 350)
    assert (bottom, top) == (164, 10)


def test_chart_without_points_is_empty() -> None:
    assert line_chart(Chart("t", "", [Curve("c", "c1", [])])) == ""


def test_one_point_is_drawn() -> None:
    assert "<circle" in line_chart(Chart("t", "", [Curve("c", "c1", [(4.0, 0.5)])]))


def test_strip_says_its_numbers_and_shares_an_axis() -> None:
    part = Interval(0.5, 0.4, 0.6)
    svg = str(interval_strip(part, None, Interval(1.0, 0.9, 1.0), axis=(0.0, 2.0)))
    assert "before 0.500 (0.400 to 0.600), gold 1.00 (0.900 to 1.00)" in svg
    circle = next(attributes for tag, attributes in Tags(svg).found if tag == "circle")
    low, high = -0.08, 2.08
    assert float(circle["cx"] or "nan") == pytest.approx(4 + (0.5 - low) / (high - low) * 192, abs=0.06)
    assert interval_strip(None, None, None) == ""


def test_waveform_is_loud_where_the_sound_is() -> None:
    samples = np.zeros(7200, dtype=np.float32)
    samples[3600:] = 0.5
    path = re.search(r'class="wave-all" d="([^"]+)"', str(waveform(samples, 1.0)))
    assert path is not None
    tops = [float(top) for top in re.findall(r"M\d+ ([\d.]+)V", path.group(1))]
    assert len(tops) == 72
    assert set(tops[:36]) == {19.4}
    assert set(tops[36:]) == {2.0}


def test_labels_of_an_axis_differ() -> None:
    assert tick_labels([0.0, 0.25, 0.5]) == (["0", "0.25", "0.5"], "")
    near = [1 - 2e-7, 1 - 1e-7, 1.0, 1 + 1e-7]
    assert tick_labels(near) == (["−2e-7", "−1e-7", "0", "+1e-7"], "from 1")
    assert tick_labels([123456.01, 123456.02, 123456.03]) == (["+0.01", "+0.02", "+0.03"], "from 123456")


@pytest.mark.parametrize("size", [1e-9, 2e-7, 3e-5, 1e-3, 0.2, 7.0, 4e4, 3e9])
@pytest.mark.parametrize("middle", [0.0, 1.0, -1.0, 2.5, 1e4])
def test_labels_differ_wherever_a_curve_lies(size: float, middle: float) -> None:
    labels, _ = tick_labels(ticks(middle - size / 2, middle + size / 2))
    assert len(set(labels)) == len(labels)
    assert max(len(label) for label in labels) <= 10


def test_a_ratio_near_one_says_how_near() -> None:
    points = [(float(step), 1 + 1e-7 * step) for step in range(4)]
    svg = str(line_chart(Chart("rl: ratio", "", [Curve("ratio", "c1", points)])))
    assert "ratio from 1.00000000 to 1.00000030" in svg
    shown = re.findall(r'text-anchor="end">([^<]+)<', svg)
    assert len(set(shown)) == len(shown)
    assert ">from 1<" in svg


@pytest.mark.parametrize(
    ("values", "places"), [([0.1, 0.9], 3), ([5.0, 5.0], 3), ([1.0, 1.001], 6), ([], 3), ([0.0], 3)]
)
def test_digits_tell_lowest_from_highest(values: list[float], places: int) -> None:
    assert digits(values) == places
