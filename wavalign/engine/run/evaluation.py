"""Held-out measurement: answers to every dialogue, every metric, and beside each the same one on the gold answers."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Protocol, final

from wavalign.engine.contracts.origins import close_all
from wavalign.engine.report.suspicion import suspicions
from wavalign.engine.run.divergences import with_divergences
from wavalign.engine.run.shares import Alone, Ranks, Share, own_places, to_first
from wavalign.engine.run.states import with_states
from wavalign.engine.state.seeds import generator
from wavalign.engine.step.best_of import BestOf, Told, best_label
from wavalign.engine.step.rollouts import Roller
from wavalign.engine.step.sampling import evaluation_options
from wavalign.engine.step.waiting import Waiting, nobody
from wavalign.errors import PluginError
from wavalign.plugins.api import Detail, Measurement, Metric, Policy
from wavalign.plugins.batch import Dialogue, RolloutGroup
from wavalign.schema.evaluation import EvaluationSection

ALONE = Alone()
BEST = "best of n"
"""What the rewards say of answers, among what metrics observe; no metric has such a name."""


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """What the metrics said of one answer."""

    values: Mapping[str, float | None]
    """By measurement: 1 or 0 for a share, the number for a mean, None where the answer was left out."""
    details: Mapping[str, Detail] = field(default_factory=dict)
    points: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """By measurement and cloud, its place in the plane of a picture."""


@final
@dataclass(frozen=True, slots=True)
class Item:
    """One held-out dialogue with its answer."""

    index: int
    """Its place in the split, the same at every evaluation."""
    group: RolloutGroup
    verdict: Verdict
    gold: Verdict | None = None
    """The same metrics on the gold answer; None where there is none."""


@final
@dataclass(frozen=True, slots=True)
class SplitResult:
    """One split measured once."""

    split: str
    values: Mapping[str, float]
    """Flat, as in metrics.jsonl."""
    items: Sequence[Item]
    """All of them, in the order of the split."""
    samples: Sequence[Item]
    """Those to be kept with sound: the same ones every time, and of the others the first suspicious ones."""
    measures: Mapping[str, Mapping[str, str]]
    """By value: the metric that gave it, its unit, and what it says in a sentence."""
    best_of: int = 0
    """Answers that each was chosen from; 0 where one was drawn."""
    pairs: Sequence[tuple[str, Mapping[str, float | None]]] = ()
    """Of held-out pairs, in the place of items, id and outcomes of each."""

    @property
    def label(self) -> str:
        """The name that it is logged by: what is chosen is not to be taken for what the policy says."""
        return best_label(self.split, self.best_of) if self.best_of else self.split


class Measurer(Protocol):
    """What measures a network on held-out splits."""

    def run(
        self,
        policy: Policy,
        progress: Callable[[str, int, int], None],
        waiting: Waiting = nobody,
        *,
        ranks: Ranks = ALONE,
    ) -> Iterator[SplitResult]:
        """Measure one split after the other; the first rank alone gives results, and all come to the end."""

    def close(self) -> None:
        """Free what it holds; called once."""


@final
@dataclass(frozen=True, slots=True)
class _Measured:
    """Measurements of some groups under the names they are logged by."""

    found: Mapping[str, Measurement]
    origin: Mapping[str, str]
    """Name -> name of its metric in the recipe."""
    verdicts: Sequence[Verdict]


@final
class Evaluator:
    """Measures a policy on the held-out splits of a stage."""

    def __init__(
        self,
        roller: Roller,
        splits: Mapping[str, Sequence[Dialogue]],
        metrics: Mapping[str, Metric],
        *,
        section: EvaluationSection,
        max_new_tokens: int,
        best: BestOf | None = None,
    ) -> None:
        self.best = best
        self.roller = replace(roller, encoder=roller.encoder.keeping())  # the same prompts at every evaluation
        self.splits, self.metrics, self.section = splits, metrics, section
        self.options = evaluation_options(section.sampling, max_new_tokens=max_new_tokens)
        self._needs = {need for metric in metrics.values() for need in metric.needs}
        self.make_start: Callable[[], Policy] | None = None
        """Makes the network that the run started from, for metrics that look at it."""
        self._start: Policy | None = None
        """What the run started from, while somebody looks at it."""
        self._waiting: Waiting = nobody
        self._now = ""
        """What is being measured, for who waits."""
        self._golds: dict[str, tuple[dict[str, float], dict[int, Verdict]]] = {}

    def run(
        self,
        policy: Policy,
        progress: Callable[[str, int, int], None],
        waiting: Waiting = nobody,
        *,
        ranks: Ranks = ALONE,
    ) -> Iterator[SplitResult]:
        """Measure one split after the other; `waiting` hears of every part of it.

        Each of the `ranks` answers its share; the first alone gives results, and all come to the end.
        """
        self._waiting = waiting
        if "start" in self._needs and self.make_start is not None:
            waiting("building the network that the run started from", 0, 0)
            self._start = self.make_start()
        for number, (split, dialogues) in enumerate(self.splits.items()):
            progress("measuring", number, len(self.splits))
            result = self._split(policy, split, dialogues, ranks=ranks)
            if result is not None:
                yield result
        self._start = None  # its memory is for learning
        progress("measuring", len(self.splits), len(self.splits))

    def _split(self, policy: Policy, split: str, dialogues: Sequence[Dialogue], *, ranks: Ranks) -> SplitResult | None:
        began = time.perf_counter()
        self._now = split
        answered = self._together(self._answered(policy, dialogues, own_places(dialogues, ranks)), dialogues, ranks)
        values: dict[str, float] = {}
        measured = None if answered is None else self._measure(answered)
        if measured is not None:
            for name, each in measured.found.items():
                values |= {name: each.value, f"{name}/low": each.low, f"{name}/high": each.high}
                values[f"{name}/count"] = each.count
        if self.best is not None and answered is not None:
            values |= self.best.values(answered.observed[BEST] or ())
        if split not in self._golds:
            self._now = f"{split}, gold answers"
            self._golds[split] = self._gold(policy, dialogues, ranks)
        if answered is None or measured is None:
            return None
        ceilings, golds = self._golds[split]
        values |= ceilings
        values["evaluation_seconds"] = time.perf_counter() - began
        verdicts = zip(answered.groups, measured.verdicts, strict=True)
        items = [Item(i, group, verdict, golds.get(i)) for i, (group, verdict) in enumerate(verdicts)]
        n = 0 if self.best is None else self.best.n
        return SplitResult(split, values, items, self._samples(items), self._measures(measured), best_of=n)

    def _answered(self, policy: Policy, dialogues: Sequence[Dialogue], places: Sequence[int]) -> Share:
        """Answers, with their sound, to the dialogues at `places`."""
        mine, groups, told = [dialogues[place] for place in places], list[RolloutGroup](), list[Told]()
        if mine or not dialogues:
            self._waiting(f"{self._now}: sampling answers", 0, 0)
            # The same draws every time: an evaluation must not be noisy.
            if self.best is not None:
                groups, told = self.best.draw(self.roller, policy, mine, self.options)
            else:
                groups = self.roller.sample(policy, mine, self.options, generator(0, "evaluation"))
            self._waiting(f"{self._now}: decoding the sound of answers", 0, 0)
            groups = self._with_states(policy, self.roller.with_sound(groups))
            if self._start is not None and groups:
                self._waiting(f"{self._now}: answers under the network that the run started from", 0, 0)
                groups = with_divergences(policy, self._start, self.roller, groups)
        share = self._observed(places, groups)
        return share if self.best is None else replace(share, observed={**share.observed, BEST: told})

    def _with_states(self, policy: Policy, groups: list[RolloutGroup]) -> list[RolloutGroup]:
        """The same groups, with hidden states where a metric looks at them."""
        if "states" not in self._needs or not groups:
            return groups
        self._waiting(f"{self._now}: hidden states of answers", 0, 0)
        return with_states(policy, self.roller, groups)

    def _observed(self, places: Sequence[int], groups: Sequence[RolloutGroup]) -> Share:
        """A share, with what the metrics find of each of its groups."""
        observed: dict[str, Sequence[Any] | None] = {}
        for metric, plugin in self.metrics.items():
            self._waiting(f"{self._now}: metric {metric}", 0, 0)
            observed[metric] = plugin.observe(groups) if groups else []
        return Share(places, groups, observed)

    def _together(self, share: Share, dialogues: Sequence[Dialogue], ranks: Ranks) -> Share | None:
        """The shares of all ranks as one, on the first."""
        if ranks.size > 1:
            self._waiting(f"{self._now}: collecting the answers of all processes", 0, 0)
        return to_first(ranks, share, dialogues)

    def _samples(self, items: Sequence[Item]) -> list[Item]:
        """`samples` spread evenly, and up to `suspicious` others that deserve an ear, in the order of the split."""
        count = min(self.section.samples, len(items))
        chosen = {index * len(items) // count for index in range(count)}
        found = (each.index for each in items if each.index not in chosen and _suspicions(each))
        chosen.update(index for index, _ in zip(found, range(self.section.suspicious), strict=False))
        return [items[index] for index in sorted(chosen)]

    def _gold(
        self, policy: Policy, dialogues: Sequence[Dialogue], ranks: Ranks
    ) -> tuple[dict[str, float], dict[int, Verdict]]:
        """On the first rank, ceilings and the verdict on each gold answer by the place of its dialogue."""
        if not self.section.ceiling:
            return {}, {}
        places = [place for place in own_places(dialogues, ranks) if dialogues[place].target is not None]
        groups = self.roller.with_sound(self.roller.gold([dialogues[place] for place in places]))
        groups = self._with_states(policy, groups)
        gold = self._together(self._observed(places, groups), dialogues, ranks)
        if gold is None or not gold.groups:
            return {}, {}
        measured, values = self._measure(gold), dict[str, float]()
        for name, each in measured.found.items():
            values[f"{name}/ceiling"] = each.value
            values[f"{name}/ceiling_low"] = each.low
            values[f"{name}/ceiling_high"] = each.high
        return values, dict(zip(gold.places, measured.verdicts, strict=True))

    def _measure(self, share: Share) -> _Measured:
        """All values; where two metrics use one name, the later one's gets its recipe name in front."""
        groups = share.groups
        found: dict[str, Measurement] = {}
        origin: dict[str, str] = {}
        columns: dict[str, list[Detail]] = {}
        for metric, plugin in self.metrics.items():
            self._waiting(f"{self._now}: metric {metric}", 0, 0)
            seen = share.observed[metric]
            for each in plugin.measure(groups) if seen is None else plugin.conclude(groups, seen):
                name = f"{metric}.{each.name}" if each.name in found else each.name
                found[name], origin[name] = replace(each, name=name), metric
                for key, column in each.details.items():
                    shown = f"{metric}.{key}" if key in columns else key
                    columns[shown] = _aligned(column, groups, _detail, f"metric `{metric}`: detail `{key}`")
        outcomes = {
            name: _aligned(each.items, groups, _outcome, f"metric `{origin[name]}`: items of `{name}`")
            for name, each in found.items()
            if each.items
        }
        verdicts = [
            Verdict(
                # Of a breakdown an item has the values of its own kinds.
                {name: row[i] for name, row in outcomes.items() if row[i] is not None or "/" not in name},
                {key: column[i] for key, column in columns.items()},
                _points_of(found, i),
            )
            for i in range(len(groups))
        ]
        return _Measured(found, origin, verdicts)

    def _measures(self, measured: _Measured) -> dict[str, dict[str, str]]:
        said, best = {}, self.best
        for name, says in ({} if best is None else best.says).items():
            said[name] = {"metric": "best_of", "unit": "", "says": says}
        for name, each in measured.found.items():
            metric = measured.origin[name]
            says = each.says or _first_line(self.metrics[metric].__doc__)
            shown = says if "/" not in name else ""
            said[name] = {"metric": metric, "unit": each.unit, "says": shown}
            said[name] |= {"better": each.better} if each.better == "less" else {}
            said[name] |= {} if each.quality else {"quality": "no"}
        return said

    def close(self) -> None:
        """Free the metrics, and the rewards that choose."""
        choosing = () if self.best is None else (self.best.pool.close,)
        close_all((*(metric.close for metric in self.metrics.values()), *choosing))


def _points_of(found: Mapping[str, Measurement], place: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Where the item at `place` stands in the pictures."""
    clouds = {
        name: {cloud: point for cloud, column in each.points.items() if (point := column[place]) is not None}
        for name, each in found.items()
    }
    return {name: places for name, places in clouds.items() if places}


def _suspicions(item: Item) -> list[str]:
    answer = item.group.rollouts[0].answer if item.group.rollouts else None
    if answer is None:
        return []
    target, verdict = item.group.dialogue.target, item.verdict
    reference = None if target is None else target.text
    return suspicions(
        answer.text, finished=answer.finished, values=verdict.values, details=verdict.details, reference=reference
    )


def _aligned(
    column: Sequence[Any], groups: Sequence[RolloutGroup], check: Callable[[Any], Any], what: str
) -> list[Any]:
    """`column`, one for every group; raises PluginError naming `what` otherwise."""
    if len(column) != len(groups):
        raise PluginError(
            f"{what}: {len(column)} for {len(groups)} groups", hint="give one for each, None where one was left out"
        )
    try:
        return [check(each) for each in column]
    except (TypeError, ValueError) as error:
        raise PluginError(f"{what}: {error}", hint="see `Measurement` in wavalign/plugins/api/metric.py") from None


def _outcome(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _detail(value: Any) -> Detail:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Real):
        raise TypeError(f"{type(value).__name__} is neither text nor a number")
    # What is no finite number is shown in words: JSON has none.
    return float(value) if math.isfinite(value) else str(value)


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n", 1)[0]
