"""An `evaluate` stage: the held-out splits, measured with the weights it starts from; it leaves none itself.

No backend, no optimiser, no objective: the network is whole on every rank, and each answers its share of every split.
A run that is killed in the middle measures again from the stage's beginning: what it had logged of it is cut off.
"""

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.stages.cursor import Cursor


def run(stage: StagePlan, cursor: Cursor) -> None:
    """Measure, and mark the stage complete."""
    cursor.observer.stage(stage.name, 0)
    cursor.measure(stage)
    cursor.complete(stage)
