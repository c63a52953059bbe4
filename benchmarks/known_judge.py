"""A judge whose faults are known, as a plugin: what a calibration finds is compared with what was put in.

value = clip(middle + stretch * (quality - middle) + bias + per_ten_words * (words - 20) / 10 + noise, range), rounded
where the options say so. `quality` is in the metadata of the row; `noise` is drawn anew at every asking.
"""

import itertools
import zlib
from typing import ClassVar, final

import numpy as np
from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.schema.base import Params


class KnownJudgeParams(Params):
    """Its faults."""

    bias: float = 0.0
    stretch: float = 1.0
    """Below 1 it draws values together, below 0 it prefers bad answers."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of every asking."""
    per_ten_words: float = 0.0
    """What ten more words are worth to it."""
    drift: float = 0.0
    """What it gives more to the last answer than to the first, of `answers`."""
    answers: int = 400
    fails_at: float = Field(default=0.0, ge=0, le=1)
    """Share of askings that fail."""
    rounded: bool = False
    budget: float = 0.0
    """Changes no value."""


@final
class KnownJudge(Reward):
    """A judge of 1 to 5 with the faults it is told to have."""

    type = "known_judge"
    Params = KnownJudgeParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (1.0, 5.0)
    free_options: ClassVar[frozenset[str]] = frozenset({"budget"})
    counts = ("requests",)
    params: KnownJudgeParams

    def __init__(self, params: KnownJudgeParams) -> None:
        super().__init__(params)
        self._asked = itertools.count()
        self._times: dict[str, int] = {}
        self._requests = 0

    def tally(self) -> dict[str, float]:
        found, self._requests = self._requests, 0
        return {"requests": float(found)}

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        mine, place = self.params, next(self._asked) % self.params.answers
        self._requests += 1
        self._times[dialogue.id] = times = self._times.get(dialogue.id, 0) + 1
        draws = np.random.default_rng([zlib.crc32(dialogue.id.encode()), times])
        if draws.random() < mine.fails_at:
            return Scored(None, "the judge was down")
        if not rollout.answer.text:
            return Scored.absent("no text")
        words = len(rollout.answer.text.split())
        value = 3 + mine.stretch * (float(dialogue.metadata["quality"]) - 3) + mine.bias
        value += mine.per_ten_words * (words - 20) / 10 + mine.noise * draws.standard_normal()
        value += mine.drift * (place / (mine.answers - 1) - 0.5)
        value = float(np.clip(value, 1, 5))
        return Scored(float(round(value)) if mine.rounded else value)
