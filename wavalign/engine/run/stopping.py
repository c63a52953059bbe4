"""Ctrl-C, SIGTERM and a hang-up: a step ends and leaves its checkpoint first; elsewhere the run stops at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, final

from wavalign.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Kept(Protocol):
    """What is known of a run's checkpoints."""

    def newest(self) -> str:
        """The newest checkpoint's folder, empty when there is none."""

    def lost(self) -> int:
        """Steps that are in no checkpoint."""


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
        try:
            yield
        finally:
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

    def _take(self, number: int, frame: FrameType | None) -> None:
        again, self.asked = bool(self.asked), number
        if self.waits and not again:
            self._say("stopping after this step; press again to stop at once")
            return
        raise self.interrupted(at_once=again)
