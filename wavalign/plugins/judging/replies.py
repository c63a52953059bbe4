"""Replies that were paid for, on disk by content: nothing is paid twice, not even after a kill."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from wavalign.plugins.judging.parsing import Verdict
from wavalign.plugins.judging.rubric import Rubric, RubricStep
from wavalign.storage.cache import BlobCache, cache_folder

FILE = "judge.sqlite"


@final
class Replies:
    """Verdicts by the digest of their request; any number of threads and processes may ask."""

    def __init__(self, *, kept: bool, fresh: bool = False) -> None:
        """`kept` on disk, otherwise for as long as this object; `fresh` ones are asked for anew each time."""
        self._fresh, kept = fresh, kept and not fresh
        path = cache_folder() / FILE
        self._disk = BlobCache(path, table="verdicts", column="verdict", what="judges' replies") if kept else None
        self._memory: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._turns: dict[str, tuple[threading.Lock, int]] = {}

    def get(self, key: str, rubric: Rubric, step: RubricStep) -> Verdict | None:
        """What is kept under `key`, where it is a verdict of this step."""
        with self._lock:
            found = self._memory.get(key) if self._disk is None else self._disk.get(key)
        if found is None or self._fresh:
            return None
        try:
            kept = json.loads(found)
            values = {name: float(kept["values"][name]) for name in step.axes}
            why = str(kept["why"])
        except (ValueError, KeyError, TypeError):
            return None
        return Verdict(values, why) if all(map(rubric.has, values.values())) else None

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict."""
        content = json.dumps({"values": dict(verdict.values), "why": verdict.why}).encode()
        with self._lock:
            if self._disk is None:
                self._memory[key] = content
            else:
                self._disk.put(key, content)

    @contextmanager
    def turn(self, key: str, seconds: float) -> Iterator[bool]:
        """One at a time for equal requests, so that the second finds the first one's reply; False where time is up."""
        with self._lock:
            lock, waiting = self._turns.get(key, (threading.Lock(), 0))
            self._turns[key] = (lock, waiting + 1)
        taken = lock.acquire(timeout=max(0.0, seconds))
        try:
            yield taken
        finally:
            if taken:
                lock.release()
            with self._lock:
                _, waiting = self._turns.pop(key)
                if waiting > 1:
                    self._turns[key] = (lock, waiting - 1)

    def close(self) -> None:
        """Free the file."""
        with self._lock:
            if self._disk is not None:
                self._disk.close()
