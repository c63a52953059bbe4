"""What a run remembers: every object with a state is registered once, and a checkpoint holds the states of all."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, final

from wavalign.errors import ResumeError


class Stateful(Protocol):
    """Something that remembers; equal on every rank."""

    def state_dict(self) -> Mapping[str, Any]:
        """What must be remembered for an exact resume, in JSON values; empty where that is nothing."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""


@final
class Remembered:
    """All that remembers in one stage, by name."""

    def __init__(self) -> None:
        self._known: dict[str, Stateful] = {}

    def add(self, name: str, each: Stateful) -> None:
        """Register under a name that no other has."""
        if name in self._known:
            raise ValueError(f"two things are registered as `{name}`")
        self._known[name] = each

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def state_dict(self) -> dict[str, Any]:
        """States by name, as a checkpoint will give them back; what has none is left out."""
        states = {name: each.state_dict() for name, each in self._known.items()}
        return {name: json.loads(json.dumps(state)) for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Restore all of them; ResumeError where a state is of something that is not here."""
        for name in states:
            if name not in self._known:
                raise ResumeError(
                    f"the checkpoint holds the state of `{name}`, which this stage does not have",
                    hint="resume with the recipe and the plugins that wrote the checkpoint",
                )
        for name, each in self._known.items():
            if name in states:
                each.load_state_dict(states[name])
