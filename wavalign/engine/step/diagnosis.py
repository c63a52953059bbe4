"""One update again, looked at value by value: where the first NaN or infinity comes from.

Every micro-batch is run on every rank to its end, whatever is found in it, for ranks may speak to one another inside.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from wavalign.engine.step.batches import MicroBatch
from wavalign.engine.step.executor import LiveOperator
from wavalign.engine.step.operators import live_operators
from wavalign.engine.step.skipping import UpdateRecord
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.updates import Update
from wavalign.engine.step.values import Values
from wavalign.errors import NonFiniteError
from wavalign.plugins.api import GateReading

PARAMETER, COLUMN, MODULE, VALUE = "weight", "column", "module", "value"
TERM, GRADIENT = "gradient at the log-probs of term", "gradient of weight"
"""Kinds of places, in the order in which an update comes to them."""


@final
@dataclass(frozen=True, slots=True)
class Place:
    """A value that is NaN or infinite."""

    micro_batch: int
    """From 0; -1 before the first."""
    kind: str
    name: str
    """Of the weight, the column, the module, the step's value, or the parameter whose gradient it is."""
    detail: str = ""

    def __str__(self) -> str:
        batch = f"micro-batch {self.micro_batch + 1}, " if self.micro_batch >= 0 else ""
        said = f"{batch}{self.kind} {self.name}"
        return f"{said}: {self.detail}" if self.detail else said


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What one rank found."""

    places: Sequence[Place]
    """The first of each kind in each micro-batch, in the order in which they arose."""
    norm: str
    """What became of the gradients of all ranks, in words."""


def diagnose(live: LiveStage, record: UpdateRecord) -> Diagnosis:
    """Run the update of `record` with the weights as they are; every rank calls it, and the weights stay."""
    found = _Found()
    if broken := live.backend.broken():
        found.add(Place(-1, PARAMETER, broken))
    operators = [each for each in live_operators(live) if each.plan.scope == "micro_batch"]
    given: dict[str, Any] = {
        "step": record.step,
        "updates": Update(record.update, ()),
        "denominators": _Denominators({name: each.to(live.world.device) for name, each in record.denominators.items()}),
    }
    if record.gate is not None:
        given["gate"] = GateReading(record.gate)
    live.backend.begin_update(len(record.micro_batches))
    for batch in record.micro_batches:
        values = Values(first={**given, "micro_batches": batch.to(live.world.device)})
        _run(live, operators, values, found)
    try:
        norm = f"the gradient norm of all processes is {live.backend.step(0.0):.4g}"
    except NonFiniteError as error:
        norm = error.message.split(";")[0]
    return Diagnosis(tuple(found.places), norm)


@final
@dataclass(frozen=True, slots=True)
class _Denominators:
    """As much of an update's as its terms look at."""

    by_term: dict[str, Tensor]
    """[2] float64 each."""


@final
class _Found:
    """Places in the order in which they arose; of a kind and a micro-batch the first."""

    def __init__(self) -> None:
        self.places: list[Place] = []

    def add(self, place: Place) -> None:
        """Take one, unless there is one of its kind in its micro-batch."""
        if all((each.micro_batch, each.kind) != (place.micro_batch, place.kind) for each in self.places):
            self.places.append(place)


def _run(live: LiveStage, operators: Sequence[LiveOperator], values: Values, found: _Found) -> None:
    """One micro-batch: its columns, the modules' outputs, the step's values, the parameters' gradients."""
    batch: MicroBatch = values["micro_batches"]
    for name, column in batch.columns.items():
        if not bool(torch.isfinite(column).all()):
            found.add(Place(batch.number, COLUMN, name, _where(column, batch)))
    with _watched(live.backend.policy, partial(_add, found, batch.number)):
        for operator in operators:
            if operator.plan.function == "backward":
                _look_at_terms(operators, values, found)
            made = operator.run(values)
            values.set({name: made[name] for name in operator.plan.gives})
            for name in operator.plan.gives:
                if isinstance(value := made[name], Tensor) and not bool(torch.isfinite(value).all()):
                    found.add(Place(batch.number, VALUE, name, _where(value.detach(), batch)))


def _look_at_terms(operators: Sequence[LiveOperator], values: Values, found: _Found) -> None:
    """What each term alone says to the log-probs [B, S + E, T], away from the network and its backend."""
    batch: MicroBatch = values["micro_batches"]
    for operator in (each for each in operators if each.plan.function == "term"):
        logprobs = values["logprobs"].detach().requires_grad_()
        made = operator.run(Values(values, {"logprobs": logprobs}))
        value: Tensor = made[next(iter(operator.plan.gives))]
        (mine,) = torch.autograd.grad(value, logprobs, allow_unused=True)
        if mine is not None and not bool(torch.isfinite(mine).all()):
            found.add(Place(batch.number, TERM, operator.plan.of, _where(mine, batch)))


def _add(found: _Found, number: int, kind: str, name: str, detail: str) -> None:
    found.add(Place(number, kind, name, detail))


@contextmanager
def _watched(policy: nn.Module, add: Any) -> Iterator[None]:
    """Inside, `add(kind, name, detail)` hears of outputs of modules and gradients of parameters that are no numbers."""
    handles = []
    for name, module in policy.named_modules():
        if name:
            handles.append(module.register_forward_hook(partial(_output, add, name)))
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_hook(partial(_gradient, add, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _output(add: Any, name: str, _: nn.Module, given: tuple[Any, ...], output: Any) -> None:
    if not _finite(output):
        add(MODULE, name, "its inputs are finite" if _finite(given) else "its inputs are none already")


def _gradient(add: Any, name: str, gradient: Tensor) -> None:
    """Look at the `gradient` [...] of a parameter, one micro-batch's."""
    if not bool(torch.isfinite(gradient).all()):
        bad = int((~torch.isfinite(gradient)).sum())
        add(GRADIENT, name, f"{bad} of {gradient.numel()} elements")


def _finite(value: Any) -> bool:
    """Whether all floating-point numbers in a tensor, or in the tensors of a tuple, are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value.detach()).all())
    return all(_finite(each) for each in value) if isinstance(value, tuple | list) else True


def _where(value: Tensor, batch: MicroBatch) -> str:
    """The first place in `value` [B, S, T], [B, T], [B] or [] that is no number, with the row it is of."""
    bad = (~torch.isfinite(value)).nonzero()
    if not value.dim():
        return f"{float(value)}"
    first = bad[0].tolist()
    said = f"{float(value[tuple(first)])} at {first}"
    if value.shape[0] != len(batch.rows):
        return said
    row = batch.rows[first[0]]
    return f"{said}, row {row.member} of group {row.group} of {row.family or 'no family'}; {len(bad)} such numbers"
