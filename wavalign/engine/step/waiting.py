"""Who hears what a run is busy with, for those who work and know no observer."""

from collections.abc import Callable

Waiting = Callable[[str, int, int], None]
"""Told of something that takes a while: what, how much of it is done, and of how much (0 where that is unknown)."""


def nobody(what: str, done: int, total: int) -> None:
    """Nobody waits."""
