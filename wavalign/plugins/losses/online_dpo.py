"""Prefer the best of the answers that were just sampled to the worst: the loss `dpo` on a pair of every group.

With d = beta (log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l)) a group is worth -log s(d), or what `variant` makes of
d. y_w and y_l are the answers with the highest and the lowest reward, the first of those that share it; `pair: random`
takes the first two answers in the order of their rewards: a random pair, because all are drawn alike. Where the two
rewards are equal nothing is preferred: the group counts and is worth 0 (`rollout.resample` draws another in its place).
Source: online DPO (arXiv 2402.04792), with a reward in the place of the judge.
"""

from typing import Literal, final

import torch
from torch import Tensor

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.pairs import Pairs, Sides, row_logprobs
from wavalign.plugins.preferences import PreferenceParams, preference_loss


@final
class OnlineDPOParams(PreferenceParams):
    """Which pair, and what is made of it."""

    pair: Literal["extremes", "random"] = "extremes"
    """Best against worst of the group, or two of its answers at random."""


@final
class OnlineDPO(Loss):
    """Direct preference optimisation on answers of the step, one value a group, [groups]."""

    Params = OnlineDPOParams
    family = "rollouts"
    unit = "group"
    params: OnlineDPOParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rewards", "ref_logprobs"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        """A group counts where all its answers have a reward."""
        best, worst, tied = self._pairs(inputs)
        per_token = self.params.length_normalized
        said = row_logprobs(inputs, inputs.logprobs, per_token=per_token)
        ratio = row_logprobs(inputs, inputs.logprobs - inputs.column("ref_logprobs"), per_token=per_token)
        pairs = Pairs(Sides(said[best], said[worst]), Sides(ratio[best], ratio[worst]), refers=True)
        values = torch.where(tied, 0.0, preference_loss(pairs.ratios.gap, self.params))
        return LossOutput(values, {**pairs.metrics(self.params.beta), "tied": tied.to(values.dtype)})

    def _pairs(self, inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Row numbers of the preferred and the other answer, and whether their rewards are equal, [groups] each."""
        members = 2 if self.params.pair == "random" else int(inputs.member.max()) + 1
        taken = inputs.member < members
        place = (inputs.group[taken], inputs.member[taken])
        rewards = inputs.column("rewards").flatten()
        rows = inputs.group.new_zeros(inputs.groups, members).index_put(place, taken.nonzero().flatten())
        table = rewards.new_zeros(inputs.groups, members).index_put(place, rewards[taken])
        high, low = table.max(dim=1), table.min(dim=1)
        best = rows.gather(1, high.indices[:, None]).flatten()
        return best, rows.gather(1, low.indices[:, None]).flatten(), high.values == low.values
