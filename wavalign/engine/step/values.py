"""Named values of a step, and those that a thread is still making."""

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, final

import torch

Made = Mapping[str, Any]
"""What an operator gives, by the names of the values."""
POLL_SECONDS = 0.05


@final
class Pending:
    """What an operator in a thread of its own will give."""

    def __init__(self, name: str, work: Callable[[], Made], device: torch.device) -> None:
        self.name = name
        self._work, self._device = work, device
        self._made: Made = {}
        self._error: BaseException | None = None
        self._done = threading.Event()
        # A daemon: what hangs in somebody's code must not keep the process alive.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def value(self, name: str, waiting: Callable[[], None] | None = None) -> Any:
        """The value once it is made; calls `waiting` now and then meanwhile. Raises what the operator raised."""
        while not self._done.wait(POLL_SECONDS):
            if waiting is not None:
                waiting()
        if self._error is not None:
            raise self._error
        return self._made[name]

    def _run(self) -> None:
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # each thread has its own, and begins with the first
            self._made = self._work()
        except BaseException as error:  # it is raised where the value is needed
            self._error = error
        self._done.set()


@final
class Values(Mapping[str, Any]):
    """Values of one scope over those of the scopes around it."""

    def __init__(self, around: "Values | None" = None, first: Made | None = None) -> None:
        self._around = around
        self._own: dict[str, Any] = dict(first or {})
        self.waiting: Callable[[str], None] | None = around.waiting if around is not None else None
        """Called with the name of the operator that is waited for."""

    def __getitem__(self, name: str) -> Any:
        if name not in self._own:
            if self._around is None:
                raise KeyError(name)
            return self._around[name]
        found = self._own[name]
        if not isinstance(found, Pending):
            return found
        tell, main = self.waiting, threading.current_thread() is threading.main_thread()
        value = found.value(name, (lambda: tell(found.name)) if tell is not None and main else None)
        self._own[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        yield from {**dict.fromkeys(self._around or ()), **self._own}

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def set(self, made: Made) -> None:
        """Take values in."""
        self._own.update(made)
