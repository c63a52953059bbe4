"""A judge whose noise is known: `answer_match` and an error of its own, drawn for every asking.

    value = grade + sd * z                          (z standard normal, cut at 6)
    with `flips`: the other end of the scale instead of the grade, with that probability, before z is added

It states the variance of its error, 16 flips (1 - flips) + sd^2 (the ends of a scale of 1 to 5 are 4 apart). Draws hang
on its seed, the question, the answer, the updates that the weights had seen which gave it, and how manieth asking about
the same answer it is: no two answers share an error, and a run that is repeated is the same run.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import final

import numpy as np
from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.rewards.answer_match import AnswerMatch, AnswerMatchParams
from wavalign.schema.base import Params

LOWEST, HIGHEST = 1.0, 5.0
CUT = 6.0


@final
class NoisyJudgeParams(Params):
    """How far it errs."""

    sd: float = Field(default=0.0, ge=0.0, le=10.0)
    """Standard deviation of the error, on the scale of 1 to 5."""
    flips: float = Field(default=0.0, ge=0.0, le=0.5)
    """Share of grades that are turned around: right for wrong and wrong for right."""
    seed: int = 0
    """Of the errors."""
    states: bool = True
    """Whether it states the variance of its error."""


@final
class NoisyJudge(Reward):
    """Right or wrong, and noise."""

    type = "noisy_judge"
    Params = NoisyJudgeParams
    needs = frozenset({"text"})
    range = (LOWEST, HIGHEST)
    batch_size = 1 << 20  # all answers of a step in one call: which asking is the first does not hang on threads
    params: NoisyJudgeParams

    def __init__(self, params: NoisyJudgeParams) -> None:
        super().__init__(params)
        self._exact = AnswerMatch(AnswerMatchParams())
        self.range = _range(params)  # type: ignore[misc]  # that of the class holds for a judge that errs not

    @classmethod
    def range_of(cls, params: NoisyJudgeParams) -> tuple[float, float]:
        """As far as it can err."""
        return _range(params)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        (found,) = self.score_batch([rollout], [dialogue])
        return found

    def score_batch(self, rollouts: Sequence[Rollout], dialogues: Sequence[Dialogue]) -> Sequence[Scored]:
        asked: Counter[str] = Counter()
        found = []
        for rollout, dialogue in zip(rollouts, dialogues, strict=True):
            about = f"{self.params.seed} {rollout.version} {dialogue.id} {rollout.answer.text}"
            exact = self._exact.score(rollout, dialogue)
            found.append(exact if exact.value is None else self._judged(exact.value, f"{about} {asked[about]}"))
            asked[about] += 1
        return found

    def _judged(self, grade: float, about: str) -> Scored:
        draw = np.random.default_rng(int.from_bytes(hashlib.sha256(about.encode()).digest()[:8], "big"))
        flipped = draw.random() < self.params.flips
        error = min(max(float(draw.standard_normal()), -CUT), CUT) * self.params.sd
        value = (LOWEST + HIGHEST - grade if flipped else grade) + error
        variance = (HIGHEST - LOWEST) ** 2 * self.params.flips * (1 - self.params.flips) + self.params.sd**2
        return Scored(value, details={"exact": grade}, variance=variance if self.params.states else None)


def _range(params: NoisyJudgeParams) -> tuple[float, float]:
    return LOWEST - CUT * params.sd, HIGHEST + CUT * params.sd
