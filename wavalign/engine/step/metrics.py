"""A step's numbers for metrics.jsonl, summed over micro-batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from wavalign.engine.contracts.origins import origin
from wavalign.engine.step.batches import MicroBatch
from wavalign.engine.step.rewards import cut_off
from wavalign.errors import PluginError
from wavalign.plugins.api import Loss
from wavalign.plugins.batch import AUDIO_ROLES, MARK_ROLES, TEXT_ROLES

if TYPE_CHECKING:  # the executor makes what this module reads
    from wavalign.engine.step.stage import LiveStage
    from wavalign.engine.step.state import StepState

NOISE = 1e-9
"""An advantage this small is two roundings of the same reward."""
KINDS = {"text": TEXT_ROLES, "audio": AUDIO_ROLES, "marks": MARK_ROLES}


@final
@dataclass(slots=True)
class StepTotals:
    """Sums over this rank's micro-batches."""

    loss: float = 0.0
    learning_rate: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """By term and name, the largest value so far."""
    kl: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Per token kind: sum of the k3 divergence to the reference, and tokens."""

    def add_term(self, name: str, value: Tensor) -> None:
        """A micro-batch's part of a term's aggregate."""
        self.terms[name] = self.terms.get(name, 0.0) + float(value.detach())

    def add_metrics(self, name: str, sums: Mapping[str, Tensor]) -> None:
        """A micro-batch's sums of a loss's metrics."""
        mine = self.metrics.setdefault(name, {})
        for key, value in sums.items():
            mine[key] = mine[key] + value if key in mine else value

    def add_maxima(self, name: str, found: Mapping[str, Tensor]) -> None:
        """A micro-batch's largest values of what a loss logs so."""
        for key, value in found.items():
            full = f"{name}/{key}"
            self.maxima[full] = torch.maximum(self.maxima[full], value) if full in self.maxima else value

    def add_kl(self, logprobs: Tensor, ref_logprobs: Tensor, batch: MicroBatch, select: Tensor) -> None:
        """k3 divergence to the reference on the rollouts' selected tokens, by kind."""
        gap = ref_logprobs - logprobs.detach()
        values = gap.exp() - gap - 1
        rollouts = batch.is_rollout.view(-1, 1, 1)
        for kind, roles in KINDS.items():
            here = select & rollouts & torch.isin(batch.tokens.roles, torch.tensor(roles, device=gap.device))
            total, count = self.kl.get(kind, (0.0, 0.0))
            self.kl[kind] = (total + float(values[here].sum(dtype=torch.float64)), count + float(here.sum()))


def collect_metrics(live: LiveStage, state: StepState) -> dict[str, float]:
    """The step's line for metrics.jsonl, equal on every rank."""
    sums, world = _local_sums(live, state), live.world
    reduced = world.all_reduce_sum(torch.tensor(list(sums.values()), dtype=torch.float64, device=world.device))
    total = dict(zip(sums, reduced.tolist(), strict=True))
    values: dict[str, float] = {"loss": total["loss"], **_largest(live, state)}
    gate = state.gate.value if state.gate is not None else None
    for term in live.terms:
        name, tokens = term.plan.name, float(state.denominators[term.plan.name][0])
        values[f"loss/{name}"] = total[f"term {name}"]
        values[f"share/{name}"] = term.spec.coefficient(gate) / term.plan.weight
        values[f"tokens/{name}"] = tokens
        for key in state.totals.metrics.get(name, {}):
            values[f"{name}/{key}"] = _ratio(total[f"metric {name} {key}"], tokens)
        refuse_odd(term.loss, name, values)
    if state.gate is not None:
        values["gate"] = state.gate.value
        values |= {f"gate/{key}": factor for key, factor in state.gate.factors.items()}
    values |= _reward_metrics(live, state)
    values |= {f"kl/{kind}": _ratio(total[f"kl {kind}"], total[f"kl tokens {kind}"]) for kind in state.totals.kl}
    if state.groups:
        values["rollout_length"] = _ratio(total["length"], total["rollouts"])
        values["truncated"] = _ratio(total["truncated"], total["rollouts"])
        values["wordless"] = _ratio(total["wordless"], total["rollouts"])
    if state.advantages is not None:
        values["nonzero_advantages"] = _ratio(total["nonzero advantages"], total["rollouts"])
    values["grad_norm"], values["learning_rate"] = state.grad_norm, state.totals.learning_rate
    values |= {f"dropped/{name}": feed.dropped for name, feed in live.feeds.items() if feed.drops}
    values |= _seconds(state, total)
    return {key: value for key, value in values.items() if not math.isnan(value)}


def refuse_odd(loss: Loss, name: str, values: Mapping[str, float]) -> None:
    """Raise PluginError where somebody's loss has logged what is no finite number."""
    if origin(loss).own:
        return
    for key in (each for each in values if each.startswith(f"{name}/")):
        if math.isinf(values[key]) or (math.isnan(values[key]) and values[f"tokens/{name}"] > 0):
            said = f"`{key.removeprefix(f'{name}/')}` is {values[key]} over the step's tokens and cannot be logged"
            hint = "mend what it puts into `metrics` or `maxima`"
            raise PluginError(f"{origin(loss)}: {said}", hint=hint, placed=True)


def _largest(live: LiveStage, state: StepState) -> dict[str, float]:
    """Largest values over all ranks, NaN where no token was seen; the same names on every rank."""
    mine = state.totals.maxima
    if not mine:
        return {}
    everywhere = live.world.all_gather_rows(torch.stack(list(mine.values()))[None].to(live.world.device))
    largest = everywhere.amax(dim=0).tolist()
    return {key: value if value > -math.inf else math.nan for key, value in zip(mine, largest, strict=True)}


def nonzero(advantages: Tensor | None) -> float:
    """How many advantages are more than rounding."""
    return 0.0 if advantages is None else float((advantages.abs() > NOISE).sum())


def _local_sums(live: LiveStage, state: StepState) -> dict[str, float]:
    """Named numbers of this rank that add up over ranks; the same names on every rank."""
    totals = state.totals
    sums = {"loss": totals.loss, **{f"term {name}": value for name, value in totals.terms.items()}}
    for name, metrics in totals.metrics.items():
        sums |= {f"metric {name} {key}": float(value) for key, value in metrics.items()}
    for kind, (total, count) in totals.kl.items():
        sums |= {f"kl {kind}": total, f"kl tokens {kind}": count}
    rollouts = [rollout for group in state.groups for rollout in group.rollouts]
    sums["rollouts"] = len(rollouts)
    sums["length"] = sum(rollout.completion.length for rollout in rollouts)
    sums["truncated"] = sum(cut_off(rollout.answer, live.rewards.rewards) for rollout in rollouts)
    sums["wordless"] = sum(not rollout.answer.text.strip() for rollout in rollouts)
    sums["nonzero advantages"] = nonzero(state.advantages)
    sums["tokens"] = sum(int(batch.tokens.lengths.sum()) for batch in state.batches)
    return sums


def _reward_metrics(live: LiveStage, state: StepState) -> dict[str, float]:
    if state.scores is None:
        return {}
    values = {}
    for name, table in {"": state.scores.total, **state.scores.parts}.items():
        everywhere = live.world.all_gather_rows(table)
        present = everywhere[~everywhere.isnan()]
        key = f"reward/{name}" if name else "reward"
        values[key] = float(present.mean()) if len(present) else math.nan
        if name:
            gone = live.world.all_gather_rows(state.scores.absent[name].double())
            values[f"{key}/failed"] = float((everywhere.isnan() & (gone == 0)).sum())
            values[f"{key}/absent"] = float(gone.sum())
            continue
        values["reward_std"] = float(present.std(unbiased=False)) if len(present) else math.nan
        groups = everywhere[~everywhere.isnan().all(dim=1)]  # one without any reward has no variance to speak of
        flat = groups.nan_to_num(nan=math.inf).amin(1) == groups.nan_to_num(nan=-math.inf).amax(1)
        values["zero_variance_groups"] = float(flat.double().mean()) if len(flat) else math.nan
    return values


def _seconds(state: StepState, total: Mapping[str, float]) -> dict[str, float]:
    spent = state.seconds
    whole = sum(spent.values())
    return {
        "rollout_seconds": spent.get("rollout", 0.0),
        "reward_seconds": spent.get("decode_audio", 0.0) + spent.get("reward", 0.0) + spent.get("aggregate", 0.0),
        "learn_seconds": spent.get("learn", 0.0),
        "step_seconds": whole,
        "tokens_per_second": total["tokens"] / whole,
    }


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
