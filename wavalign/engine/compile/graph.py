"""The training graph of a stage, resolved backwards from what its terms, its gate and its metrics need."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, final

from wavalign.engine.compile.ahead import in_one_pass, sampling_ahead
from wavalign.engine.compile.operators import Candidate, StageParts, candidates, metrics
from wavalign.engine.compile.plan import Graph, Operator, Pruned

TARGET = "updated"
"""What a training step is for; everything else is there because this needs it, or because it is reported."""
REPORTED = (
    "rollouts", "resampled", "waveforms", "scores", "advantages", "advantage_metrics", "gate", "mismatch", "totals",
    "kl", "ratio", "updated",
)  # fmt: skip
"""Values that say something in a step's metrics, where they are in the graph."""
_SCOPES = ("collect", "update", "micro_batch")


def build_graph(parts: StageParts, left_out: Sequence[Pruned] = ()) -> Graph:
    """The operators that the stage needs, in the order in which they run, and what was left out and why.

    `left_out` is what the recipe names and the parts do not: terms that can move no weight, a gate that none follows.
    """
    known = [*in_one_pass(candidates(parts), parts), *sampling_ahead(parts)]
    resolution = _Resolution(known)
    resolution.need(TARGET)
    resolution.follow()
    found = frozenset(resolution.found)
    inside = [each for each in known if each.operator.name in found]
    reported = [value for value in REPORTED if any(value in each.operator.gives for each in inside)]
    resolution.needed.update(reported)
    operators = [_finished(each, resolution.needed, found) for each in inside]
    reasons = parts.reasons_for_sound(found)
    need: Literal["none", "text", "all"] = "all" if reasons else "text"
    if not any("rollouts" in each.gives for each in operators):
        need = "none"
    return Graph(
        operators=tuple(_ordered([*operators, metrics(reported)])),
        pruned=(*left_out, *_pruned(known, resolution, text_alone=need == "text")),
        rollout_need=need,
    )


@final
class _Resolution:
    """Walks from values to the operators that give them, and to what those need."""

    def __init__(self, known: Sequence[Candidate]) -> None:
        self._known = known
        self._giver = {value: each.operator for each in known for value in each.operator.gives}
        self.needed: set[str] = set()
        self.found: set[str] = set()
        """Names of the operators in the graph."""

    def need(self, value: str) -> None:
        """Take what gives `value` into the graph, and all that it needs."""
        self.needed.add(value)
        giver = self._giver[value]
        if giver.name not in self.found:
            self.found.add(giver.name)
            for each in giver.needs:
                self.need(each)

    def follow(self) -> None:
        """Take in what is wanted wherever all that it needs is there."""
        for each in (candidate.operator for candidate in self._known if candidate.follows):
            if set(each.needs) <= self.needed:
                self.needed.update(each.gives)
                self.found.add(each.name)


def _finished(candidate: Candidate, needed: set[str], found: frozenset[str]) -> Operator:
    """The operator with the values that somebody needs, and its detail."""
    operator = candidate.operator
    kept = {value: shape for value, shape in operator.gives.items() if value in needed}
    detail = operator.detail if candidate.describe is None else candidate.describe(found)
    return operator.model_copy(update={"gives": kept, "detail": detail})


def _pruned(known: Sequence[Candidate], resolution: _Resolution, *, text_alone: bool) -> Iterator[Pruned]:
    for each in known:
        operator = each.operator
        unused = [value for value in operator.gives if value not in resolution.needed]
        if operator.name not in resolution.found:
            if not each.follows:
                yield Pruned(what=operator.name, why=each.asker or f"nothing needs {', '.join(unused)}")
        else:
            for column in (value for value in unused if value in each.columns):
                yield Pruned(what=column, why=each.unread.get(column, "no term needs it"))
        if operator.name == "rollout" and text_alone:
            why = "no term weighs it, no reward listens, and text, its end and their log-probs are the same without it"
            yield Pruned(what="rollout.sound", why=why)


def _ordered(operators: Sequence[Operator]) -> Iterator[Operator]:
    """Operators behind all that they need: those of an inner scope between those of the outer one.

    Of several that could run, the ones in threads start first, and what must wait for them comes last.
    """
    giver = {value: each for each in operators for value in each.gives}
    depth = {scope: level for level, scope in enumerate(_SCOPES)}
    behind = {each.name: _needs_of_inner(each, giver, depth) for each in operators}

    def section(operator: Operator) -> int:
        level = depth[operator.scope]
        return 2 * len(_SCOPES) - level if behind[operator.name] else level

    done: set[str] = set()
    rest = list(operators)
    while rest:
        first = min(section(each) for each in rest)
        ready = [each for each in rest if section(each) == first and set(each.needs) <= done]
        chosen = min(ready, key=lambda each: (_waits(each, giver), each.place != "threads"))
        rest.remove(chosen)
        done.update(chosen.gives)
        yield chosen


def _waits(operator: Operator, giver: Mapping[str, Operator]) -> bool:
    """Whether it would stop the main thread until an operator in a thread is through."""
    return operator.place != "threads" and any(giver[value].place == "threads" for value in operator.needs)


def _needs_of_inner(operator: Operator, giver: Mapping[str, Operator], depth: Mapping[str, int]) -> bool:
    """Whether it needs, through whatever chain, a value of a scope inside its own."""
    level, seen, left = depth[operator.scope], set[str](), list(operator.needs)
    while left:
        value = left.pop()
        if value in seen:
            continue
        seen.add(value)
        if depth[giver[value].scope] > level:
            return True
        left += giver[value].needs
    return False
