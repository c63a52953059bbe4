"""Which answers each update of a step learns from: drawn as our side draws it, for the others to follow."""

from pathlib import Path

import torch

from benchmarks.grpo.point import Point
from benchmarks.grpo.replay import ReplayParams, ReplayPrompts
from wavalign.engine.feeding.feeds import Feed, feed_seed
from wavalign.engine.step.batches import Row
from wavalign.engine.step.updates import cut_updates
from wavalign.plugins.batch import TokenSequence

SEED, STAGE = 0, "train"
"""Of a recipe that names none."""


def parts(point: Point, world: Path) -> list[list[int]]:
    """By update of all steps, places of its answers in a step: prompts in the order of the file, then their answers."""
    source = ReplayPrompts(ReplayParams.model_validate({"file": str(world / "frozen.json")}), seed=SEED)
    source.prepare(lambda *_: None)
    feed = Feed([(source, 1.0)], seed=feed_seed(SEED, STAGE, "prompts"))
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    tokens = TokenSequence(nothing, nothing.to(torch.int8))
    found = []
    for step in range(point.total_steps):
        order = [int(dialogue.id) for dialogue in feed.next(point.prompts)]
        rows = [Row(tokens, "rollouts", p, g) for p in range(point.prompts) for g in range(point.group_size)]
        updates = cut_updates(
            rows, epochs=point.epochs, mini_batches=point.mini_batches, rank=0, seed=(SEED, STAGE, step)
        )
        found += [[order[row.group] * point.group_size + row.member for row in each.rows] for each in updates]
    return found
