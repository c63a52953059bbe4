"""Groups whose answers are all worth the same are replaced by answers to further prompts (DAPO, arXiv 2503.14476).

Such a group teaches nothing: every answer in it is as good as the others. What is missing is the same on every rank,
and so are the further prompts, the rounds and their draws; place n of the step gets the next prompt whose group varies,
whichever rank it lies on. A group that has no two rewards is replaced too. Where the limit is reached first, the groups
that were drawn first stay. Everything that looks at answers - advantages, gate, logs - sees the groups that are kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from wavalign.engine.compile.operators import ROLLOUTS
from wavalign.engine.compile.plan import Operator
from wavalign.engine.compile.resampled import DRAWN
from wavalign.engine.step.batches import AnswerColumn, CompletionColumn
from wavalign.engine.step.executor import Executor, LiveOperator, Run
from wavalign.engine.step.rewards import Scores
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.values import Made
from wavalign.engine.step.waiting import nobody
from wavalign.plugins.batch import RolloutGroup

AGAIN = frozenset({"rollout", "decode_audio", "reward", "aggregate"})
"""Functions of the operators that run once more for what is missing."""
ROUND = ("step", "round", "asked", "spent")
"""What a round of theirs begins with, beside its prompts: those of the first, the step alone."""
Values = Mapping[str, Any]


@final
@dataclass(frozen=True, slots=True)
class Resampled:
    """What a step drew beside the groups it keeps; equal on every rank."""

    rounds: int
    """Times that answers were sampled."""
    groups: int
    """Further groups that were sampled."""
    reward: float
    """Mean reward of all answers that were sampled and have one; NaN where none has."""


def resample(live: LiveStage, plan: Operator, again: Sequence[LiveOperator]) -> Run:
    """Draw further prompts for groups that do not vary; `again` answers and scores them."""
    executor = Executor(again, device=live.world.device, waiting=nobody)
    limit, feed, world = live.settings.resample_limit, live.feeds["prompts"], live.world

    def run(values: Values) -> Made:
        kept: dict[str, Any] = {name: values[name] for name in plan.needs}
        seen = _sum_and_count(kept[f"{DRAWN}scores"].total)
        groups, rounds = 0, 0
        while (places := _missing(live, kept[f"{DRAWN}scores"].total)) and rounds < limit:
            rounds += 1
            groups += len(places)
            share = live.share(live.settings.geometry.prompts)
            pairs = zip(places, feed.next(len(places)), strict=True)
            mine = [(place - share.start, each) for place, each in pairs if share.start <= place < share.stop]
            asked = {"round": rounds, "asked": len(places), "spent": kept[f"{DRAWN}scores"].spent}
            found = executor.run({"step": values["step"], "prompts": [each for _, each in mine], **asked})
            seen += _sum_and_count(found[f"{DRAWN}scores"].total)
            kept = _filled(kept, found, [place for place, _ in mine])
        total, count = world.all_reduce_sum(seen.to(world.device)).tolist()
        scores: Scores = kept[f"{DRAWN}scores"]
        made = {name.removeprefix(DRAWN): value for name, value in kept.items()}
        made["rewards"] = AnswerColumn(ROLLOUTS, scores.total, ~scores.total.isnan())
        made["resampled"] = Resampled(rounds + 1, groups, total / count if count else float("nan"))
        return made

    return run


def varies(total: Tensor) -> Tensor:
    """Bool [P]: groups of `total` [P, G] with two rewards that differ."""
    highest = total.nan_to_num(nan=-torch.inf).amax(dim=1) if total.numel() else total.new_zeros(0)
    lowest = total.nan_to_num(nan=torch.inf).amin(dim=1) if total.numel() else total.new_zeros(0)
    return highest > lowest


def _missing(live: LiveStage, total: Tensor) -> list[int]:
    """Numbers of the groups of all ranks that do not vary; `total` [P, G] of this rank."""
    found: list[int] = (~varies(live.world.all_gather_rows(total))).nonzero().flatten().tolist()
    return found


def _sum_and_count(total: Tensor) -> Tensor:
    """[2] float64 of `total` [P, G]."""
    present = total[~total.isnan()]
    return torch.stack([present.sum(), torch.tensor(float(len(present)), dtype=torch.float64)])


def _filled(kept: Mapping[str, Any], found: Values, places: Sequence[int]) -> dict[str, Any]:
    """`kept` with those of the `found` groups that vary, each at its place; how many calls failed is always taken."""
    new: Scores = found[f"{DRAWN}scores"]
    rows = varies(new.total).nonzero().flatten().tolist()
    at = [places[row] for row in rows]
    filled: dict[str, Any] = {}
    for name, value in kept.items():
        other = found[name]
        if isinstance(value, Scores):
            filled[name] = _scores(value, other, at, rows)
        elif isinstance(value, CompletionColumn):
            filled[name] = replace(value, completions=_placed(value.completions, other.completions, at, rows))
        else:
            groups: Sequence[RolloutGroup] = value
            filled[name] = _placed(groups, other, at, rows)
    return filled


def _placed(kept: Sequence[Any], found: Sequence[Any], at: Sequence[int], rows: Sequence[int]) -> list[Any]:
    filled = list(kept)
    for place, row in zip(at, rows, strict=True):
        filled[place] = found[row]
    return filled


def _scores(kept: Scores, found: Scores, at: list[int], rows: list[int]) -> Scores:
    """`kept` with the `rows` of `found` `at` their places."""

    def table(one: Tensor, other: Tensor) -> Tensor:
        """[P, G]."""
        filled = one.clone()
        filled[at] = other[rows]
        return filled

    def tables(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """[P, G] each."""
        return {name: table(each, other[name]) for name, each in one.items()}

    return Scores(
        total=table(kept.total, found.total),
        parts=tables(kept.parts, found.parts),
        words={name: tuple(_placed(each, found.words[name], at, rows)) for name, each in kept.words.items()},
        failed={name: count + found.failed[name] for name, count in kept.failed.items()},
        absent=tables(kept.absent, found.absent),
        judged=tables(kept.judged or kept.parts, found.judged or found.parts),
        spent=found.spent,
        errors=tables(kept.errors, found.errors),
        guards=tables(kept.guards, found.guards),
        tripped=tables(kept.tripped, found.tripped),
    )
