"""How far the policy has moved from the weights that the run started from, in nats a token.

    KL(policy || start) = sum over ids of p (log p - log q)      mean over all tokens that the answers chose

Exact at every position, over the whole vocabulary at temperature 1, on the contexts of the policy's own held-out
answers: with drawn answers the mean estimates the divergence of the two models, with greedy ones it is that along the
likeliest answer. The start is what `model` names (`checkpoint`, or the weights that `preset` draws), also in later
rounds and stages. On gold answers nothing is measured. Less is nearer to the start: neither better nor worse.
"""

import math
from collections.abc import Sequence
from typing import final

import torch

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import AUDIO_ROLES, MARK_ROLES, SCORED_ROLES, TEXT_ROLES, Role, RolloutGroup
from wavalign.plugins.metrics.intervals import bootstrap_ratio, first_rollouts
from wavalign.schema.base import Params

_SAYS = "Exact divergence of the policy from the weights it started from, nats a token of its own answers."
_KINDS = {"text": TEXT_ROLES, "audio": AUDIO_ROLES, "marks": MARK_ROLES}


@final
class KLToStartParams(Params):
    """No options."""


@final
class KLToStart(Metric):
    """Nats a token, with a bootstrap interval over answers, also by token kind."""

    Params = KLToStartParams
    needs = frozenset({"start"})

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        found = [_measured("kl_to_start", [_summed(group, SCORED_ROLES) for group in groups])]
        for kind, roles in _KINDS.items():
            sums = [_summed(group, roles) for group in groups]
            if any(each is not None for each in sums):
                found.append(_measured(f"kl_to_start/tokens={kind}", sums))
        return found


def _summed(group: RolloutGroup, roles: Sequence[Role]) -> tuple[float, int] | None:
    """Nats and tokens of the first answer at positions of `roles`; None where it has none."""
    (rollout,) = first_rollouts([group])
    if rollout is None or rollout.divergence is None:
        return None
    here = torch.isin(rollout.completion.roles, torch.tensor(roles, dtype=rollout.completion.roles.dtype))
    values = rollout.divergence[here & ~rollout.divergence.isnan()]
    return (float(values.sum(dtype=torch.float64)), len(values)) if len(values) else None


def _measured(name: str, sums: Sequence[tuple[float, int] | None]) -> Measurement:
    """All answers together; an item is its nats over the mean number of tokens, so that their mean is the value."""
    known = [pair for pair in sums if pair is not None]
    nats, tokens = ([float(pair[place]) for pair in known] for place in (0, 1))
    low, high = bootstrap_ratio(nats, tokens)
    typical = sum(tokens) / len(tokens) if tokens else math.nan
    value = sum(nats) / sum(tokens) if tokens else math.nan
    items = tuple(None if pair is None else pair[0] / typical for pair in sums)
    return Measurement(
        name, value, low, high, len(known), "nats a token", items=items, better="less", quality=False, says=_SAYS
    )
