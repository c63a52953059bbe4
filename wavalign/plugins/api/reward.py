"""Rewards: a score per rollout."""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, final

from wavalign.plugins.api.base import Remembers
from wavalign.plugins.batch import Dialogue, Rollout, Scored

SHOWN = frozenset({"text", "waveform", "pieces", "target_codes"})
"""What of an answer somebody may need."""


def text_is_enough(needs: Collection[str]) -> bool:
    """Whether who has these needs may be shown answers that were sampled no further than their text."""
    # One that says of nothing that it needs it may look at anything.
    return set(needs) - {"pieces"} == {"text"}


@final
@dataclass(frozen=True, slots=True)
class Facet:
    """One thing that a reward model judges, and how its rewards were spread over held-out answers."""

    name: str
    mean: float
    std: float


class RewardModel(Protocol):
    """A network that learned to score answers, opened by the engine; it may be asked from any thread."""

    @property
    def facets(self) -> Sequence[Facet]:
        """What it judges."""

    def rewards(self, rollouts: Sequence[Rollout], dialogues: Sequence[Dialogue]) -> list[Mapping[str, float]]:
        """Of every answer its reward by facet, as the network gives it."""


class RewardModels(Protocol):
    """Where reward models come from."""

    def open(self, address: str) -> RewardModel:
        """That of a folder or address; raises PreflightError where it cannot score what the present stage samples."""


@final
@dataclass(frozen=True, slots=True)
class Process:
    """Where in a run a reward scores: for limits of the whole run, and for files of its own."""

    rank: int = 0
    processes: int = 1
    """How many score at the same time, this one among them."""
    folder: Path | None = None
    """The reward's own in the run's folder, not made yet; the same for every process and every resume. None where there
    is no run."""
    timeout: float = math.inf
    """Seconds after which a call is given up."""
    fresh: bool = False
    """Whether it is asked again about the same answers to see how far it repeats itself: nothing that is remembered
    from an earlier asking may stand in for a new one."""


class Reward(Remembers):
    """A score per rollout. Called from worker threads, several at a time."""

    kind = "reward"
    needs: ClassVar[frozenset[str]]
    """Subset of {"text", "waveform", "pieces", "target_codes"}: `waveform` makes the engine decode the answer's sound,
    `pieces` fill in the text of every text token, `target_codes` the codec's codes of the target's sound
    (`dialogue.target.audio.codes`). A reward that needs the text alone, or with its pieces, may be shown answers that
    were sampled no further than their text."""
    range: ClassVar[tuple[float, float]]
    """Lowest and highest value `score` can give; a recipe's `scale` maps it linearly."""
    batch_size: int = 1
    """Most answers of one call: above 1, `score_batch` is called for so many at a time, and never `score`."""
    concurrency: int = 0
    """Calls at a time, on threads of its own, for a reward that mostly waits; with 0 it shares the
    `runtime.reward_workers` of all."""
    counts: tuple[str, ...] = ()
    """Names of what `tally` counts."""
    free_options: ClassVar[frozenset[str]] = frozenset()
    """Its options that change no value, by dotted names with `*` for any part (`budget`, `judges.*.prices`): limits,
    budgets, where something is kept. A calibration holds for the reward whatever they are."""

    def __init__(self, params: Any) -> None:
        self.params = params

    def prepare(self, models: RewardModels) -> None:
        """Open the reward models that it scores with; called once, before the first answer."""
        return

    def join(self, process: Process) -> None:
        """Learn where in a run it scores; called once, before the first answer."""
        return

    def tally(self) -> Mapping[str, float]:
        """What this process has counted since the last call, of every name in `counts`; asked once a training step."""
        return {}

    def settle(self, totals: Mapping[str, float]) -> None:
        """Learn the sums over all ranks of what they have just counted: what is remembered is made of these."""
        return

    @classmethod
    def dialogue_needs(cls, params: Any, dialogue: Dialogue) -> str | None:
        """What `dialogue` lacks for being scored, and the remedy; None where it has all. Asked before a run starts."""
        return None

    @classmethod
    def range_of(cls, params: Any) -> tuple[float, float] | None:
        """Its range where options decide it, asked before a run starts; None where that of the class holds."""
        return None

    @classmethod
    def needs_of(cls, params: Any) -> frozenset[str] | None:
        """Its needs where options decide them, asked before a run starts; None where those of the class hold."""
        return None

    @classmethod
    def instrument(cls, params: Any) -> str:
        """What it measures with, and the settings that matter, in a few words; empty for a plain comparison.

        A recipe in which a reward and a metric name the same one is warned: they share their errors.
        """
        return ""

    @abstractmethod
    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Score one answer; must not invent a number. `Scored.tokens` may say what its single tokens are worth.

        `Scored.absent(reason)` where the answer has nothing to score, `Scored(None, reason)` where the reward failed.
        Raises RewardStopped where it cannot go on for the whole run: nothing more is asked, and the run ends.
        """

    def score_batch(self, rollouts: Sequence[Rollout], dialogues: Sequence[Dialogue]) -> Sequence[Scored]:
        """Score several answers, each to the dialogue at its place; what it raises is the failure of them all."""
        return [self.score(rollout, dialogue) for rollout, dialogue in zip(rollouts, dialogues, strict=True)]

    def close(self) -> None:
        """Free what the reward holds; called once."""
        return
