"""Ctrl-C and SIGTERM: a step ends and leaves its checkpoint first; elsewhere the run stops at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final

from wavalign.errors import Interrupted


@final
class StopSignals:
    """What was asked of this process, and whether it waits."""

    def __init__(self, *, newest: Callable[[], str], say: Callable[[str], None]) -> None:
        """`newest` gives the newest checkpoint's folder or nothing, `say` tells the person."""
        self._newest, self._say = newest, say
        self.asked = 0
        """The signal that waits; 0 for none."""
        self.waits = False
        """Set while a step and its checkpoint are made."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, both signals come here; call it in the main thread."""
        previous = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def interrupted(self, checkpoint: str = "") -> Interrupted:
        """What to raise once this rank or another was asked to stop."""
        return Interrupted(self.asked or signal.SIGTERM, checkpoint or self._newest())

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.waits and not self.asked:
            self.asked = number
            self._say("stopping after this step; press again to stop at once")
            return
        raise Interrupted(number, self._newest())
