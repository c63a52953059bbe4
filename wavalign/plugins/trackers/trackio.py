"""Metrics for Trackio: every value as `<split>/<name>` over the run's steps, the resolved recipe as config.

Kept on this machine; `trackio show` opens it. With `space` it goes to a Hugging Face Space as well. A resumed run goes
on under its name.
Source: https://huggingface.co/docs/trackio.
"""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any, final

from wavalign.plugins.api import Tracker
from wavalign.plugins.tracking import TrackedRun, named, package
from wavalign.schema.base import Params


@final
class TrackioParams(Params):
    """Options of the tracker `trackio`. The token comes from `hf auth login`, never from a recipe."""

    project: str = "wavalign"
    """Project the run belongs to."""
    name: str | None = None
    """Name of the run, its own in the project; None takes recipe and folder."""
    space: str | None = None
    """Hugging Face Space the values go to, `user/name`; None keeps them on this machine."""


@final
class Trackio(Tracker):
    """Opens the run with its first value."""

    Params = TrackioParams
    params: TrackioParams

    def __init__(self, params: TrackioParams, *, folder: str) -> None:
        """Raise PluginError when trackio is not installed."""
        super().__init__(params, folder=folder)
        self._trackio = package("trackio", tracker="trackio")
        self._tracked = TrackedRun(folder, "trackio")
        if not self._tracked.is_kept:
            self._tracked.keep(params.name or self._tracked.name)
        self._run: Any = None

    def resume(self, last: Mapping[str, int]) -> None:
        """Leave out steps that are there."""
        self._tracked.resume()

    def log(self, values: Mapping[str, float], *, step: int, split: str) -> None:
        """Take `values` at `step`."""
        if self._tracked.is_there(split, step):
            return
        if self._run is None:
            self._run = self._open()
        self._run.log(named(values, split), step=step)
        self._tracked.logged(split, step)

    def close(self) -> None:
        """Write what waits and close the run."""
        if self._run is not None:
            with redirect_stdout(sys.stderr):
                self._run.finish()
            self._run = None

    def _open(self) -> Any:
        with redirect_stdout(sys.stderr):  # it talks, and standard output is for the command's result
            return self._trackio.init(
                project=self.params.project,
                name=self._tracked.run_id,
                space_id=self.params.space,
                config=self._tracked.recipe(),
                resume="allow",
                embed=False,
            )
