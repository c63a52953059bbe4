"""Observers of a run: the events that the trainer reports, and who receives them.

The first rank alone calls an observer, in this order: `start`; per stage `stage`, then evaluations, steps and rollouts;
`finish` when the run is complete; `close` in any case, also after an error. `progress` and `message` may come at any
time, also before `start`. An observer never stops a run: what it cannot show it leaves out.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, final

Waiting = Callable[[str, int, int], None]
"""`Observer.waiting`, for those who work and know no observer."""


@final
@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known when a run starts."""

    name: str
    """Of the recipe."""
    folder: str
    total_steps: int
    """Of all stages."""
    seed: int | None = None
    fingerprint: str = ""
    """Of the plan."""
    hardware: str = ""
    """In words, e.g. `2 x H200, bf16`."""


class Observer(ABC):
    """Receives a run's events."""

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """The run begins or goes on."""

    @abstractmethod
    def stage(self, name: str, steps: int) -> None:
        """A stage of `steps` steps begins; 0 for one without optimiser steps."""

    @abstractmethod
    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        """A step is done; keys as in a train line of metrics.jsonl, `steps_done` counts within the stage."""

    @abstractmethod
    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None:
        """A split was measured; keys as in an evaluation line, `when` is `start`, `middle` or `end` of the stage."""

    @abstractmethod
    def message(self, text: str) -> None:
        """Something is worth one line, e.g. a tracker was switched off."""

    def changed(self, split: str, found: Mapping[str, float]) -> None:
        """How the split that was just measured compares with the run's start on the same items: by value the p that
        nothing has changed, corrected for looking at all of them."""
        return

    def alarm(self, split: str, found: Sequence[str]) -> None:
        """What is wrong by the newest measurement of a split, a sentence each; empty where nothing is any more."""
        for text in found:
            self.message(text)

    @abstractmethod
    def progress(self, what: str, done: int, total: int) -> None:
        """`done` of `total` of something that takes a while, e.g. `encoding clips`."""

    def rollout(self, question: str, answer: str, reward: float | None) -> None:
        """A rollout worth showing was sampled; `reward` None where it has none."""
        return

    def waiting(self, what: str, done: int, total: int) -> None:
        """The run is busy with `what`, `done` of `total` where that is counted (else 0 of 0); empty: with nothing.

        Comes often and from the thread that works: a display shows it only when it lasts.
        """
        return

    @abstractmethod
    def finish(self, summary: str) -> None:
        """The run is complete; `summary` says where to look next, one thing a line."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held; called once or more."""


@final
class Silent(Observer):
    """Ignores every event."""

    def start(self, run: RunInfo) -> None:
        return

    def stage(self, name: str, steps: int) -> None:
        return

    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        return

    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None:
        return

    def message(self, text: str) -> None:
        return

    def progress(self, what: str, done: int, total: int) -> None:
        return

    def finish(self, summary: str) -> None:
        return

    def close(self) -> None:
        return


class Display(Observer):
    """An observer that a person looks at; as a context manager it closes itself whatever happens."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
