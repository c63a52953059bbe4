"""Trackers: services and files that metrics are logged to."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from wavalign.plugins.api.base import Plugin


class Tracker(Plugin):
    """Logs metrics somewhere. Runtime: `folder: str`. A failing tracker is switched off, the run goes on."""

    kind = "tracker"

    def __init__(self, params: Any, *, folder: str) -> None:
        self.params, self.folder = params, folder

    def resume(self, last: Mapping[str, int]) -> None:
        """A run goes on from a checkpoint: `last` is by split the last step whose values stay.

        What was logged of later steps, and of splits that `last` does not name, comes again. Called once, before the
        first `log`, and only when a run is resumed.
        """
        return

    @abstractmethod
    def log(self, values: Mapping[str, float], *, step: int, split: str) -> None:
        """Take one step's values."""

    @abstractmethod
    def close(self) -> None:
        """Flush and close."""
