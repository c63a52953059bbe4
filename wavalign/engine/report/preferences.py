"""What losses on pairs log: how far both sides moved, whether they are told apart, and what should worry a reader."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.report.data import MetricLine, RunData

SIDES = ("chosen", "rejected")
FELL = 1.0
"""Nats below the reference from which a falling chosen side is said."""
TRIVIAL = 0.99
"""Share of pairs told apart from which there is nothing left to learn."""
EARLY = 0.2
"""Part of a stage's steps in which that is early."""


@final
@dataclass(frozen=True, slots=True)
class Shown:
    """A chart of a preference term: the names it takes, of each side or as they are."""

    title: str
    caption: str
    names: tuple[str, ...]
    is_share: bool = False


CHARTS = (
    Shown("margin", "implicit reward of the chosen side less that of the rejected one", ("margin",)),
    Shown("accuracy", "share of pairs whose chosen side has more of it; 0.5 is guessing", ("accuracy",), is_share=True),
    Shown("implicit reward", "beta times what the log-prob moved", tuple(f"{side}_reward" for side in SIDES)),
    Shown("log-prob", "of a side's tokens", tuple(f"{side}_logprob" for side in SIDES)),
    Shown("drift", "log-prob since the reference, in nats", tuple(f"{side}_drift" for side in SIDES)),
)
OWN = frozenset(name for shown in CHARTS for name in shown.names)


def preference_terms(keys: Sequence[str]) -> list[str]:
    """Terms that learn from pairs, by what they log."""
    found = dict.fromkeys(key.removesuffix("/margin") for key in keys if key.endswith("/margin"))
    return [term for term in found if f"{term}/accuracy" in keys]


def preference_worries(run: RunData) -> Iterator[str]:
    """What a reader should know of the pairs before believing the numbers."""
    stages: dict[str, list[MetricLine]] = {}
    for line in run.train:
        stages.setdefault(line.stage, []).append(line)
    for stage, lines in stages.items():
        for term in preference_terms(list(dict.fromkeys(key for line in lines for key in line.values))):
            drift, margin = _end(lines, f"{term}/chosen_drift"), _end(lines, f"{term}/margin")
            if drift is not None and margin is not None and drift <= -FELL and margin > 0:
                yield (
                    f"In stage {stage} the chosen answers of {term} became less likely, by {-drift:.1f} nats below the "
                    f"reference, while their margin grew: the rejected ones only fell further. That way a policy "
                    "unlearns what it should say: raise beta, lower the learning rate, or add a cross-entropy term."
                )
            if (early := _trivial_from(lines, f"{term}/accuracy")) is not None:
                yield (
                    f"In stage {stage} {term} told all but every hundredth pair apart from step {early} on: the pairs "
                    "are told apart by something trivial, and what follows only drives them further apart."
                )


def _end(lines: Sequence[MetricLine], key: str) -> float | None:
    """Mean over the last tenth of the steps that have it."""
    values = [line.values[key] for line in lines if key in line.values]
    late = values[-max(1, len(values) // 10) :]
    return sum(late) / len(late) if late else None


def _trivial_from(lines: Sequence[MetricLine], key: str) -> int | None:
    """The step from which nearly all pairs are told apart, where that is early in a stage of some length."""
    having = [line for line in lines if key in line.values]
    last = next((index for index in range(len(having) - 1, -1, -1) if having[index].values[key] < TRIVIAL), -1)
    first = last + 1
    if len(having) < 10 or first > EARLY * len(having):
        return None
    return having[first].step
