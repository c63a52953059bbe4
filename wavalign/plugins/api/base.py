"""What every kind of plugin is."""

from abc import ABC
from typing import ClassVar

from wavalign.schema.base import Params


class Plugin(ABC):
    """Base of every kind."""

    kind: ClassVar[str]
    Params: ClassVar[type[Params]] = Params
