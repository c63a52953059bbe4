"""Answers and dialogues as rows to learn from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wavalign.engine.feeding.feeds import Encoder
from wavalign.engine.step.batches import Row
from wavalign.plugins.batch import Dialogue, Rollout, RolloutGroup, TokenSpace, concatenate


def answer_rows(
    groups: Sequence[RolloutGroup], space: TokenSpace, *, family: str, temperatures: Sequence[float]
) -> list[Row]:
    """Every answer behind its prompt; `temperatures` [S] are those that the streams were sampled at."""
    return [
        Row(
            concatenate(group.prompt, rollout.completion, space),
            family,
            p,
            g,
            tuple(temperatures),
            _support(rollout, group.prompt.length),
        )
        for p, group in enumerate(groups)
        for g, rollout in enumerate(group.rollouts)
    ]


def data_rows(dialogues: Sequence[Dialogue], encoder: Encoder, space: TokenSpace, *, family: str) -> list[Row]:
    """Every target behind its prompt; a dialogue with several is a group of them, numbered as it says."""
    rows = []
    for index, dialogue in enumerate(dialogues):
        # Of a target: a layout may announce in the prompt whether the answer is spoken.
        prompt = encoder.prompt(dialogue.singles[0])
        scores = dialogue.scores or (None,) * len(dialogue.numbered)
        for (member, single), score in zip(dialogue.numbered, scores, strict=True):
            completion = encoder.target(single)
            rows.append(Row(concatenate(prompt, completion, space), family, index, member, score=score))
    return rows


def mismatched_rows(
    dialogues: Sequence[Dialogue], places: range, encoder: Encoder, space: TokenSpace, *, family: str
) -> list[Row]:
    """The rows that `data_rows` gives of the dialogues at `places`, each with the answer of the next dialogue's row.

    Of the next one comes the answer of the same member, or its first; behind the last dialogue the first one is next.
    """
    rows = []
    for index, place in enumerate(places):
        dialogue, others = dialogues[place], dict(dialogues[(place + 1) % len(dialogues)].numbered)
        prompt, first = encoder.prompt(dialogue.singles[0]), next(iter(others.values()))
        for member, _ in dialogue.numbered:
            completion = encoder.target(others.get(member, first))
            rows.append(Row(concatenate(prompt, completion, space), family, index, member))
    return rows


def _support(rollout: Rollout, before: int) -> Tensor | None:
    """Kept ids [S, T, K] of the answer behind `before` positions of its prompt."""
    if rollout.support is None:
        return None
    streams, _, width = rollout.support.shape
    blank = torch.full((streams, before, width), -1, dtype=torch.int32)
    return torch.cat([blank, rollout.support.cpu().int()], dim=1)
