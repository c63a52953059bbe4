"""The same held-out question answered several times: before and after, or by several runs; what to listen to first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavalign.engine.report.data import Measure, RunData, Sample
from wavalign.engine.report.outcomes import Outcome
from wavalign.engine.report.suspicion import suspicions

Shown = Mapping[str, str | float | None]
Key = tuple[str, str, int | None]
"""Split, dialogue, and its place in the split where that is known."""


@final
@dataclass(frozen=True, slots=True)
class Given:
    """One answer, from a kept sample (with sound) or from an outcome (without)."""

    step: int
    question: str
    text: str
    reference: str | None
    finished: bool | None
    values: Mapping[str, float | None]
    shown: Shown
    sample: Sample | None
    """Where its sound and rewards are; None where they were not kept."""

    @property
    def is_answer(self) -> bool:
        """Whether a policy gave it; of a pair that was judged there are outcomes alone."""
        return self.finished is not None or bool(self.text)

    @property
    def audio(self) -> Path | None:
        return None if self.sample is None else self.sample.audio


@final
@dataclass(frozen=True, slots=True)
class Card:
    """One held-out question with its answers in order; the last one is the one that is judged."""

    split: str
    dialogue: str
    answers: tuple[Given | None, ...]
    """One for each column; None where that column has none."""
    reasons: tuple[str, ...]
    """Why one should listen."""
    tags: frozenset[str]
    """Of `suspicious`, `right`, `wrong`, `better`, `worse`, `apart`: what a filter may ask for."""

    @property
    def num_sounds(self) -> int:
        """Answers that can be heard."""
        return sum(answer is not None and answer.audio is not None for answer in self.answers)

    @property
    def any(self) -> Given:
        """An answer that carries question and reference, with sound where there is one."""
        there = [answer for answer in self.answers if answer is not None]
        return next((answer for answer in reversed(there) if answer.sample is not None), there[-1])


def before_and_after(run: RunData) -> list[Card]:
    """Cards of every sampled or changed dialogue of a run: suspicious ones first, then in the order of the splits."""
    cards = []
    for split in _splits(run):
        first, last = _ends(run, split)
        whole = first.keys() | last.keys()
        kept = {key for end in (first, last) for key, given in end.items() if given.sample is not None}
        for key in sorted(whole, key=_place):
            card = _card(key, (first.get(key), last.get(key)), run.measures)
            if key in kept or ("worse" in card.tags and card.any.is_answer):
                cards.append(card)
    return sorted(cards, key=_weight)


def side_by_side(runs: Sequence[RunData]) -> list[Card]:
    """Cards of dialogues that two runs or more kept of their last evaluation, those they disagree on first."""
    ends = [
        {_common(key): given for split in _splits(run) for key, given in _newest(run, split).items()} for run in runs
    ]
    keys = list(dict.fromkeys(key for end in ends for key in end))
    measures = {name: each for run in runs for name, each in run.measures.items()}
    cards = []
    for key in keys:
        answers = tuple(end.get(key) for end in ends)
        there = [answer for answer in answers if answer is not None]
        if len(there) > 1 and any(answer.sample is not None for answer in there):
            cards.append(_compared(key, answers, measures))
    return sorted(cards, key=_weight)


def mains(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Without breakdowns."""
    return {name: value for name, value in values.items() if "/" not in name}


def _weight(card: Card) -> tuple[int, int]:
    """Suspicious first, what can be heard before what cannot."""
    return (not card.reasons, -card.num_sounds)


def _place(key: Key) -> tuple[int, str]:
    return (-1 if key[2] is None else key[2], key[1])


def _common(key: Key) -> Key:
    """Of two runs the same dialogue may stand at another place."""
    return (key[0], key[1], None)


def _splits(run: RunData) -> list[str]:
    found = [sample.split for sample in run.samples if sample.split != "train"]
    return list(dict.fromkeys([*run.splits, *found, *run.outcomes]))


def _ends(run: RunData, split: str) -> tuple[dict[Key, Given], dict[Key, Given]]:
    """Answers of the first and of the last evaluation; a lone one stands before while no step followed it."""
    times = list(dict.fromkeys((sample.stage, sample.step) for sample in _samples(run, split)))
    ends = run.outcomes.get(split)
    if ends is not None:
        times = [_time(ends.first.values()), *times, _time(ends.last.values())]
    if not times:
        return {}, {}
    first, last = times[0], times[-1]
    early = _answers(run, split, first)
    if first == last:
        return (early, {}) if first[1] < max(run.steps_done, 1) else ({}, early)
    return early, _answers(run, split, last)


def _newest(run: RunData, split: str) -> dict[Key, Given]:
    first, last = _ends(run, split)
    return last or first


def _time(outcomes: Iterable[Outcome]) -> tuple[str, int]:
    return next((each.stage, each.step) for each in outcomes)


def _samples(run: RunData, split: str) -> list[Sample]:
    return [sample for sample in run.samples if sample.split == split]


def _answers(run: RunData, split: str, time: tuple[str, int]) -> dict[Key, Given]:
    """Every answer of one evaluation, with its sample where one was kept."""
    found: dict[Key, Given] = {}
    ends = run.outcomes.get(split)
    for end in () if ends is None else (ends.first, ends.last):
        for each in end.values():
            if (each.stage, each.step) == time:
                found[split, each.dialogue, each.item] = _outcome(each)
    for sample in _samples(run, split):
        if (sample.stage, sample.step) == time:
            found[split, sample.dialogue, sample.item] = sampled(sample)
    return found


def _outcome(each: Outcome) -> Given:
    return Given(
        each.step, each.question, each.text, each.reference, each.finished, each.values, each.details, sample=None
    )


def sampled(each: Sample) -> Given:
    """A kept answer, with its sound."""
    shown = dict(each.shown)
    # What a reward heard stands in for a metric's transcript.
    for name, value in each.details.items():
        if name.rpartition("/")[2] == "heard":
            shown.setdefault("heard", value)
    return Given(each.step, each.question, each.text, each.reference, each.finished, each.values, shown, sample=each)


def _card(key: Key, answers: tuple[Given | None, Given | None], measures: Mapping[str, Measure]) -> Card:
    before, after = answers
    judged = after or before
    assert judged is not None, "a card has an answer"
    reasons = _reasons(judged)
    tags = _judged(judged, measures)
    if before is not None and after is not None:
        risen, fallen = _moves(before, after, measures)
        heard = [name for name in fallen if name.startswith("heard")]
        other = [name for name in risen if not name.startswith("heard")]
        reasons += [f"{other[0]} up, {heard[0]} down"] if heard and other else []
        tags |= {"better"} if risen and not fallen else {"worse"} if fallen and not risen else set()
    return _tagged(key, answers, reasons, tags)


def _compared(key: Key, answers: tuple[Given | None, ...], measures: Mapping[str, Measure]) -> Card:
    there = [answer for answer in answers if answer is not None]
    reasons = list(dict.fromkeys(reason for answer in there for reason in _reasons(answer)))
    judged = [_judged(answer, measures) for answer in there]
    tags = {"right"} if all("right" in each for each in judged) else set()
    tags |= {"wrong"} if all("wrong" in each for each in judged) else set()
    tags |= {"apart"} if len({frozenset(_binary(answer.values, measures).items()) for answer in there}) > 1 else set()
    return _tagged(key, answers, reasons, tags)


def _tagged(key: Key, answers: tuple[Given | None, ...], reasons: Sequence[str], tags: set[str]) -> Card:
    found = frozenset(tags | ({"suspicious"} if reasons else set()))
    return Card(key[0], key[1], answers, tuple(reasons), found)


def _reasons(given: Given) -> list[str]:
    return suspicions(
        given.text, finished=given.finished, values=given.values, details=given.shown, reference=given.reference
    )


def _judged(given: Given, measures: Mapping[str, Measure]) -> set[str]:
    verdicts = _binary(given.values, measures).values()
    return set() if not verdicts else {"right"} if all(verdicts) else {"wrong"}


def verdict(value: float | None, measure: Measure | None) -> float | None:
    """1 where an item's value says right, 0 where it says wrong, None where it is a number or there is none."""
    if value not in (0.0, 1.0) or (measure is not None and measure.unit):
        return None
    return 1.0 - value if measure is not None and measure.less else value


def _binary(values: Mapping[str, float | None], measures: Mapping[str, Measure]) -> dict[str, float]:
    found = {name: verdict(value, measures.get(name)) for name, value in mains(values).items()}
    return {name: value for name, value in found.items() if value is not None}


def _moves(before: Given, after: Given, measures: Mapping[str, Measure]) -> tuple[list[str], list[str]]:
    """Names of what rose and of what fell among right and wrong, and of the reward."""
    early, late = _binary(before.values, measures), _binary(after.values, measures)
    changes = {name: late[name] - early[name] for name in late if name in early}
    if before.sample is not None and after.sample is not None:
        rewards = before.sample.reward, after.sample.reward
        if rewards[0] is not None and rewards[1] is not None:
            changes["reward"] = rewards[1] - rewards[0]
    return [name for name, by in changes.items() if by > 0], [name for name, by in changes.items() if by < 0]
