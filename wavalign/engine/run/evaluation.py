"""Held-out measurement: answers to every dialogue, every metric, and beside each the same one on the gold answers."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from wavalign.engine.contracts.origins import close_all
from wavalign.engine.run.rollouts import Roller
from wavalign.engine.run.sampling import evaluation_options
from wavalign.engine.run.seeds import generator
from wavalign.plugins.api import Measurement, Metric, Policy
from wavalign.plugins.batch import Dialogue, RolloutGroup
from wavalign.schema.evaluation import EvaluationSection


@final
@dataclass(frozen=True, slots=True)
class SplitResult:
    """One split measured once."""

    split: str
    values: Mapping[str, float]
    """Flat, as in metrics.jsonl."""
    samples: Sequence[RolloutGroup]
    """With sound, for the report; the same dialogues every time."""


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
    ) -> None:
        self.roller, self.splits, self.metrics, self.num_samples = roller, splits, metrics, section.samples
        self.options = evaluation_options(section.sampling, max_new_tokens=max_new_tokens)
        self._ceilings: dict[str, dict[str, float]] = {}

    def run(self, policy: Policy, progress: Callable[[str, int, int], None]) -> Iterator[SplitResult]:
        """Measure one split after the other."""
        for number, (split, dialogues) in enumerate(self.splits.items()):
            progress("measuring", number, len(self.splits))
            yield self._split(policy, split, dialogues)
        progress("measuring", len(self.splits), len(self.splits))

    def _split(self, policy: Policy, split: str, dialogues: Sequence[Dialogue]) -> SplitResult:
        began = time.perf_counter()
        # The same draws every time: an evaluation must not be noisy.
        groups = self.roller.sample(policy, dialogues, self.options, generator(0, "evaluation"))
        groups = self.roller.with_sound(groups)
        values: dict[str, float] = {}
        for each in self._measure(groups):
            values |= {each.name: each.value, f"{each.name}/low": each.low, f"{each.name}/high": each.high}
            values[f"{each.name}/count"] = each.count
        if split not in self._ceilings:
            self._ceilings[split] = self._ceiling(dialogues)
        values |= self._ceilings[split]
        values["evaluation_seconds"] = time.perf_counter() - began
        count = min(self.num_samples, len(groups))
        return SplitResult(split, values, [groups[index * len(groups) // count] for index in range(count)])

    def _ceiling(self, dialogues: Sequence[Dialogue]) -> dict[str, float]:
        gold = self.roller.with_sound(self.roller.gold(dialogues))
        values: dict[str, float] = {}
        for each in self._measure(gold) if gold else []:
            values[f"{each.name}/ceiling"] = each.value
            values[f"{each.name}/ceiling_low"] = each.low
            values[f"{each.name}/ceiling_high"] = each.high
        return values

    def _measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        """All values; where two metrics use one name, the later one's gets its recipe name in front."""
        found: dict[str, Measurement] = {}
        for metric, plugin in self.metrics.items():
            for each in plugin.measure(groups):
                name = f"{metric}.{each.name}" if each.name in found else each.name
                found[name] = replace(each, name=name)
        return list(found.values())

    def close(self) -> None:
        """Free the metrics."""
        close_all(metric.close for metric in self.metrics.values())
