"""Work in a thread beside the steps: one piece at a time, whose error ends the run where the next one begins."""

import threading
from collections.abc import Callable
from typing import final


@final
class Background:
    """At most one piece of work at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether an error waits to be raised."""
        return self._error is not None

    def ends_within(self, seconds: float) -> bool:
        """Whether what is under way comes to its end in so long."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def start(self, work: Callable[[], object]) -> None:
        """Wait for the piece before, raise its error, and begin this one."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), name="checkpoint")
        self._thread.start()  # no daemon: one left in native code at the interpreter's end would abort the process

    def wait(self) -> None:
        """Wait for what is under way; raises its error, once."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the main thread raises it
            self._error = error
