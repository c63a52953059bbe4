"""How far a policy has moved from the weights that it started from: exact, at every position of its own answers.

    D[s, t] = sum over ids of p (log p - log q)      p of the policy, q of the start, at temperature 1, nothing cut

Letters: N positions, V vocabulary, H hidden, B sequences, S streams, T tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.models.scored_positions import find_positions
from wavalign.engine.run.states import evaluation_mode
from wavalign.engine.step.rollouts import Roller
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import SCORED_ROLES, RolloutGroup, TokenBatch, TokenSpace, collate, concatenate

ROWS, POSITIONS = 16, 256
"""Rows of one forward pass, and positions whose distributions are held at once."""


def with_divergences(
    policy: Policy, start: Policy, roller: Roller, groups: Sequence[RolloutGroup]
) -> list[RolloutGroup]:
    """The same groups, every answer with its divergence [S, Tc]."""
    space = roller.architecture.tokens
    rows = [(group.prompt, each.completion) for group in groups for each in group.rollouts]
    found = list[Tensor]()
    scored = torch.tensor(SCORED_ROLES, dtype=torch.int8)
    modes = evaluation_mode(policy), evaluation_mode(start)
    with guarded_block(roller.architecture, "held-out answers under two networks"), torch.no_grad(), modes[0], modes[1]:
        for at in range(0, len(rows), ROWS):
            part = rows[at : at + ROWS]
            batch = collate([concatenate(prompt, completion, space) for prompt, completion in part], space)
            select = torch.isin(batch.roles, scored)
            for row, (prompt, _) in enumerate(part):
                select[row, :, : prompt.length] = False
            whole = _divergences(policy, start, batch, select, space=space)
            for row, (prompt, completion) in enumerate(part):
                found.append(whole[row, :, prompt.length : prompt.length + completion.length].clone())
    left = iter(found)
    return [
        replace(group, rollouts=tuple(replace(each, divergence=next(left)) for each in group.rollouts))
        for group in groups
    ]


def _divergences(policy: Policy, start: Policy, batch: TokenBatch, select: Tensor, *, space: TokenSpace) -> Tensor:
    """[B, S, T] float32 on the CPU, NaN outside `select` (bool [B, S, T])."""
    device = next(policy.parameters()).device
    batch, select = batch.to(device), select.to(device)
    positions = find_positions(batch, select, space.heads, temperature=1.0, support=None)
    networks = [(each, each.hidden(batch, positions.heads)) for each in (policy, start)] if positions.heads else []
    values = list[Tensor]()
    for head in sorted(positions.heads):
        for rows, _ in positions.parts(head):
            places = positions.place[0][rows], positions.origin[rows]
            states = [(network.head_weight(head), hidden[head][places]) for network, hidden in networks]
            values += [
                _divergence(*(_log_softmax(weight, each[at : at + POSITIONS]) for weight, each in states))
                for at in range(0, len(places[0]), POSITIONS)
            ]
    whole = torch.full(select.shape, torch.nan, device=device)
    return (whole.index_put(positions.place, torch.cat(values)) if values else whole).cpu()


def _log_softmax(weight: Tensor, states: Tensor) -> Tensor:
    """Log-probs [N, V] of `states` [N, H] under a head's `weight` [V, H], float32."""
    with torch.autocast(weight.device.type, enabled=False):
        return torch.log_softmax((states.to(weight.dtype) @ weight.t()).float(), dim=-1)


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """KL [N] of two log-probs [N, V]; rounding takes it no lower than 0."""
    return (ours.exp() * (ours - theirs)).sum(dim=-1).clamp(min=0)
