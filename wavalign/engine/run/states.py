"""Answers and targets as points: the last hidden states of a policy, mean over the positions of sound."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.step.rollouts import Roller
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import Role, RolloutGroup, TokenSequence, collate, concatenate

ROWS = 16
"""Rows of one forward pass."""


def with_states(policy: Policy, roller: Roller, groups: Sequence[RolloutGroup]) -> list[RolloutGroup]:
    """The same groups with the state of every answer, and of the target behind the same prompt.

    A state is that of the first head of the first stream; None where a row has no position of sound.
    """
    space = roller.architecture.tokens
    rows: dict[tuple[object, ...], TokenSequence] = {}

    def placed(group: RolloutGroup, completion: TokenSequence) -> tuple[object, ...]:
        # Equal rows are looked at once: what is the same is to have the same state, to the last bit.
        key = (group.dialogue.id, group.prompt.ids.numpy().tobytes(), completion.ids.numpy().tobytes())
        rows.setdefault(key, concatenate(group.prompt, completion, space))
        return key

    answers = [[placed(group, each.completion) for each in group.rollouts] for group in groups]
    targets = [
        None if group.dialogue.target is None else placed(group, roller.encoder.target(group.dialogue))
        for group in groups
    ]
    with guarded_block(roller.architecture, "hidden states of held-out answers"):
        states = dict(zip(rows, mean_states(policy, list(rows.values()), roller), strict=True))
    return [
        replace(
            group,
            rollouts=tuple(replace(one, state=states[key]) for one, key in zip(group.rollouts, mine, strict=True)),
            target_state=None if target is None else states[target],
        )
        for group, mine, target in zip(groups, answers, targets, strict=True)
    ]


def mean_states(policy: Policy, rows: Sequence[TokenSequence], roller: Roller) -> list[Tensor | None]:
    """Of each row [S, T] the mean state [H], float32 on the CPU; None where no stream has sound."""
    space, found = roller.architecture.tokens, list[Tensor | None]()
    head, device = space.main_heads[0], next(policy.parameters()).device
    with evaluation_mode(policy), torch.no_grad():
        for start in range(0, len(rows), ROWS):
            batch = collate(rows[start : start + ROWS], space)
            sound = (batch.roles == int(Role.AUDIO)).any(dim=1)
            hidden = policy.hidden(batch.to(device), frozenset({head}))[head].float().cpu()
            for states, places in zip(hidden, sound, strict=True):
                found.append(states[places].mean(dim=0) if bool(places.any()) else None)
    return found


@contextmanager
def evaluation_mode(policy: nn.Module) -> Iterator[None]:
    """Inside, `policy` is in eval mode; every module of it is left in the mode it was in."""
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
