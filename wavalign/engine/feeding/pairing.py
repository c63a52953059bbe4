"""Answers to pairs: who is chosen and who rejected, and why a pair is left out. Pure functions of records.

The same records and the same seed give the same pairs, in whatever chunks they come.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, final

import torch

from wavalign.engine.feeding.lengths import clip_seconds
from wavalign.engine.state.seeds import derive, generator
from wavalign.plugins.batch import Dialogue, Message
from wavalign.plugins.dialogues import same_answer
from wavalign.schema.pairs import BestAnswers, Facet, GoldenPairs, PairsOfTwo, PairsSection, ScoredPairs

REASONS = ("few", "unscored", "no_gold", "gap", "low", "empty", "equal", "unfinished", "length")
"""Why there is no pair."""
SAID = {
    "few": "prompts with too few answers",
    "unscored": "answers that lack a score",
    "no_gold": "answers without a golden one",
    "gap": "pairs with too small a gap",
    "low": "answers with too low a score",
    "empty": "pairs with an empty side",
    "equal": "pairs with two equal sides",
    "unfinished": "pairs with a side that was cut off",
    "length": "pairs with sides of too different length",
}
"""The same in words."""


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to a prompt."""

    dialogue: Dialogue
    """The prompt, with the answer as its target."""
    prompt: str
    member: int
    """Its place among the answers to the prompt."""
    finished: bool = True
    """Whether it came to its end by itself."""
    gold: Message | None = None
    """The golden answer to the same prompt."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """What it is worth, by facet; more is better or worse as the facet says."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Where it comes from: its model, sampling and place."""

    @property
    def answer(self) -> Message:
        """What was said."""
        assert self.dialogue.target is not None
        return self.dialogue.target


@final
@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pair."""

    answer: Message
    about: Mapping[str, Any]
    score: float | None = None
    finished: bool = True


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """What is to be learned of one prompt: a chosen and a rejected answer, or one to imitate."""

    prompt: str
    number: int
    """Among those of its prompt."""
    dialogue: Dialogue
    """The prompt."""
    chosen: Side
    rejected: Side | None
    gap: float | None = None


Drop = Callable[[str], None]
"""Told why there is no pair."""


def pairs_of(samples: Sequence[Sample], section: PairsSection, drop: Drop, *, seed: int) -> list[Pair]:
    """The pairs of one prompt's `samples`; `drop` is told of each that is left out, by one of `REASONS`."""
    if isinstance(section, GoldenPairs):
        found = _golden(samples, section, drop, seed=seed)
    elif isinstance(section, ScoredPairs):
        found = _scored(samples, section, drop, seed=seed)
    elif isinstance(section, BestAnswers):
        found = _best(samples, section, drop, seed=seed)
    else:
        found = _given(samples)
    return [each for each in found if _stays(each, section, drop)]


def _golden(samples: Sequence[Sample], section: GoldenPairs, drop: Drop, *, seed: int) -> Iterator[Pair]:
    picked = list(samples)
    if section.answers == "first":
        picked = picked[:1]
    elif section.answers == "random":
        draws = generator(seed, "golden", samples[0].prompt)
        picked = [picked[int(torch.randint(len(picked), (), generator=draws))]]
    for number, each in enumerate(picked):
        if each.gold is None:
            drop("no_gold")
        else:
            chosen = Side(each.gold, {"source": "golden"})
            yield Pair(each.prompt, number, each.dialogue, chosen, _side(each, None))


def _scored(samples: Sequence[Sample], section: ScoredPairs, drop: Drop, *, seed: int) -> Iterator[Pair]:
    ranked = rank(samples, section, drop, seed=seed)
    count = min(section.top, len(ranked) // 2)
    if not count:
        drop("few")
    best, worst = ranked[:count], ranked[len(ranked) - count :][::-1]
    matches = zip(best, worst, strict=True) if section.match == "rank" else product(best, worst)
    for number, (high, low) in enumerate(matches):
        gap = high.score - low.score if section.rank == "weighted" else float(low.front - high.front)
        if gap > section.min_gap:
            pair = (_side(high.sample, high.score), _side(low.sample, low.score))
            yield Pair(high.sample.prompt, number, high.sample.dialogue, *pair, gap)
        else:
            drop("gap")


def _best(samples: Sequence[Sample], section: BestAnswers, drop: Drop, *, seed: int) -> Iterator[Pair]:
    for number, each in enumerate(rank(samples, section, drop, seed=seed)[: section.top]):
        if section.min_score is None or each.score >= section.min_score:
            yield Pair(each.sample.prompt, number, each.sample.dialogue, _side(each.sample, each.score), None)
        else:
            drop("low")


def _given(samples: Sequence[Sample]) -> Iterator[Pair]:
    """Pairs that the records are: their sides come as two samples each, the chosen one first."""
    for number, (chosen, rejected) in enumerate(zip(samples[0::2], samples[1::2], strict=True)):
        high, low = (_side(each, each.scores.get("score")) for each in (chosen, rejected))
        yield Pair(chosen.prompt, number, chosen.dialogue, high, low)


def _side(sample: Sample, score: float | None) -> Side:
    scores = {"scores": dict(sample.scores)} if sample.scores else {}
    return Side(sample.answer, {**sample.about, **scores}, score, sample.finished)


# --- order ------------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Ranking:
    """A sample with its place."""

    sample: Sample
    score: float
    """Weighted mean of its facets, more is better."""
    front: int
    """0 for what no other is better than in all facets; 0 for all where the weighted mean decides alone."""


def rank(samples: Sequence[Sample], section: ScoredPairs | BestAnswers, drop: Drop, *, seed: int) -> list[Ranking]:
    """The samples from best to worst; those that lack a facet are left out.

    Without facets those of the first sample count alike.
    """
    facets = dict(section.facets) or {name: Facet() for name in (samples[0].scores if samples else ())}
    whole = list[Sample]()
    for each in samples:
        if facets and facets.keys() <= each.scores.keys():
            whole.append(each)
        else:
            drop("unscored")
    values = [[_signed(each.scores[name], facet) for name, facet in facets.items()] for each in whole]
    weights = [facet.weight for facet in facets.values()]
    scores = [sum(w * v for w, v in zip(weights, row, strict=True)) / sum(weights) for row in values]
    fronts = pareto_fronts(values) if section.rank == "pareto" else [0] * len(whole)
    ranked = [Ranking(*each) for each in zip(whole, scores, fronts, strict=True)]
    return sorted(ranked, key=lambda each: (each.front, -each.score, _tie(each.sample, section.ties, seed)))


def pareto_fronts(values: Sequence[Sequence[float]]) -> list[int]:
    """The front of each row of `values` [N][F]: 0 for those that no row dominates, 1 for those of the rest, ...

    A row dominates another that is better in nothing and worse in something.
    """
    fronts, left, number = [0] * len(values), set(range(len(values))), 0
    while left:
        front = {i for i in left if not any(_dominates(values[j], values[i]) for j in left)}
        for i in front:
            fronts[i] = number
        left, number = left - front, number + 1
    return fronts


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and list(one) != list(other)


def _signed(value: float, facet: Facet) -> float:
    return value if facet.mode == "max" else -value


def _tie(sample: Sample, rule: str, seed: int) -> tuple[float, int]:
    """Who comes first among equals, the smaller the earlier."""
    if rule == "random":
        return float(derive(seed, "tie", sample.prompt, sample.member)), sample.member
    sizes = {"first": 0.0, "shorter": 1.0, "longer": -1.0}
    found = measure(sample.answer)
    size = next((found[unit] for unit in UNITS if unit in found), 0.0) if sizes[rule] else 0.0
    return sizes[rule] * size, sample.member


# --- filters ----------------------------------------------------------------------------------------------------------

UNITS = ("codes", "seconds", "characters")
"""What lengths are compared in, the first that both sides have."""


def measure(answer: Message) -> dict[str, float]:
    """How long an answer is, by unit."""
    found, clip = dict[str, float](), answer.audio
    if clip is not None and clip.codes:
        found["codes"] = float(len(clip.codes))
    if clip is not None and clip.has_sound and (seconds := clip_seconds(clip)):
        found["seconds"] = seconds
    return found | ({"characters": float(len(answer.text))} if answer.text.strip() else {})


def length_ratio(chosen: Message, rejected: Message) -> float | None:
    """Length of the rejected answer as a share of the chosen one; None where they have no unit in common."""
    one, other = measure(chosen), measure(rejected)
    unit = next((each for each in UNITS if each in one and each in other), None)
    return None if unit is None else other[unit] / one[unit]


def is_empty(answer: Message) -> bool:
    """Whether it has neither words nor sound."""
    clip = answer.audio
    spoken = clip is not None and (clip.has_sound if clip.codes is None else bool(clip.codes))
    return not spoken and not answer.text.strip()


def _stays(pair: Pair, section: PairsSection, drop: Drop) -> bool:
    reason = _flaw(pair, section)
    if reason:
        drop(reason)
    return not reason


def _flaw(pair: Pair, section: PairsSection) -> str:
    """Why a pair is left out; empty where it stays."""
    sides = {"chosen": pair.chosen} | ({} if pair.rejected is None else {"rejected": pair.rejected})
    if any(is_empty(side.answer) for side in sides.values()):
        return "empty"
    if any(not side.finished for name, side in sides.items() if name in section.finished):
        return "unfinished"
    if pair.rejected is None or not isinstance(section, PairsOfTwo):
        return ""
    if same_answer(pair.chosen.answer, pair.rejected.answer):
        return "equal"
    ratio = None if section.length_ratio is None else length_ratio(pair.chosen.answer, pair.rejected.answer)
    least, most = section.length_ratio or (0.0, 0.0)
    return "length" if ratio is not None and not least <= ratio <= most else ""
