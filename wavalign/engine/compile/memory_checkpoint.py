"""What a checkpoint that is written beside the steps takes: the copy of weights and optimiser states in host memory."""

from collections.abc import Iterator

from wavalign.engine.compile.memory_sizes import Case
from wavalign.engine.compile.plan import MemoryRow, StagePlan


def checkpoint_copy(case: Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """The copy that the process with the largest one keeps from the first such checkpoint on.

    Masters and moments of what is trained, and what is frozen as it is held; under ZeRO 1 to 3 of the process's part.
    """
    trained, frozen = case.weights.trainable, case.weights.frozen
    if stage.has_critic:
        trained, frozen = (
            trained + case.weights.critic_trained,
            frozen + case.weights.held - case.weights.critic_trained,
        )
    trained += len(stage.scalars) * (case.dimensions.hidden + 1)
    adapted = stage.stage.model.adapter is not None
    narrow = 2 if case.native or (adapted and case.half) else 4
    parts = case.ranks if case.zero == 3 else 1
    size = 12 * trained // case.ranks + narrow * frozen // parts
    note = "masters, moments and what is frozen, while a checkpoint is written"
    if case.on_cpu:
        yield MemoryRow(name="checkpoint copy", bytes=size, note=note)
    else:
        yield MemoryRow(name="checkpoint copy", bytes=0, note=f"{size / 2**30:.2f} GiB in host memory: {note}")
