"""The kinds of stages that a run can do, by the `type` of a recipe."""

from collections.abc import Callable, Mapping

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.stages import evaluate, fit_codec, generate, pairs, reward_model, train
from wavalign.engine.stages.cursor import Cursor

RUN: Mapping[str, Callable[[StagePlan, Cursor], None]] = {
    "train": train.run,
    "fit_codec": fit_codec.run,
    "generate": generate.run,
    "pairs": pairs.run,
    "reward_model": reward_model.run,
    "evaluate": evaluate.run,
}
"""Does one stage of a run, and marks it complete; what a kind reads and leaves is said by `schema.stage_kinds`."""
