"""Rewards of single tokens, the steps at which they are earned, and what an advantage makes of those.

Letters: P prompts, G group, N answers of this rank or of all, S streams, E further heads, T tokens of a row, Tc of a
completion, K steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from wavalign.engine.contracts.token_rewards import is_scored
from wavalign.engine.state.distributed import World
from wavalign.engine.step.batches import Column, MicroBatch, Row
from wavalign.engine.step.reward_pool import LiveReward
from wavalign.engine.step.rewards import Scores, combine, counted, slope
from wavalign.engine.step.selection import Selection
from wavalign.plugins.api import StepInputs
from wavalign.plugins.batch import Rollout, RolloutGroup

Key = tuple[str, int, int]
"""`Row.key`."""


@final
@dataclass(frozen=True, slots=True)
class StepColumn(Column):
    """A number for every token of answers whose steps have one."""

    tokens: Mapping[Key, Tensor]
    """By `Row.key`, [S, T]."""
    table: Tensor
    """[P, G]: the mean over the steps of each answer, for logs."""

    @override
    def of(self, row: Row) -> Tensor | None:
        return self.tokens.get(row.key)


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer's row has steps."""

    row: Row
    chosen: Tensor
    """Bool [S, T]: tokens that some term weighs which learns from advantages."""
    steps: Tensor
    """[K] int64: positions with such a token."""

    def summed(self, column: Column) -> Tensor:
        """A column of log-probs summed over the tokens of each step, [K] float64."""
        return torch.where(self.chosen, self._part(column), 0.0).sum(dim=0)[self.steps]

    def first(self, column: Column) -> Tensor:
        """A column that is equal at all streams, at the steps, [K] float64."""
        return self._part(column)[0, self.steps]

    def _part(self, column: Column) -> Tensor:
        """The row's part of a column, [S, T]."""
        found = column.of(self.row)
        if found is None:
            raise RuntimeError(f"a column has nothing of row {self.row.key}, which was scored")
        return found[: len(self.chosen)].double()

    def spread(self, values: Tensor) -> Tensor:
        """Values [K] of the steps at every stream of their positions, [S, T] float32."""
        row = torch.zeros(self.chosen.shape[1])
        row[self.steps] = values.float()
        return row.expand(len(self.chosen), -1)


def rewards_of_tokens(
    scores: Scores, rewards: Sequence[LiveReward], groups: Sequence[RolloutGroup]
) -> list[list[Tensor]]:
    """What every token is worth: [P][G] of [S, Tc] float64, 0 of an answer without a reward.

    The rewards' words of single tokens by their weights; a reward that says nothing of tokens pays on the last token
    that the model chose. So does whatever the recipe has made of the total beside (guards, `rollout.truncated`).
    """
    rewards = counted(rewards)
    said = combine(rewards, scores.parts, scores.absent)

    def worth(p: int, g: int, rollout: Rollout) -> Tensor:
        """Of one answer, [S, Tc]."""
        return _of_answer(scores, rewards, (p, g), rollout.completion.roles, said)

    return [[worth(p, g, rollout) for g, rollout in enumerate(group.rollouts)] for p, group in enumerate(groups)]


def _of_answer(
    scores: Scores, rewards: Sequence[LiveReward], place: tuple[int, int], roles: Tensor, said: Tensor
) -> Tensor:
    """Rewards [S, Tc] of the answer at `place` with `roles` [S, Tc]; `said` [P, G] is the rewards' own total."""
    found, total = torch.zeros(roles.shape, dtype=torch.float64), scores.total[place]
    if bool(total.isnan()):
        return found
    there = [live for live in rewards if not bool(scores.parts[live.name][place].isnan())]
    weights, at_end = sum(live.section.weight for live in there), float(total) - float(said[place].nan_to_num())
    for live in there:
        share, word = live.section.weight / weights, scores.words[live.name][place[0]][place[1]]
        if word.tokens is None:
            at_end += share * float(scores.parts[live.name][place])
        else:
            found += share * slope(live) * word.tokens
    scored = is_scored(roles).nonzero()
    if len(scored):
        last = scored[scored[:, 1].argmax()]
        found[int(last[0]), int(last[1])] += at_end
    return found


def find_steps(selection: Selection, batches: Sequence[MicroBatch], family: str) -> dict[Key, Place]:
    """Where the rows of `family` have steps, by `Row.key`."""
    found: dict[Key, Place] = {}
    for batch in batches:
        select = selection.union(batch, only="advantages")
        for index, row in enumerate(batch.rows):
            if row.family == family:
                chosen = select[index, : row.tokens.ids.shape[0], : row.tokens.length].cpu()
                found[row.key] = Place(row, chosen, chosen.any(dim=0).nonzero()[:, 0])
    return found


def earned(place: Place, tokens: Tensor) -> Tensor:
    """Rewards of tokens [S, Tc] at the steps they follow from, [K]: each counts for the last step at or before it.

    What comes before the first step follows from none of them and is left out.
    """
    found, values = torch.zeros(len(place.steps) + 1, dtype=torch.float64), tokens.sum(dim=0)
    where = torch.arange(len(values)) + place.chosen.shape[1] - len(values)
    return found.index_add(0, torch.searchsorted(place.steps, where, right=True), values)[1:]


def padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """Rows [K] of several lengths as [N, length], 0 behind their ends."""
    return torch.stack([pad(row, (0, length - len(row))) for row in rows])


def of_all_ranks(world: World, local: StepInputs) -> StepInputs:
    """The inputs of every rank, the ranks in order, padded to the longest answer of all; `group` [N] counts on."""
    if world.size == 1:
        return local
    short = int(world.all_gather_rows(torch.tensor([local.mask.shape[1]])).max()) - local.mask.shape[1]

    def all_of(table: Tensor) -> Tensor:
        """[N, T] or [N] of every rank."""
        wide = pad(table.double(), (0, short)) if table.dim() == 2 else table.double()
        return world.all_gather_rows(wide).to(table.dtype)

    answers = len(local.group)
    ranks = torch.arange(world.size).repeat_interleave(answers)
    return StepInputs(
        rewards=all_of(local.rewards),
        mask=all_of(local.mask),
        present=all_of(local.present),
        group=all_of(local.group) + ranks * (int(local.group.max()) + 1),
        cut=all_of(local.cut),
        values=None if local.values is None else all_of(local.values),
        log_ratio=None if local.log_ratio is None else all_of(local.log_ratio),
    )


def column_of(places: Sequence[Place], values: Tensor, valid: Tensor, shape: tuple[int, int]) -> StepColumn:
    """Values [N, T] of this rank's steps as a column; answers that are not `valid` [N] have none. `shape` is (P, G)."""
    tokens, means = {}, []
    for place, row, there in zip(places, values, valid.tolist(), strict=True):
        own = row[: len(place.steps)]
        if there:
            tokens[place.row.key] = place.spread(own)
        means.append(own.mean() if there and len(own) else own.new_zeros(()))
    return StepColumn(tokens, torch.stack(means).view(shape))
