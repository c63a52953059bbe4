"""Ctrl-C, SIGTERM, SIGUSR1 and a hang-up: a step ends and leaves its checkpoint first; elsewhere the run stops at once.

Who sends SIGTERM often kills half a minute later. A step that is longer than that is given up in time to write the
checkpoint of the one before, where that can be written without it. SIGUSR1 only announces an end, as batch systems do.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, final

from wavalign.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
STEP_GRACE = 15.0
"""Seconds that a step has to end after SIGTERM; as many are left of the usual 30 for the checkpoint."""
_AGAIN = 1.0


class Kept(Protocol):
    """What is known of a run's checkpoints."""

    def newest(self) -> str:
        """The newest checkpoint's folder, empty when there is none."""

    def lost(self) -> int:
        """Steps that are in no checkpoint."""

    def survives(self) -> bool:
        """Whether the last complete step can be written now, in the middle of the next one."""


@final
class StopSignals:
    """What was asked of this process, and whether it waits."""

    def __init__(self, kept: Kept, *, say: Callable[[str], None]) -> None:
        """`say` tells the person."""
        self._kept, self._say = kept, say
        self.asked = 0
        """The signal that was sent; 0 for none."""
        self.waits = False
        """Set while a step and its checkpoint are made."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, the signals come here, but for those that are to be ignored (`nohup`); call it in the main thread."""
        mine = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._take) for number in mine}
        previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._give_up)
        try:
            yield
        finally:
            self.in_time()
            for number, handler in previous.items():
                signal.signal(number, handler)

    def interrupted(self, checkpoint: str = "", *, at_once: bool = False) -> Interrupted:
        """What to raise once this rank or another was asked to stop."""
        return Interrupted(
            self.asked or signal.SIGTERM,
            checkpoint or self._kept.newest(),
            lost=0 if checkpoint else self._kept.lost(),
            at_once=at_once,
        )

    def in_time(self) -> None:
        """The step came to its end: what is written next is not cut short."""
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _take(self, number: int, frame: FrameType | None) -> None:
        again = self.asked not in (0, signal.SIGUSR1) and number != signal.SIGUSR1
        self.asked = number if again else self.asked or number
        if self.waits and not again:
            if number == signal.SIGTERM:
                signal.setitimer(signal.ITIMER_REAL, STEP_GRACE, _AGAIN)
            self._say("stopping after this step; press again to stop at once")
            return
        raise self.interrupted(at_once=again)

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        if self.waits and self._kept.survives():
            self.in_time()
            self._say(f"this step is not over after {STEP_GRACE:.0f} s: it is given up")
            raise self.interrupted()
