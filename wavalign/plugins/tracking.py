"""State of a tracker of a service: the run's id there, and the steps that are logged already.

Kept in `<run folder>/trackers/<type>.json`, so that a resumed run goes on under its id. Steps behind the checkpoint
come again on a resume; those the service has are left out, for a step cannot be taken back there.
"""

import importlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import yaml

from wavalign.errors import PluginError


@final
class TrackedRun:
    """One run at one service."""

    def __init__(self, folder: str, type_: str) -> None:
        """Read the state, or begin with a new id."""
        self.folder = Path(folder)
        self._path = self.folder / "trackers" / f"{type_}.json"
        kept: dict[str, Any] = {}
        self._is_kept = self._path.exists()
        if self._is_kept:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
        self._id = str(kept.get("id", secrets.token_hex(8)))
        self._logged: dict[str, int] = {str(split): int(step) for split, step in kept.get("logged", {}).items()}
        self._there: dict[str, int] = {}

    @property
    def is_kept(self) -> bool:
        """Whether an earlier part of the run was there already."""
        return self._is_kept

    @property
    def run_id(self) -> str:
        """Of the run at the service."""
        return self._id

    def keep(self, run_id: str | None = None) -> None:
        """Write down the id, or the one that the service gave; raises OSError."""
        self._id = run_id if run_id is not None else self._id
        self._keep()

    @property
    def name(self) -> str:
        """What people call the run: recipe and folder."""
        return f"{self.folder.parent.name}-{self.folder.name}" if self.folder.parent.name else self.folder.name

    def recipe(self) -> dict[str, Any]:
        """The resolved recipe, for the service's page of the run; empty where there is none."""
        path = self.folder / "recipe.resolved.yaml"
        found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found if isinstance(found, dict) else {}

    def resume(self) -> None:
        """From now on leave out what is there already."""
        self._there = dict(self._logged)

    def is_there(self, split: str, step: int) -> bool:
        """Whether the service has this step already."""
        return step <= self._there.get(split, -1)

    def logged(self, split: str, step: int) -> None:
        """Write down that the service has this step; raises OSError."""
        self._logged[split] = max(step, self._logged.get(split, step))
        self._keep()

    def _keep(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".json.new")
        beside.write_text(json.dumps({"id": self._id, "logged": self._logged}), encoding="utf-8")
        os.replace(beside, self._path)


def named(values: Mapping[str, float], split: str) -> dict[str, float]:
    """Values under `split/name`; those that are no finite number are left out, as services draw them as they like."""
    return {f"{split}/{name}": value for name, value in values.items() if math.isfinite(value)}


def package(name: str, *, tracker: str) -> Any:
    """The package a tracker needs; PluginError when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PluginError(
            f"the tracker '{tracker}' needs the package {name}: {error}",
            hint=f"pip install 'wavalign[{tracker}]', or take it out of runtime.trackers",
        ) from error
