"""Contracts of masks, advantages, gates and losses. Shapes: B sequences, S streams, T tokens, P prompts, G group."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wavalign.engine.contracts.origins import origin
from wavalign.engine.contracts.values import (
    Unchanged,
    finite,
    json_value,
    named,
    names,
    number,
    one_line,
    same_device,
    shown,
    tensor,
    want,
)
from wavalign.errors import PluginError
from wavalign.plugins.api import (
    Advantage,
    AdvantageInputs,
    AdvantageOutput,
    Gate,
    GateReading,
    Loss,
    LossInputs,
    LossOutput,
    Mask,
    Plugin,
    Regularizer,
    Remembers,
)
from wavalign.plugins.batch import SCORED_ROLES
from wavalign.plugins.guard import Broken

LARGEST_WEIGHT = 1e9
"""Weights compare tokens with one another; beyond this their sums leave 32 bits."""


def _weights(plugin: Mask, own: Callable[[Tensor], Tensor], roles: Tensor) -> Tensor:
    """Weights [B, S, T] of `roles` [B, S, T]."""
    handed = _handed(plugin, roles)
    lent = Unchanged({"roles": handed})
    weights = tensor(own(handed), "weights", shape=roles.shape, dtype=torch.float32).detach()
    lent.check()
    same_device(weights, roles, "weights", "the roles are")
    scored = torch.zeros_like(roles, dtype=torch.bool)
    for role in SCORED_ROLES:
        scored |= roles == role
    good = (weights >= 0) & (weights <= LARGEST_WEIGHT) & (scored | (weights == 0))
    if bool(good.all()):  # one question to the device where all is well
        return weights
    finite(weights, "weights")
    place = tuple(int(index) for index in (~good).nonzero()[0])
    if float(weights[place]) < 0:
        raise Broken(f"gave the weight {float(weights[place]):g} at {list(place)}; weights are 0 or more")
    if float(weights[place]) > LARGEST_WEIGHT:
        raise Broken(f"gave the weight {float(weights[place]):g} at {list(place)}; they go up to {LARGEST_WEIGHT:g}")
    hint = "only TEXT, TEXT_END, AUDIO and AUDIO_MARK are the model's own choice"
    raise Broken(f"weighs role {int(roles[place])} at {list(place)}, which is never scored", hint=hint)


def _compute_advantages(
    plugin: Advantage, own: Callable[[AdvantageInputs], Any], inputs: AdvantageInputs
) -> AdvantageOutput:
    rewards = inputs.rewards
    parts = {name: _handed(plugin, part) for name, part in inputs.parts.items()}
    inputs = replace(inputs, rewards=_handed(plugin, rewards), parts=parts)
    lent = Unchanged({"rewards": inputs.rewards, **{f"parts['{name}']": part for name, part in parts.items()}})
    found = own(inputs)
    lent.check()
    if not isinstance(found, AdvantageOutput):
        raise Broken(f"gave {named(found)} instead of an AdvantageOutput")
    advantages = tensor(found.values, "advantages", shape=rewards.shape).detach()
    valid = tensor(found.valid, "validity", shape=rewards.shape, dtype=torch.bool)
    for each, what in ((advantages, "advantages"), (valid, "validity")):
        same_device(each, rewards, what, "the rewards are")
    finite(advantages, "advantages", where=valid)
    finite(advantages.float(), "advantages, as the 32 bits that losses are given,", where=valid)
    if bool((valid & rewards.isnan()).any()):
        raise Broken("calls an advantage valid whose reward is absent (NaN)")
    if bool((torch.where(valid, 0.0, advantages) != 0).any()):
        raise Broken("gave an advantage other than 0 that it does not call valid")
    return AdvantageOutput(advantages, valid)


def _update(
    plugin: Gate, own: Callable[..., Any], rewards: Tensor | None, *, progress: float, noise: Tensor | None = None
) -> GateReading:
    """The reading after `rewards` [P, G]; None where the gate reads none. `noise` [P, G] where it is `needs_noise`."""
    handed = _handed(plugin, rewards)
    asked = {} if noise is None else {"noise": _handed(plugin, noise)}
    lent = Unchanged({"rewards": handed, **asked})
    reading = own(handed, progress=progress, **asked)
    lent.check()
    if not isinstance(reading, GateReading):
        raise Broken(f"gave {named(reading)} instead of a GateReading")
    want(reading.factors, Mapping, "factors")
    factors = {}
    for name, value in reading.factors.items():
        one_line(name, "the name of a factor")
        factors[name] = number(value, f"factor {name}")
    value = number(reading.value, "its value", low=0, high=1)
    return GateReading(value, factors, _shares_of_prompts(plugin, reading.prompts, rewards))


def _shares_of_prompts(plugin: Gate, found: object, rewards: Tensor | None) -> tuple[float, ...]:
    """A number from 0 to 1 for each of the P prompts of `rewards` [P, G], of a gate that promises them."""
    if not isinstance(found, tuple | list):
        raise Broken(f"gave {named(found)} as the values of prompts, which are a tuple of numbers")
    if not plugin.per_prompt:
        if found:
            raise Broken("gave values of prompts, and its `per_prompt` is False")
        return ()
    count = len(found) if rewards is None else len(rewards)
    if len(found) != count:
        raise Broken(f"gave values of {len(found)} prompts where there are {count}")
    return tuple(number(each, f"the value of prompt {place}", low=0, high=1) for place, each in enumerate(found))


def _flag(name: str) -> Callable[[Gate, Callable[[], Any]], bool]:
    """A property that says yes or no."""

    def checked(_plugin: Gate, own: Callable[[], Any]) -> bool:
        said = own()
        want(said, bool, name)
        return bool(said)

    return checked


def _state_dict(_plugin: Remembers, own: Callable[[], Any]) -> dict[str, Any]:
    state = own()
    if not isinstance(state, dict):
        raise Broken(f"gave {named(state)}, which is to be a dict")
    json_value(state, "state")
    return state


def _gate_made(gate: Gate) -> None:
    """A state that no checkpoint can hold shows before the first step."""
    gate.state_dict()


def _needs(_plugin: Loss, own: Callable[[], Any]) -> frozenset[str]:
    return names(own(), "needs")


def _scalars(_plugin: Loss, own: Callable[[], Any]) -> dict[str, Any]:
    found = own()
    want(found, Mapping, "scalars")
    for name, unit in found.items():
        if not isinstance(name, str) or not name.isidentifier() or unit not in ("token", "sequence"):
            raise Broken(f"gave {shown(name)}: {shown(unit)} in scalars, which is a name and `token` or `sequence`")
    return dict(found)


def _compute_loss(plugin: Loss, own: Callable[[LossInputs], Any], inputs: LossInputs) -> LossOutput:
    lender = inputs.logprobs
    inputs = replace(
        inputs,
        logprobs=_handed(plugin, inputs.logprobs),
        mask=_handed(plugin, inputs.mask),
        columns={name: _handed(plugin, column) for name, column in inputs.columns.items()},
    )
    lent = Unchanged({"logprobs": inputs.logprobs, "mask": inputs.mask, **inputs.columns})
    gone_backward: list[Tensor] = []
    watch = lender.register_hook(gone_backward.append) if lender.requires_grad else None
    try:
        output = own(inputs)
    except PluginError as error:
        if error.placed:
            raise
        raise Broken(error.message.removeprefix("a loss "), hint=error.hint) from error
    except AttributeError as error:
        if error.obj is not inputs:
            raise
        hint = f"columns are read by `inputs.column({error.name!r})`, and named in `needs`"
        raise Broken(f"reads `{error.name}`, which is no field of its inputs (AttributeError)", hint=hint) from error
    finally:
        if watch is not None:
            watch.remove()
    lent.check()
    if gone_backward:
        raise Broken("calls backward() itself, which adds to the policy's gradient", hint="give the values only")
    if not isinstance(output, LossOutput):
        raise Broken(f"gave {named(output)} instead of a LossOutput")
    whole = inputs.logprobs.shape
    by_unit = {"token": whole, "sequence": whole[:1], "group": torch.Size([inputs.groups])}
    shape = by_unit[plugin.unit]
    values = tensor(output.values, f"values (its unit is {plugin.unit})", shape=shape)
    same_device(values, inputs.logprobs, "values", "the log-probs are")
    if inputs.logprobs.requires_grad and not values.requires_grad:
        raise Broken("gave values without a gradient", hint="compute them from `inputs.logprobs`, not detached")
    # Sums and numbers of tokens are taken in the dtype of the values: 16 bits do not count to 3000.
    return LossOutput(
        values.float(), _logged(output.metrics, "metric", shape), _logged(output.maxima, "maximum", shape)
    )


def _logged(found: Mapping[str, Tensor], kind: str, shape: torch.Size) -> dict[str, Tensor]:
    """What a loss wants to see logged, each of the `shape` of its values: [B, S, T], [B] or [groups]."""
    want(found, Mapping, "metrics" if kind == "metric" else "maxima")
    for name, value in found.items():
        one_line(name, f"the name of a {kind}")
        want(value, Tensor, f"{kind} {name}")
        if value.shape != shape:
            raise Broken(f"gave {kind} {name} of shape {list(value.shape)}, which is to be {list(shape)}")
        if value.is_complex() or value.layout is not torch.strided:
            raise Broken(f"gave {kind} {name} of {value.dtype}, {value.layout}, which is to be a plain number each")
    return dict(found)


def _handed(plugin: Plugin, value: Tensor | None) -> Any:
    """An argument [...] of a plugin: a copy for somebody else's, since not every way to write into it is noticed."""
    return value if value is None or origin(plugin).own else value.clone()


def _text_alone(_plugin: Mask, own: Callable[[], Any]) -> bool:
    said = own()
    want(said, bool, "text_alone")
    return bool(said)


def _compares_answers(_plugin: Advantage, own: Callable[[], Any]) -> bool:
    said = own()
    want(said, bool, "compares_answers")
    return bool(said)


def _inert(_plugin: Loss, own: Callable[[], Any]) -> str:
    said = own()
    want(said, str, "inert_on_policy")
    return str(said)


def _regularizers(_plugin: Loss, own: Callable[[], Any]) -> tuple[Regularizer, ...]:
    found = own()
    if not isinstance(found, tuple | list) or not all(isinstance(each, Regularizer) for each in found):
        raise Broken(f"gave {shown(found)} instead of a tuple of Regularizer")
    return tuple(found)


AROUND: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("mask", "weights"): _weights,
    ("mask", "text_alone"): _text_alone,
    ("advantage", "compute"): _compute_advantages,
    ("advantage", "compares_answers"): _compares_answers,
    ("gate", "update"): _update,
    ("gate", "needs_noise"): _flag("needs_noise"),
    ("gate", "per_prompt"): _flag("per_prompt"),
    **{(kind, "state_dict"): _state_dict for kind in ("advantage", "gate", "provider", "reward")},
    ("loss", "needs"): _needs,
    ("loss", "scalars"): _scalars,
    ("loss", "compute"): _compute_loss,
    ("loss", "regularizers"): _regularizers,
    ("loss", "inert_on_policy"): _inert,
}
MADE: Mapping[str, Callable[[Any], None]] = {"gate": _gate_made}
