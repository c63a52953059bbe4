"""Which curves a run's metrics give, by the names that formats of metrics.jsonl fix."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.report.calibration import calibration_charts
from wavalign.engine.report.data import RunData
from wavalign.engine.report.plots import Chart, Curve
from wavalign.engine.report.preferences import CHARTS, OWN, preference_terms
from wavalign.engine.report.summary import interval, measured

KINDS = {"text": "text", "audio": "audio", "marks": "marks"}
"""Token kind -> colour, the same everywhere on the page."""
PALETTE = ("c1", "c2", "c3", "c4", "c5", "c6")
TIMES = {
    "rollout_seconds": "sampling",
    "reward_seconds": "rewards",
    "learn_seconds": "learning",
    "step_seconds": "whole step",
}
FACTORS = ("direction", "information")
"""The gate's factors that lie in 0..1; what else it logs has charts of its own."""
MEMORY = ("sampling", "scoring", "backward", "step")
"""Phases whose peaks of memory are logged, `memory/<phase>_bytes`."""
NAMED = frozenset({"gate", "kl", "learned", "loss", "memory", "operator", "reward", "sampled", "share", "tokens"})
"""First parts of keys that have a chart of their own; any other `<term>/<metric>` is a term's own metric."""


@final
@dataclass(frozen=True, slots=True)
class Section:
    """Charts under one heading."""

    title: str
    charts: tuple[Chart, ...]


def sections(run: RunData) -> list[Section]:
    """All charts of a run, grouped; charts without a point are left out."""
    keys = list(dict.fromkeys(key for line in run.train for key in line.values))
    builder = _Builder(run)
    groups = [
        ("Held-out values", builder.evaluation()),
        ("Calibration", calibration_charts(run)),
        ("Reward", builder.reward(keys)),
        ("Gate", builder.gate(keys)),
        ("Loss", builder.loss(keys)),
        ("By token kind", builder.by_kind(keys)),
        ("Preferences", builder.preferences(keys)),
        ("Inside the losses", builder.terms(keys)),
        ("Answers and tokens", builder.lengths(keys)),
        ("Optimiser and speed", builder.speed(keys)),
    ]
    shown = [Section(title, tuple(chart for chart in charts if _has_points(chart))) for title, charts in groups]
    return [section for section in shown if section.charts]


@final
class _Builder:
    """Makes charts from one run's lines."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        self.marks = _stage_marks(run)

    def curve(self, key: str, label: str, colour: str, *, dashed: bool = False) -> Curve:
        points = [(float(line.step), line.values[key]) for line in self.run.train if key in line.values]
        return Curve(label, colour, points, dashed=dashed)

    def chart(self, title: str, caption: str, curves: Iterable[Curve], *, smooth: bool = False) -> Chart:
        return Chart(title, caption, tuple(curves), smooth=smooth, marks=self.marks)

    def fraction(self, title: str, caption: str, curves: Iterable[Curve]) -> Chart:
        return Chart(title, caption, tuple(curves), floor=0.0, top=1.0, marks=self.marks)

    def several(self, prefix: str, keys: Sequence[str]) -> list[Curve]:
        """One curve per `<prefix>/<name>`."""
        found = [key for key in keys if key.startswith(f"{prefix}/") and key.count("/") == 1]
        return [self.curve(key, key.removeprefix(f"{prefix}/"), _colour(key, index)) for index, key in enumerate(found)]

    def reward(self, keys: Sequence[str]) -> list[Chart]:
        parts = self.several("reward", keys)
        total = self.curve("reward", "total", "ink")
        failed = [key for key in keys if key.startswith("reward/") and key.endswith("/failed")]
        spread = [
            self.curve("reward_std", "standard deviation", "c1"),
            self.curve("zero_variance_groups", "groups without variance (fraction)", "c3"),
        ]
        losses = [self.curve(key, key.split("/")[1], _colour(key, index)) for index, key in enumerate(failed)]
        failures = [curve for curve in losses if any(value for _, value in curve.points)]
        return [
            self.chart("Reward and its parts", "mean over a step's rollouts", [total, *parts], smooth=True),
            self.chart("Spread within groups", "what the advantage has to work with", spread),
            self.chart("Rewards that failed", "count per step", failures),
        ]

    def gate(self, keys: Sequence[str]) -> list[Chart]:
        value = [self.curve("gate", "λ in use (moving average)", "c2")]
        if "gate/raw" in keys:
            value.append(self.curve("gate/raw", "λ raw", "c4", dashed=True))
        else:
            value = [self.curve("gate", "λ in use", "c2")]
        others = [curve for curve in self.several("gate", keys) if curve.label != "raw"]
        factors = [curve for curve in others if curve.label in FACTORS]
        readings = [
            self.chart(f"gate: {curve.label}", "logged by the gate", [curve])
            for curve in others
            if curve.label not in FACTORS
        ]
        shares = self.several("share", keys)
        return [
            self.fraction("Gate λ", "share of the term it opens", value),
            self.fraction("What moves the gate", "its factors, before the ceiling", factors),
            self.fraction("Shares of the terms", "as they entered the loss", shares),
            *readings,
        ]

    def loss(self, keys: Sequence[str]) -> list[Chart]:
        terms = self.several("loss", keys)
        charts = [
            self.chart("Total loss", "shares and weights applied", [self.curve("loss", "total", "ink")], smooth=True)
        ]
        charts += [
            self.chart(f"Loss of {curve.label}", "unweighted, over its own tokens", [curve], smooth=True)
            for curve in terms
        ]
        return charts

    def terms(self, keys: Sequence[str]) -> list[Chart]:
        """One chart per `<term>/<metric>` that a loss logged."""
        own = [key for key in keys if "/" in key and key.split("/", 1)[0] not in NAMED and _kind(key) not in KINDS]
        pairs = preference_terms(keys)
        own = [key for key in own if key.rsplit("/", 1)[0] not in pairs or _kind(key) not in OWN]
        return [
            self.chart(key.replace("/", ": ", 1), "logged by the loss", [self.curve(key, _kind(key), "c1")])
            for key in own
        ]

    def preferences(self, keys: Sequence[str]) -> list[Chart]:
        """Of every term on pairs how far its sides moved and whether they are told apart."""
        charts = []
        for term in preference_terms(keys):
            for shown in CHARTS:
                both = len(shown.names) > 1
                curves = [
                    self.curve(f"{term}/{name}", name.split("_")[0] if both else name, colour)
                    for name, colour in zip(shown.names, ("c2", "c3"), strict=False)
                ]
                title = f"{term}: {shown.title}"
                charts.append(
                    self.fraction(title, shown.caption, curves)
                    if shown.is_share
                    else self.chart(title, shown.caption, curves, smooth=True)
                )
        return charts

    def by_kind(self, keys: Sequence[str]) -> list[Chart]:
        """Every `<prefix>/<text|audio|marks>`: one chart per prefix, one fixed colour per token kind."""
        split = [key.rsplit("/", 1) for key in keys if "/" in key]
        prefixes = dict.fromkeys(prefix for prefix, kind in split if kind in KINDS)
        charts = []
        for prefix in prefixes:
            if prefix in NAMED and prefix != "kl":
                continue
            curves = [self.curve(f"{prefix}/{kind}", kind, colour) for kind, colour in KINDS.items()]
            title = "KL to the reference" if prefix == "kl" else prefix
            charts.append(self.chart(title, "mean per token, by token kind", curves))
        return charts

    def lengths(self, keys: Sequence[str]) -> list[Chart]:
        cut = self.curve("truncated", "truncated", "c3")
        return [
            self.chart("Length of answers", "steps of the token streams", [self.curve("rollout_length", "mean", "c2")]),
            self.fraction("Answers cut off", "fraction at the token limit", [cut]),
            self.chart("Trained tokens", "per step and term, all ranks", self.several("tokens", keys)),
        ]

    def speed(self, keys: Sequence[str]) -> list[Chart]:
        times = [
            self.curve(key, label, "ink" if key == "step_seconds" else PALETTE[index])
            for index, (key, label) in enumerate(TIMES.items())
            if key in keys
        ]
        rates = [self.curve(f"learned/{kind}_tokens_per_second", kind, colour) for kind, colour in KINDS.items()]
        return [
            self.chart("Gradient norm", "before clipping", [self.curve("grad_norm", "norm", "c1")]),
            self.chart("Learning rate", "", [self.curve("learning_rate", "rate", "c5")]),
            self.chart("Seconds per step", "", times),
            self.chart("Tokens per second", "", [self.curve("tokens_per_second", "tokens/s", "c2")], smooth=True),
            self.chart("Tokens per second by kind", "of the rows learned from", rates, smooth=True),
            self.fraction("Use of the devices", "MFU while learning", [self.curve("mfu", "MFU", "c4")]),
            self.chart("Peak of memory by phase", "bytes, on the fullest process", self.peaks(keys)),
        ]

    def peaks(self, keys: Sequence[str]) -> list[Curve]:
        """Of each phase that was measured."""
        named = [(f"memory/{phase}_bytes", phase) for phase in MEMORY]
        return [self.curve(key, label, PALETTE[index]) for index, (key, label) in enumerate(named) if key in keys]

    def evaluation(self) -> list[Chart]:
        """Held-out values over steps, where a split was measured more than twice."""
        charts = []
        for split in self.run.splits:
            lines = [line for line in self.run.lines if line.split == split]
            if len({line.step for line in lines}) < 3:
                continue
            for name in dict.fromkeys(name for line in lines for name in measured(line)):
                charts.append(self._held_out(split, name))
        return charts

    def _held_out(self, split: str, name: str) -> Chart:
        lines = [line for line in self.run.lines if line.split == split]
        found = [(line.step, part) for line in lines if (part := interval(line, name)) is not None]
        gold = [(line.step, part) for line in lines if (part := interval(line, name, ceiling=True)) is not None]
        value = Curve(
            "value, 95 % interval",
            "c2",
            [(step, part.value) for step, part in found],
            band=[(step, part.low, part.high) for step, part in found],
        )
        ceiling = Curve("gold answers", "gold", [(step, part.value) for step, part in gold], dashed=True)
        return self.chart(name, f"on {split}", [value, ceiling])


def _kind(key: str) -> str:
    """Last part of a key."""
    return key.rsplit("/", 1)[-1]


def _has_points(chart: Chart) -> bool:
    return any(curve.points for curve in chart.curves)


def _colour(key: str, index: int) -> str:
    """The fixed colour of a token kind, or the next of the palette."""
    return KINDS.get(_kind(key), PALETTE[index % len(PALETTE)])


def _stage_marks(run: RunData) -> tuple[tuple[float, str], ...]:
    """First step of each stage after the first, by what is logged."""
    starts: dict[str, int] = {}
    for line in run.train:
        starts.setdefault(line.stage, line.step)
    return tuple((float(step), name) for name, step in list(starts.items())[1:])
