"""What a run has spent on a judge, in a file of its folder that is only ever added to, shared by all processes.

A request is written down with the most it can cost before it is sent, and with what it did cost behind it. So what was
in flight when a run was killed counts in full, concurrency cannot overshoot the budget, and no checkpoint that is older
than the last request can make money unspent. One line is one JSON object; a line that a kill cut short was written
before its request was sent, or says that one cost less than its most: leaving it out never counts too little.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavalign.errors import RewardStopped, StorageError
from wavalign.plugins.judging.settings import Budget

FILE = "ledger.jsonl"
POLL = 0.05
_ROUNDING = 1e-9


@final
@dataclass(slots=True)
class Open:
    """A request that was written down and is not settled."""

    money: float
    """The most it can cost."""
    at: float
    """When it was written down, by the system's clock."""


@final
class Ledger:
    """Money and requests, over all processes and resumes of a run."""

    def __init__(self, budget: Budget, *, folder: Path | None, patience: float, name: str = "judge") -> None:
        """`patience` is how long a request can be in flight; without a folder nothing lasts longer than a process."""
        self._budget, self._patience, self._name = budget, patience, name
        self._path = None if folder is None else folder / FILE
        self._open: dict[str, Open] = {}
        self._seen: set[str] = set()
        self.money, self.requests = 0.0, 0
        """Spent and sent, as far as the file has been read; what is open counts with its most."""
        self._read_to = 0
        self._lock = threading.Lock()
        if self._path is not None:
            with self._writing():
                pass

    def reserve(self, money: float, until: float) -> str | None:
        """Write down a request that is about to be sent; waits for others in flight where only they stand in the way.

        None where they still do at `until`. Raises RewardStopped where the budget has no room.
        """
        while True:
            with self._lock, self._writing():
                problem, waiting = self._no_room(money)
                if not problem:
                    key = uuid.uuid4().hex
                    self._add({"request": key, "most": money, "at": round(time.time(), 3)})
                    return key
            if not waiting:
                raise RewardStopped(problem, hint=self._hint())
            if time.monotonic() > until:
                return None
            time.sleep(POLL)

    def settle(self, key: str, money: float) -> None:
        """What a request did cost."""
        with self._lock, self._writing():
            self._add({"settled": key, "money": money})

    def carry(self, money: float, requests: int) -> None:
        """Hold on to what a checkpoint knows to be spent, where the file knows less: it was lost, or never there."""
        with self._lock, self._writing():
            more, further = money - self.money, requests - self.requests
            if more > _ROUNDING or further > 0:
                self._add({"carried": max(0.0, more), "requests": max(0, further), "key": uuid.uuid4().hex})

    def said(self) -> str:
        """What was spent, in words."""
        with self._lock, self._writing():
            return self._words()

    def _words(self) -> str:
        return f"{self.money:.4f} spent so far in {self.requests:,} requests"

    def _no_room(self, money: float) -> tuple[str, bool]:
        """Why a request has no room, and whether that may change by what others in flight turn out to cost."""
        limit = self._budget
        if limit.requests is not None and self.requests + 1 > limit.requests:
            return (
                f"the budget of {limit.requests:,} requests of reward `{self._name}` is used up: {self._words()}",
                False,
            )
        if limit.money is None or self.money + money <= limit.money + _ROUNDING:
            return "", False
        now = time.time()
        hopes = any(now - each.at <= self._patience for each in self._open.values())
        said = f"the budget of {limit.money:g} of reward `{self._name}` is used up: {self._words()}"
        return f"{said}, and the next may cost {money:.4f}", hopes

    def _hint(self) -> str:
        key = "money" if self._budget.money is not None else "requests"
        return f"raise rewards.{self._name}.budget.{key}, then --resume --accept reward.{self._name}"

    # --- the file -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone of all processes, with all that they have written read."""
        if self._path is None:
            yield
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._catch_up(file)
                self._file = file
                yield
                file.flush()
        except OSError as error:
            hint = "free space on the disk, then resume the run: what is spent must be written down"
            raise StorageError(f"could not write {self._path}: {error}", hint=hint) from error

    def _catch_up(self, file: Any) -> None:
        size = os.fstat(file.fileno()).st_size
        if size < self._read_to:
            raise StorageError(
                f"{self._path} is shorter than it was: what is spent is no longer known",
                hint="put the file back; it is only ever added to",
            )
        file.seek(self._read_to)
        content = file.read()
        if content and not content.endswith(b"\n"):  # a kill cut it short
            file.write(b"\n")
            file.flush()
            content += b"\n"
        self._read_to += len(content)
        for line in content.splitlines():
            self._take(line)

    def _add(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        if self._path is not None:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._read_to += len(line)
        self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            found = json.loads(line)
            if "request" in found:
                self._opened(found["request"], Open(float(found["most"]), float(found["at"])))
            elif "settled" in found and (entry := self._open.pop(found["settled"], None)) is not None:
                self.money += float(found["money"]) - entry.money
            elif "carried" in found and self._is_new(found["key"]):
                self.money += float(found["carried"])
                self.requests += int(found["requests"])
        except (ValueError, KeyError, TypeError):  # cut short by a kill, see above
            return

    def _opened(self, key: str, entry: Open) -> None:
        if self._is_new(key):
            self._open[key] = entry
            self.money += entry.money
            self.requests += 1

    def _is_new(self, key: str) -> bool:
        """A line whose writing failed half-way is met again."""
        new = key not in self._seen
        self._seen.add(key)
        return new
