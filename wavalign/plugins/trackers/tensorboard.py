"""Metrics for TensorBoard: event files under `<run folder>/tensorboard/<split>/`.

Each split is a run of its own to TensorBoard, so that equal names (`reward`, `loss/sft`) lie over one another.
Source: torch.utils.tensorboard.SummaryWriter.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, final

from pydantic import Field

from wavalign.errors import PluginError
from wavalign.plugins.api import Tracker
from wavalign.schema.base import Params

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@final
class TensorBoardParams(Params):
    """Options of the tracker `tensorboard`."""

    flush_seconds: int = Field(default=10, ge=1, le=86_400)
    """Longest time a value waits before it is on disk."""


@final
class TensorBoard(Tracker):
    """Writes every value as a scalar; one writer per split, opened when its first value comes."""

    Params = TensorBoardParams
    params: TensorBoardParams

    def __init__(self, params: TensorBoardParams, *, folder: str) -> None:
        """Raise PluginError when tensorboard is not installed."""
        super().__init__(params, folder=folder)
        try:
            importlib.import_module("tensorboard")
        except ImportError as error:
            raise PluginError(
                "the tracker 'tensorboard' needs the package tensorboard",
                hint="pip install 'wavalign[tensorboard]', or set runtime.trackers to []",
            ) from error
        self._writers: dict[str, SummaryWriter] = {}
        self._last: Mapping[str, int] | None = None

    def resume(self, last: Mapping[str, int]) -> None:
        """Let TensorBoard hide what comes again."""
        self._last = last

    def log(self, values: Mapping[str, float], *, step: int, split: str) -> None:
        """Add `values` at `step`; raises OSError when the files cannot be written."""
        writer = self._writer(split)
        for name, value in values.items():
            writer.add_scalar(name, value, global_step=step)

    def close(self) -> None:
        """Write what waits and close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, split: str) -> "SummaryWriter":
        if split not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # optional: comes with the extra `tensorboard`

            where = Path(self.folder) / "tensorboard" / split
            purge = None if self._last is None else self._last.get(split, -1) + 1
            self._writers[split] = SummaryWriter(str(where), purge_step=purge, flush_secs=self.params.flush_seconds)
        return self._writers[split]
