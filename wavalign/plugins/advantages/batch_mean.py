"""How much better than the step's answers: A = R - mean of all present rewards, whatever they answer.

With `whiten: true` these are the advantages of REINFORCE++ (arXiv 2501.03262) without its divergence in the reward, for
which see `return_to_go`. One answer a prompt is enough; an easy prompt is then better than a hard one.
"""

from typing import final

from wavalign.plugins.answer_level import AnswerLevelParams, answer_level, mean_of
from wavalign.plugins.api import Advantage, AdvantageInputs, AdvantageOutput


@final
class BatchMeanParams(AnswerLevelParams):
    """Scale of the step."""


@final
class BatchMean(Advantage):
    """Rewards relative to all answers of a step, on all processes."""

    Params = BatchMeanParams
    params: BatchMeanParams

    @property
    def compares_answers(self) -> bool:
        return False

    def compute(self, inputs: AdvantageInputs) -> AdvantageOutput:
        """Of every answer that has a reward."""
        rewards = inputs.rewards
        return answer_level(rewards - (mean_of(rewards) or 0.0), ~rewards.isnan(), self.params)
