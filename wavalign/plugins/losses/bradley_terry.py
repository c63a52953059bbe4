"""Learn a reward from pairs: L = -log sigmoid(r_chosen - r_rejected - margin) + center (r_chosen + r_rejected)^2.

r is a scalar head on the network's hidden states: of the last position of a row (`pooling: last`), or the mean of a
number per token over the term's tokens (`mean`). A facet of preference (quality, rhythm, timbre ...) is a term with a
`head` of its own, which learns from a family of its own.
Source: Bradley and Terry (1952) as in arXiv 2203.02155, Eq. 1; SpeechAlign (arXiv 2404.05600), its reward model. The
margin is that of Llama 2 (arXiv 2307.09288, Eq. 2), the centring that of arXiv 2312.09244.
"""

from collections.abc import Mapping
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.schema.base import Params

NAMES: Mapping[str, str] = {"last": "row_values", "mean": "values"}
"""The policy's own scalar outputs, by pooling."""


@final
class BradleyTerryParams(Params):
    """Which number of a row is its reward."""

    pooling: Literal["last", "mean"] = "last"
    """`last`: read off the state at the row's last position. `mean`: a number at every token, averaged over the tokens
    that the term selects."""
    head: str = Field(default="", pattern=r"^([a-z][a-z0-9_]*)?$", max_length=50)
    """Name of a scalar head of this term's own, for one facet among several; empty takes the policy's common one."""
    margin: float = Field(default=0.0, ge=0, le=1e6)
    """How much better the chosen answer is to be at least."""
    center: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of (r_chosen + r_rejected)^2, which keeps rewards near 0; differences alone leave their level free."""


@final
class BradleyTerry(Loss):
    """How unlikely the chosen answer of a pair is to win against the rejected one, [groups]."""

    Params = BradleyTerryParams
    family = "pairs"
    unit = "group"
    reads_logprobs = False
    params: BradleyTerryParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self._head})

    @property
    def scalars(self) -> Mapping[str, Literal["token", "sequence"]]:
        """Its own head, where it has one."""
        return {self._head: "sequence" if self.params.pooling == "last" else "token"} if self.params.head else {}

    def compute(self, inputs: LossInputs) -> LossOutput:
        rewards = self._rewards(inputs)
        chosen, rejected = (_of_member(rewards, inputs, member) for member in (0, 1))
        margin = chosen - rejected
        values = -functional.logsigmoid(margin - self.params.margin)
        if self.params.center:
            values = values + self.params.center * (chosen + rejected).square()
        logged = {"accuracy": (margin > 0).to(margin.dtype), "margin": margin, "chosen": chosen, "rejected": rejected}
        return LossOutput(values, {name: each.detach() for name, each in logged.items()})

    @property
    def _head(self) -> str:
        return self.params.head or NAMES[self.params.pooling]

    def _rewards(self, inputs: LossInputs) -> Tensor:
        """Rewards [B] of the rows."""
        values = inputs.column(self._head)
        if self.params.pooling == "last":
            return values
        return inputs.segments.mean(values[:, None], inputs.mask.any(dim=1, keepdim=True))


def _of_member(rewards: Tensor, inputs: LossInputs, member: int) -> Tensor:
    """Rewards [groups] of the rows [B] that are `member` of their group."""
    own = torch.where(inputs.member == member, rewards, 0.0)
    return rewards.new_zeros(inputs.groups).index_add(0, inputs.group, own)
