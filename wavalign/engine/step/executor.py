"""Walks the operators of a step. It knows scopes and names of values, and no operator.

An inner scope runs once for every item of a value of the scope around it: an update for each of `updates`, a
micro-batch for each of `micro_batches`; under that same name the inner operators see the item. What an inner operator
gives is seen outside as the list of what it gave for each item. An operator whose place is `threads` runs beside the
others until somebody needs what it gives.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch

from wavalign.engine.compile.plan import Operator, Scope
from wavalign.engine.state.peaks import Peaks
from wavalign.engine.state.timeline import Spans
from wavalign.engine.step.values import Made, Pending, Values
from wavalign.engine.step.waiting import Waiting

ITERATED: Mapping[Scope, str] = {"update": "updates", "micro_batch": "micro_batches"}
"""Scope -> value of the scope around it whose items it runs for."""
_INNER: Mapping[Scope, Scope | None] = {"collect": "update", "update": "micro_batch", "micro_batch": None}


Run = Callable[[Mapping[str, Any]], Made]
"""From the values an operator needs, and those of the scopes around it, to the values it gives."""


@final
@dataclass(frozen=True, slots=True)
class LiveOperator:
    """An operator of the plan with its function."""

    plan: Operator
    run: Run
    """From the values it needs to the values it gives."""
    busy: str = ""
    """What a person is told that the step does meanwhile; empty where it takes no time to speak of."""
    progress: Callable[[], tuple[str, int, int]] | None = None
    """What it is at, how much of that is done, and of how much, for who waits for its thread."""


@final
@dataclass(frozen=True, slots=True)
class Block:
    """The operators of one scope around those of the scope inside it."""

    before: Sequence[LiveOperator]
    inside: "Block | None"
    after: Sequence[LiveOperator]
    over: str
    """The value whose items the scope runs for; empty for the outermost."""
    seen_outside: tuple[str, ...]
    """Of what it gives, what the scopes around need."""


@final
class Clock:
    """Where the time of a step goes."""

    def __init__(self, device: torch.device, spans: Spans | None = None) -> None:
        """`spans` has when operators ran; without them there are none."""
        self.spans = spans if spans is not None else Spans()
        self.seconds: dict[str, float] = {}
        """By `Operator.counts_as`."""
        self.peaks = Peaks(device)
        self._since, self._now = time.perf_counter(), ""

    def switch(self, counts_as: str) -> None:
        """From here on time counts as this."""
        now = time.perf_counter()
        if self._now:
            self.seconds[self._now] = self.seconds.get(self._now, 0.0) + now - self._since
        self._since, self._now = now, counts_as
        if not counts_as:
            self.peaks.switch("")


@final
class Executor:
    """Executes the graph of one stage."""

    def __init__(self, operators: Sequence[LiveOperator], *, device: torch.device, waiting: Waiting) -> None:
        """`waiting` is told what the step is busy with."""
        self._outermost, self._device, self._waiting = _block(operators, "collect", frozenset()), device, waiting
        self._by_name = {each.plan.name: each for each in operators}
        self._clock = Clock(device)

    def run(self, first: Made, spans: Spans | None = None) -> Values:
        """The values of one step that begins with the values `first`; `spans` keeps when its operators ran."""
        self._clock = Clock(self._device, spans)
        values = Values(first={**first, "clock": self._clock})
        values.waiting = self._waits_for
        self._scope(self._outermost, values)
        return values

    def _waits_for(self, name: str) -> None:
        operator = self._by_name[name]
        self._waiting(*((operator.busy, 0, 0) if operator.progress is None else operator.progress()))

    def _scope(self, block: Block, values: Values) -> None:
        for operator in block.before:
            self._start(operator, values)
        if block.inside is not None:
            self._repeat(block.inside, values)
        for operator in block.after:
            self._start(operator, values)

    def _repeat(self, block: Block, around: Values) -> None:
        kept: dict[str, list[object]] = {name: [] for name in block.seen_outside}
        for item in around[block.over]:
            values = Values(around, {block.over: item})
            self._scope(block, values)
            for name, made in kept.items():
                made.append(values[name])
            del values, item  # the tensors of one item are freed before the next one's are made
        around.set(kept)

    def _start(self, operator: LiveOperator, values: Values) -> None:
        plan = operator.plan
        self._clock.switch(plan.counts_as)
        self._clock.peaks.switch(phase_of(plan))
        if operator.busy:
            self._waiting(operator.busy, 0, 0)
        if plan.place == "threads":
            pending = Pending(plan.name, partial(_run, operator, values, self._clock.spans), self._device)
            values.set(dict.fromkeys(plan.gives, pending))
            return
        made = _run(operator, values, self._clock.spans)
        values.set({name: made[name] for name in plan.gives})


PHASES = ("sampling", "scoring", "backward", "step")
"""What `phase_of` gives."""


def phase_of(plan: Operator) -> str:
    """Whose peak of memory an operator's is: sampling, scoring, backward (a micro-batch's both ways) or step."""
    if plan.scope == "micro_batch":
        return "backward"
    if plan.scope == "update" or plan.function == "metrics":
        return "step"
    return "sampling" if plan.counts_as == "rollout" else "scoring"


def _run(operator: LiveOperator, values: Values, spans: Spans) -> Made:
    with spans.of(operator.plan.name):
        return operator.run(values)


def _block(operators: Sequence[LiveOperator], scope: Scope, outside: frozenset[str]) -> Block:
    """Nest the operators, which the plan gives in the order in which they run; `outside` is what outer scopes need."""
    places = [index for index, each in enumerate(operators) if each.plan.scope != scope]
    first, last = (places[0], places[-1] + 1) if places else (len(operators), len(operators))
    before, within, after = operators[:first], operators[first:last], operators[last:]
    needed = outside | {need for each in (*before, *after) for need in each.plan.needs}
    inner = _INNER[scope]
    inside = _block(within, inner, needed) if within and inner is not None else None
    seen = tuple(value for each in operators for value in each.plan.gives if value in outside)
    return Block(before, inside, after, ITERATED.get(scope, ""), seen)
