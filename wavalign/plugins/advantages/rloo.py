"""How much better than the others of its group: A_i = R_i - mean of R_j over j != i.

That is n / (n - 1) (R_i - mean R) of n answers with a reward. The baseline does not look at the answer itself,
so that the policy gradient stays unbiased.
Source: RLOO (arXiv 2402.14740, section 3; Kool et al. 2019).
"""

from typing import final

from wavalign.plugins.answer_level import AnswerLevelParams, answer_level, group_mean
from wavalign.plugins.api import Advantage, AdvantageInputs, AdvantageOutput


@final
class LeaveOneOutParams(AnswerLevelParams):
    """Scale of the step."""


@final
class LeaveOneOut(Advantage):
    """Rewards relative to the other answers to the same prompt."""

    Params = LeaveOneOutParams
    params: LeaveOneOutParams

    def compute(self, inputs: AdvantageInputs) -> AdvantageOutput:
        """The others are those with a reward; an answer without one, or without others, is invalid."""
        rewards = inputs.rewards
        present = ~rewards.isnan()
        count = present.sum(dim=1, keepdim=True)
        less_own = count.double() / (count - 1).clamp(min=1)
        return answer_level(less_own * (rewards - group_mean(rewards, present)), present & (count >= 2), self.params)
