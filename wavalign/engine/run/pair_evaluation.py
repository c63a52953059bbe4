"""Held-out pairs: which answer of each the rewards prefer, by split."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from wavalign.engine.compile.operators import judged
from wavalign.engine.models.preferences import accuracy, preferences, right
from wavalign.engine.models.reward_network import FacetHead, RewardNetwork
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.evaluation import ALONE, Measurer, SplitResult
from wavalign.engine.run.shares import Ranks
from wavalign.engine.step.rows import data_rows
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.waiting import Waiting, nobody
from wavalign.errors import DataError
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import Dialogue, TokenSequence
from wavalign.plugins.pairs import PAIR

Judged = Mapping[str, Tensor]
"""By facet, rewards [N, 2] of the chosen and the rejected answer of N pairs."""
SAYS = {
    "accuracy": "Share of held-out pairs whose chosen answer has the higher reward.",
    "margin": "Reward of the chosen answer minus that of the rejected one.",
    "ece": "How far the share of pairs it is right about is from how sure it is (expected calibration error).",
}


def held_out(builder: Builder, live: LiveStage) -> Measurer:
    """What measures a stage that learns; the caller closes it."""
    return pair_evaluator(builder, live) if live.plan.kind.pairs else builder.evaluator(live.plan, live.roller)


def pair_evaluator(builder: Builder, live: LiveStage) -> "PairEvaluator":
    """What measures a reward model on the pairs of `data.evaluation`; every rank calls it."""
    stage, encoder = live.plan, live.roller.encoder
    # Every rank comes along: preparing a source is done together.
    feeds = {name: builder.feed(sources, 0) for name, sources in stage.stage.data.evaluation.items()}
    splits = {name: feed.all(stage.stage.evaluation.limit) for name, feed in feeds.items()}
    for name, dialogues in splits.items():
        for each in dialogues:
            check_pair(each, heading=f"evaluation.{name}")
        builder.lengths(stage, f"evaluation.{name}", encoder.architecture, encoder).refuse(dialogues)
    return PairEvaluator(live, splits)


def check_pair(dialogue: Dialogue, *, heading: str) -> None:
    """Raise DataError for a held-out record that is no pair."""
    if sorted(member for member, _ in dialogue.numbered) != list(PAIR) or not dialogue.targets:
        found = {0: "no answer", 1: "one answer"}.get(len(dialogue.answers), f"{len(dialogue.answers)} answers")
        raise DataError(
            f"{dialogue.label}: data.{heading} of a reward_model stage holds pairs, and this has {found}",
            hint="give it a chosen and a rejected answer; `evaluation: !replace {...}` leaves out what is shared",
        )


def facet_heads(live: LiveStage) -> list[FacetHead]:
    """What a stage's reward model judges: a facet for every scalar output that terms read, named by the first."""
    heads = {head.name: head for head in live.plan.scalars}
    found: dict[str, FacetHead] = {}
    for term in live.terms:
        for name in judged(term.plan):
            found.setdefault(name, FacetHead(term.plan.name, heads[name], term.mask))
    return list(found.values())


@final
class PairEvaluator:
    """Measures the rewards of a stage on its held-out pairs."""

    def __init__(self, live: LiveStage, splits: Mapping[str, Sequence[Dialogue]]) -> None:
        self.live, self.splits, self.facets = live, splits, facet_heads(live)
        self._rows: dict[str, list[TokenSequence]] = {}

    def run(
        self,
        policy: Policy,
        progress: Callable[[str, int, int], None],
        waiting: Waiting = nobody,
        *,
        ranks: Ranks = ALONE,
    ) -> Iterator[SplitResult]:
        """Measure one split after the other with the heads as they are; each of the `ranks` scores its share."""
        network = self.network(policy)
        for number, split in enumerate(self.splits):
            progress("measuring", number, len(self.splits))
            began = time.perf_counter()
            waiting(f"{split}: scoring pairs", 0, 0)
            mine = self.judge(network, split, ranks.rank, ranks.size)
            found = _together(mine, ranks, len(self.splits[split]))
            if found is not None:
                values = measured(found) | {"evaluation_seconds": time.perf_counter() - began}
                ids = [each.id for each in self.splits[split]]
                pairs = tuple(zip(ids, _outcomes(found), strict=True))
                yield SplitResult(split, values, (), (), _measures(values), pairs=pairs)
        progress("measuring", len(self.splits), len(self.splits))

    def network(self, policy: Policy) -> RewardNetwork:
        """The reward network of `policy`, whose parameters are whole, and of the heads beside it."""
        return RewardNetwork(policy, self.live.architecture.tokens, self.facets, self.live.backend.beside)

    def judge(self, network: RewardNetwork, split: str, rank: int = 0, size: int = 1) -> Judged:
        """Rewards of every `size`-th pair of a split, from number `rank` on."""
        if split not in self._rows:
            encoder, space = self.live.roller.encoder, self.live.architecture.tokens
            rows = data_rows(self.splits[split][rank::size], encoder, space, family=split)
            self._rows[split] = [row.tokens for row in sorted(rows, key=lambda row: (row.group, row.member))]
        found = network.rewards(self._rows[split], size=self.live.settings.geometry.micro_batch)
        return {name: each.reshape(len(each) // 2, 2) for name, each in found.items()}

    def close(self) -> None:
        """Nothing is held."""
        return


def measured(found: Judged) -> dict[str, float]:
    """Values of a split: of one facet by their plain names, of several behind the facet's, and of all together.

    All together is the mean of the facets' rewards, each over the spread of its own.
    """
    if len(found) == 1:
        (only,) = found.values()
        return preferences(_margins(only)) | _spread(only)
    values: dict[str, float] = {}
    for name, each in found.items():
        own = preferences(_margins(each)) | _spread(each)
        values |= {f"{name}/{key}": value for key, value in own.items()}
    return values | accuracy(_overall(found))


def _outcomes(found: Judged) -> list[dict[str, float]]:
    """Of every pair the values of `measured` that two reward models can be compared by."""
    margins = {f"{name}/" if len(found) > 1 else "": _margins(each) for name, each in found.items()}
    columns: dict[str, Tensor] = {}
    for name, each in margins.items():
        columns |= {f"{name}accuracy": right(each), f"{name}margin": each}
    if len(found) > 1:
        columns["accuracy"] = right(_overall(found))
    return [
        {name: float(column[i]) for name, column in columns.items()} for i in range(len(next(iter(found.values()))))
    ]


def _overall(found: Judged) -> Tensor:
    """Margins [N] of all facets, each over the spread of its own."""
    return torch.stack([_margins(each) / max(float(each.std()), 1e-12) for each in found.values()]).mean(dim=0)


def _margins(rewards: Tensor) -> Tensor:
    """Chosen minus rejected, [N], of rewards [N, 2]."""
    return rewards[:, 0] - rewards[:, 1]


def _spread(rewards: Tensor) -> dict[str, float]:
    """Mean and deviation of rewards [N, 2]."""
    return {"reward_mean": float(rewards.mean()), "reward_std": float(rewards.std())}


def _together(mine: Judged, ranks: Ranks, count: int) -> Judged | None:
    """The `count` pairs of all ranks, in the order of the split; on the first rank alone."""
    if ranks.size == 1:
        return mine
    parts = ranks.to_first(json.dumps({name: each.tolist() for name, each in mine.items()}).encode())
    if parts is None:
        return None
    read = [json.loads(bytes(part)) for part in parts]
    found = {name: torch.zeros(count, 2, dtype=own.dtype) for name, own in mine.items()}
    for rank, part in enumerate(read):
        for name, table in found.items():
            table[rank :: ranks.size] = torch.tensor(part[name], dtype=table.dtype).reshape(-1, 2)
    return found


def _measures(values: Mapping[str, float]) -> dict[str, dict[str, str]]:
    """What the values mean, for the report."""
    found = {}
    for key in values:
        said = SAYS.get(key.rpartition("/")[2], "")
        if said:
            found[key] = {"metric": "preference", "unit": "", "says": said if "/" not in key else ""}
            found[key] |= {"better": "less"} if key.endswith("ece") else {}
    return found
