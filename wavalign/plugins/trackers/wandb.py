"""Metrics for Weights & Biases: every value as `<split>/<name>` over the run's steps, the resolved recipe as config.

Where no key is found it logs offline, under `<run folder>/wandb/`; `wandb sync` sends it later. A resumed run goes on
under its id.
Source: https://docs.wandb.ai/ref/python/init.
"""

import os
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal, final
from urllib.parse import urlsplit

from pydantic import Field

from wavalign.plugins.api import Tracker
from wavalign.plugins.tracking import TrackedRun, named, package
from wavalign.schema.base import Params

HOME = "https://api.wandb.ai"


@final
class WandbParams(Params):
    """Options of the tracker `wandb`. The key comes from WANDB_API_KEY or `wandb login`, never from a recipe."""

    project: str = "wavalign"
    """Project the run belongs to."""
    entity: str | None = None
    """User or team; None takes the account's own."""
    name: str | None = None
    """Name of the run; None takes recipe and folder."""
    group: str | None = None
    """Runs of one group stand together, e.g. the seeds of one recipe."""
    tags: tuple[str, ...] = Field(default=(), max_length=100)
    """Words to find the run by."""
    mode: Literal["auto", "online", "offline"] = "auto"
    """`auto` is what WANDB_MODE says; without it online where a key is found, else offline."""


@final
class Wandb(Tracker):
    """Opens the run with its first value."""

    Params = WandbParams
    params: WandbParams

    def __init__(self, params: WandbParams, *, folder: str) -> None:
        """Raise PluginError when wandb is not installed."""
        super().__init__(params, folder=folder)
        self._wandb = package("wandb", tracker="wandb")
        self._tracked = TrackedRun(folder, "wandb")
        self._run: Any = None

    def resume(self, last: Mapping[str, int]) -> None:
        """Leave out steps that are there."""
        self._tracked.resume()

    def log(self, values: Mapping[str, float], *, step: int, split: str) -> None:
        """Send `values` at `step`."""
        if self._tracked.is_there(split, step):
            return
        if self._run is None:
            self._run = self._open()
        self._run.log(named(values, split), step=step)
        self._tracked.logged(split, step)

    def close(self) -> None:
        """Send what waits and close the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _open(self) -> Any:
        params, tracked = self.params, self._tracked
        tracked.keep()  # before the service knows it
        return self._wandb.init(
            project=params.project,
            entity=params.entity,
            name=params.name or tracked.name,
            group=params.group,
            tags=params.tags,
            id=tracked.run_id,
            resume="allow",
            dir=self.folder,
            mode=self._mode(),
            config=tracked.recipe(),
            settings=self._wandb.Settings(silent=True, console="off"),  # the terminal is the display's
        )

    def _mode(self) -> str | None:
        if self.params.mode != "auto":
            return self.params.mode
        if os.environ.get("WANDB_MODE"):
            return None  # wandb reads it itself
        return "online" if os.environ.get("WANDB_API_KEY") or _has_login() else "offline"


def _has_login() -> bool:
    """Whether `wandb login` has left a key: it writes them where other programs keep their passwords."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", HOME)).hostname or ""
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return path.exists() and netrc(path).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False
