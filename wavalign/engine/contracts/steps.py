"""Contract of advantages that work on steps. Shapes: N answers, T steps."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from wavalign.engine.contracts.origins import origin
from wavalign.engine.contracts.values import Unchanged, finite, named, names, number, one_line, shown, tensor, want
from wavalign.plugins.api import Advantage, StepInputs, StepOutput
from wavalign.plugins.guard import Broken

MAY_NEED: Mapping[str, frozenset[str]] = {"answer": frozenset(), "token": frozenset({"old_values", "ref_logprobs"})}
"""By unit, what an advantage may read beside rewards."""


def _compute_steps(plugin: Advantage, own: Callable[[StepInputs], Any], inputs: StepInputs) -> StepOutput:
    """Advantages and returns [N, T] of `inputs`, 0 off the steps of valid answers."""
    given = {each.name: getattr(inputs, each.name) for each in fields(inputs)}
    if not origin(plugin).own:
        given = {name: None if each is None else each.clone() for name, each in given.items()}
    lent = Unchanged(given)
    found = own(StepInputs(**given))
    lent.check()
    if not isinstance(found, StepOutput):
        raise Broken(f"gave {named(found)} instead of a StepOutput")
    valid = tensor(found.valid, "validity", shape=inputs.present.shape, dtype=torch.bool)
    if bool((valid & ~inputs.present).any()):
        raise Broken("calls an answer valid that has no reward, or no step")
    here = inputs.mask & valid[:, None]
    checked = {what: _steps(getattr(found, what), what, here) for what in ("advantages", "returns")}
    want(found.metrics, Mapping, "metrics")
    metrics = {one_line(name, "the name of a metric"): number(value, name) for name, value in found.metrics.items()}
    return replace(found, **checked, valid=valid, metrics=metrics)


def _steps(found: object, what: str, here: Tensor) -> Tensor:
    """One number a step [N, T], finite where `here` [N, T] and 0 elsewhere."""
    steps = tensor(found, what, shape=here.shape).detach()
    finite(steps, what, where=here)
    finite(steps.float(), f"{what}, as the 32 bits that losses are given,", where=here)
    return torch.where(here, steps, 0.0)


def _needs(plugin: Advantage, own: Callable[[], Any]) -> frozenset[str]:
    found = names(own(), "needs")
    if unknown := found - MAY_NEED[plugin.unit]:
        there = ", ".join(sorted(MAY_NEED[plugin.unit])) or "nothing"
        raise Broken(f"needs {shown(min(unknown))}; an advantage of unit {plugin.unit} may need {there}")
    return found


AROUND: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("advantage", "compute_steps"): _compute_steps,
    ("advantage", "needs"): _needs,
}
