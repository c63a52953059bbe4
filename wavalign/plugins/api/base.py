"""What every kind of plugin is."""

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

from wavalign.schema.base import Params


class Plugin(ABC):
    """Base of every kind."""

    kind: ClassVar[str]
    Params: ClassVar[type[Params]] = Params


class Remembers(Plugin):
    """Base of the kinds that may remember something from step to step: it is then in every checkpoint.

    What is remembered must be equal on every rank.
    """

    def state_dict(self) -> dict[str, Any]:
        """What must be remembered for an exact resume (JSON values); empty where that is nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # most remember nothing
        """Restore `state_dict()`; not called where that was empty."""
