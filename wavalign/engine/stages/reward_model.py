"""A `reward_model` stage: learn from pairs which answer is preferred, by the steps of a `train` stage.

What it measures are held-out pairs, and what it leaves is a reward model: `stages/NAME/reward_model` with the network,
the heads beside it and the card that says how often they were right. No later stage starts from it.
"""

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.stages import train
from wavalign.engine.stages.cursor import Cursor


def run(stage: StagePlan, cursor: Cursor) -> None:
    """Train, measure, and leave a reward model for rewards that name it."""
    train.run(stage, cursor)
