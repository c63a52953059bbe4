"""Old log-probs and importance weights off the pass that learns, where each row goes through the network once a step.

With one update a step the weights that learn are those under which old log-probs would be computed anew: no pass of
their own is needed, and the ratio to them is 1. Letters: B rows, S streams, E further heads, T tokens.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from wavalign.engine.compile.plan import Operator
from wavalign.engine.step.batches import MicroBatch
from wavalign.engine.step.executor import Run
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.tallies import Ratios, ratios_of
from wavalign.engine.step.values import Made

OLD = "old_logprobs"


def weighed(live: LiveStage, _: Operator) -> Run:
    """A micro-batch with the learner's log-probs in the place of the sampler's, and tokens weighed by their ratio."""
    cap, streams = live.settings.importance_cap, len(live.architecture.tokens.streams)

    def run(values: Mapping[str, Any]) -> Made:
        batch: MicroBatch = values["micro_batches"]
        now, theirs = values["logprobs"].detach(), batch.columns[OLD]
        known = live.selection.union(batch, only=OLD)
        by_sampler = known & batch.sampled.view(-1, 1, 1)
        by_sampler[:, streams:] = False  # further heads choose nothing
        gaps: Ratios = ratios_of(now, batch, by_sampler)
        importance = torch.where(by_sampler, now - theirs, 0.0).exp().clamp(max=cap)
        columns = {**batch.columns, OLD: torch.where(known, now, theirs), "importance": importance}
        found = live.selection.weighed(replace(batch, columns=columns), by="importance", where=OLD)
        return {"weighed": found, "mismatch": gaps}

    return run
