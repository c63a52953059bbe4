"""What a thread beside each rank's main one tells those of the other ranks, through the store the ranks met by.

The process group is the main threads' alone: two threads in it would mix up whose turn it is.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, final

from wavalign.engine.state.watch import OwnStore
from wavalign.errors import RankLostError

POLL = 0.05
"""Seconds between two looks into the store."""


class Meeting(Protocol):
    """Ranks that come together: a `World`, or the threads beside it."""

    @property
    def rank(self) -> int:
        """This one, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    @property
    def is_first(self) -> bool:
        """Whether this one acts for all."""

    def gather(self, value: Any) -> list[Any]:
        """The JSON `value` of every rank, in order."""

    def barrier(self) -> None:
        """Go on when every rank has come here."""


@final
class SideChannel:
    """The threads beside the ranks; each calls every method alike, in the same order."""

    def __init__(self, store: OwnStore, *, rank: int, size: int, patience: float) -> None:
        """`patience` is in seconds; a store of its own, for a connection serves one thread."""
        self._store, self.rank, self.size, self._patience = store, rank, size, patience
        self._number = 0
        self._given_up = threading.Event()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The JSON `value` of every rank, in order; RankLostError where one has failed, or does not come."""
        self._tell({"value": value})
        return [self._heard(rank)["value"] for rank in range(self.size)]

    def barrier(self) -> None:
        """Go on when every rank has come here."""
        self.gather(None)

    def fail(self) -> None:
        """Come to no further meeting: the others are not to wait."""
        self._tell({"failed": True})

    def give_up(self) -> None:
        """Let this rank's wait end: the others do not come any more. May be called from another thread."""
        self._given_up.set()

    def _tell(self, said: dict[str, Any]) -> None:
        self._number += 1
        with _store_lost():
            self._store.set(self._key(self._number, self.rank), json.dumps(said))
            if self._number > 2:  # whoever comes to a meeting has read that before the one before it
                self._store.delete_key(self._key(self._number - 2, self.rank))

    def _heard(self, rank: int) -> dict[str, Any]:
        key, end = self._key(self._number, rank), time.monotonic() + self._patience
        with _store_lost():
            while not self._store.check([key]):
                if self._given_up.wait(POLL) or time.monotonic() > end:
                    raise _lost(rank, "did not write its part of a checkpoint")
            said: dict[str, Any] = json.loads(self._store.get(key))
        if "failed" in said:
            raise _lost(rank, "could not write its part of a checkpoint")
        return said

    def _key(self, number: int, rank: int) -> str:
        return f"beside/{number}/{rank}"


@contextmanager
def _store_lost() -> Iterator[None]:
    """The library's errors inside are that the process that holds the store is gone."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(0, "was lost while a checkpoint was written") from error


def _lost(rank: int, what: str) -> RankLostError:
    return RankLostError(f"process {rank} {what}", hint="the log of that process says why")
