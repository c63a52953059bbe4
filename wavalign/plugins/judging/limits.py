"""Requests and tokens a minute of a whole run: each process keeps to its share, in every window of a minute."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import final

from wavalign.errors import PreflightError

WINDOW = 60.0
POLL = 0.5
"""Longest sleep of one that waits for a turn, so that it sees what others have left free."""


def share(limit: int | None, rank: int, processes: int, what: str) -> int | None:
    """Of a run's `limit` that of one process, so that all add up to it. Raises PreflightError where it would be 0."""
    if limit is None:
        return None
    mine = limit // processes + (rank < limit % processes)
    if mine < 1:
        hint = f"raise it to {processes} or more, or use fewer processes"
        raise PreflightError(f"{what} of {limit} cannot be shared by {processes} processes", hint=hint)
    return mine


@final
class Pace:
    """At most so many requests and tokens in any minute; threads wait for their turn."""

    def __init__(
        self, requests: int | None, tokens: int | None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests, self._tokens, self._clock = requests, tokens, clock
        self._sent: deque[tuple[float, list[int]]] = deque()
        """When, and how many tokens: those reserved until they are known."""
        self._not_before = 0.0
        self._changed = threading.Condition()

    def turn(self, tokens: int, until: float) -> list[int] | None:
        """Wait for a turn to send `tokens` at most, not longer than `until`; None where there is none in time.

        What is given holds the tokens that count: put in those that were used once they are known.
        """
        with self._changed:
            while (wait := self._wait(tokens)) > 0:
                left = until - self._clock()
                if left <= 0 or wait > left:
                    return None
                self._changed.wait(min(wait, left, POLL))
            entry = [tokens]
            self._sent.append((self._clock(), entry))
            return entry

    def fits(self, tokens: int) -> bool:
        """Whether there can be a turn for so many tokens at all."""
        return self._tokens is None or tokens <= self._tokens

    def pause(self, seconds: float) -> None:
        """Let nobody send before `seconds` have gone by: the server asked for it."""
        with self._changed:
            self._not_before = max(self._not_before, self._clock() + seconds)

    def settle(self, entry: list[int], tokens: int) -> None:
        """So many tokens were used."""
        with self._changed:
            entry[0] = tokens
            self._changed.notify_all()

    def _wait(self, tokens: int) -> float:
        """Seconds until a turn; 0 for now. Never less than what it takes, but for tokens given back meanwhile."""
        now = self._clock()
        while self._sent and self._sent[0][0] <= now - WINDOW:
            self._sent.popleft()
        waits = [self._not_before - now]
        if self._requests is not None and len(self._sent) >= self._requests:
            waits.append(self._sent[len(self._sent) - self._requests][0] + WINDOW - now)
        if self._tokens is not None:
            over = sum(entry[0] for _, entry in self._sent) + tokens - self._tokens
            for sent, entry in self._sent:
                if over <= 0:
                    break
                over -= entry[0]
                waits.append(sent + WINDOW - now)
        return max(waits)
