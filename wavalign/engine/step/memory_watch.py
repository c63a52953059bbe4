"""Which micro-batch a step is in, for who must say that it did not fit."""

from typing import final

import torch

from wavalign.engine.state.peaks import highest
from wavalign.engine.step.batches import MicroBatch
from wavalign.errors import OutOfMemoryError


@final
class MemoryWatch:
    """The micro-batch between its forward pass and the next one's, on one rank."""

    def __init__(self) -> None:
        self._present: MicroBatch | None = None

    def begins(self, batch: MicroBatch) -> None:
        """A micro-batch goes forward."""
        self._present = batch

    def ends(self) -> None:
        """The last one of an update has gone backward."""
        self._present = None

    @property
    def is_inside(self) -> bool:
        """Whether a micro-batch is under way."""
        return self._present is not None

    def exhausted(self, step: int, *, stage: str, device: torch.device, where: str) -> OutOfMemoryError:
        """The error of the present micro-batch, at step `step` (from 0) of `stage`; `where` names a plugin's code."""
        batch = self._present
        assert batch is not None
        rows, peak = len(batch.rows), highest(device)
        return OutOfMemoryError(
            f"out of memory in a micro-batch of {rows} rows, {batch.forward_tokens} tokens, at step {step + 1} "
            f"of stage '{stage}'; the most that this process held was {peak / 2**20:,.0f} MiB"
            + (f"; it ran out in {where}" if where else ""),
            hint="lower batch.micro_batch or batch.micro_batch_tokens, or set runtime.gradient_checkpointing",
            stage=stage,
            rows=rows,
            peak_bytes=peak,
        )
