"""The operators of a step that learns from rewards of single tokens: rewards, values and advantages of its steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wavalign.engine.compile.operators import ROLLOUTS
from wavalign.engine.compile.plan import Operator
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.step.batches import Column, MicroBatches, RowColumn
from wavalign.engine.step.executor import Run
from wavalign.engine.step.learning import dropout
from wavalign.engine.step.rewards import Scores, cut_off
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.token_level import (
    Place,
    column_of,
    earned,
    find_steps,
    of_all_ranks,
    padded,
    rewards_of_tokens,
)
from wavalign.engine.step.values import Made
from wavalign.plugins.api import Advantage, StepInputs
from wavalign.plugins.batch import RolloutGroup

Values = Mapping[str, Any]


def token_rewards(live: LiveStage, _: Operator) -> Run:
    """What every token of the answers is worth."""
    rewards = live.rewards.rewards
    return lambda values: {"token_rewards": rewards_of_tokens(values["scores"], rewards, values["rollouts"])}


def old_values(live: LiveStage, _: Operator) -> Run:
    """What the weights that sampled expect before every token; equal at all streams of a position."""

    def run(values: Values) -> Made:
        found: dict[tuple[str, int, int], Tensor] = {}
        for batch in values["scored_batches"]:
            nothing = torch.zeros_like(batch.tokens.roles, dtype=torch.bool)
            names = ("old_values", values["step"], batch.number)
            with guarded_block(live.architecture, "the forward pass"), dropout(live, *names):
                output = live.backend.evaluate(batch.tokens, nothing, temperature=1.0)
            expected = output.scalars["values"].cpu()
            for index, row in enumerate(batch.rows):
                found[row.key] = expected[index, : row.tokens.length].expand(len(row.tokens.ids), -1)
        return {"old_values": RowColumn(found)}

    return run


def token_advantage(live: LiveStage, plan: Operator, advantage: Advantage) -> Run:
    """Advantages and returns of the answers' steps, estimated over those of all ranks."""
    shape = (live.settings.geometry.prompts_per_process, live.settings.geometry.group_size)
    asked = [name for name in ("old_values", "old_logprobs", "ref_logprobs") if name in plan.needs]

    def run(values: Values) -> Made:
        groups: Sequence[RolloutGroup] = values["rollouts"]
        batches: MicroBatches = values["scored_batches"]
        steps = find_steps(live.selection, batches.made, ROLLOUTS)
        places = [steps[ROLLOUTS, p, g] for p, group in enumerate(groups) for g in range(len(group.rollouts))]
        columns: dict[str, Column] = {name: values[name] for name in asked}
        local = _inputs(live, places, values, columns)
        found = advantage.compute_steps(of_all_ranks(live.world, local))
        mine = slice(live.world.rank * len(places), (live.world.rank + 1) * len(places))
        valid = found.valid[mine]
        return {
            "advantages": column_of(places, found.advantages[mine], valid, shape),
            "returns": column_of(places, found.returns[mine], valid, shape),
            "advantage_metrics": found.metrics,
        }

    return run


def _inputs(live: LiveStage, places: Sequence[Place], values: Values, columns: Mapping[str, Column]) -> StepInputs:
    """What is known of this rank's steps."""
    groups: Sequence[RolloutGroup] = values["rollouts"]
    scores: Scores = values["scores"]
    rewards = [tokens for group in values["token_rewards"] for tokens in group]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    longest = max(1, *(len(place.steps) for place in places))
    present = ~scores.total.flatten().isnan() & torch.tensor([len(place.steps) > 0 for place in places])
    earnings = [earned(place, tokens) for place, tokens in zip(places, rewards, strict=True)]

    def table(rows: Sequence[Tensor] | None) -> Tensor | None:
        """[N, T] of rows [K]."""
        return None if rows is None else padded(rows, longest)

    expected = columns.get("old_values")
    ratio = None
    if "ref_logprobs" in columns:
        ratio = [place.summed(columns["old_logprobs"]) - place.summed(columns["ref_logprobs"]) for place in places]
    return StepInputs(
        rewards=padded(earnings, longest),
        mask=padded([torch.ones(len(place.steps), dtype=torch.bool) for place in places], longest),
        present=present,
        group=torch.arange(len(groups)).repeat_interleave(len(places) // len(groups)),
        cut=torch.tensor([cut_off(rollout.answer, live.rewards.rewards) for rollout in rollouts]),
        values=table(None if expected is None else [place.first(expected) for place in places]),
        log_ratio=table(ratio),
    )
