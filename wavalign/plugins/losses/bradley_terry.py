"""Learn a reward from pairs: L = -log sigmoid(r_chosen - r_rejected - margin) + center (r_chosen + r_rejected)^2.

r is a scalar head on the network's hidden states: of the last position of a row (`pooling: last`), or the mean of a
number per token over the term's tokens (`mean`). A facet of preference (quality, rhythm, timbre ...) is a term with a
`head` of its own, which learns from a family of its own.
Source: Bradley and Terry (1952) as in arXiv 2203.02155, Eq. 1; SpeechAlign (arXiv 2404.05600), its reward model. The
margin is that of Llama 2 (arXiv 2307.09288, Eq. 2), the centring that of arXiv 2312.09244.
"""

from collections.abc import Mapping
from typing import Literal, final

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.pairs import PAIR, sides
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
    scores: float = Field(default=0.0, ge=0, le=1e6)
    """Added to the margin for every point by which the data scores the chosen answer higher (`score` of its sides)."""
    center: float = Field(default=0.0, ge=0, le=1e6)
    """Weight of (r_chosen + r_rejected)^2, which keeps rewards near 0; differences alone leave their level free."""


@final
class BradleyTerry(Loss):
    """How unlikely the chosen answer of a pair is to win against the rejected one, [groups]."""

    Params = BradleyTerryParams
    family = "pairs"
    unit = "group"
    members = PAIR
    reads_logprobs = False
    params: BradleyTerryParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self._head, "target_scores"} if self.params.scores else {self._head})

    @property
    def scalars(self) -> Mapping[str, Literal["token", "sequence"]]:
        """Its own head, where it has one."""
        return {self._head: "sequence" if self.params.pooling == "last" else "token"} if self.params.head else {}

    def compute(self, inputs: LossInputs) -> LossOutput:
        rewards = sides(inputs, self._rewards(inputs))
        values = -functional.logsigmoid(rewards.gap - self._margin(inputs))
        if self.params.center:
            values = values + self.params.center * (rewards.chosen + rewards.rejected).square()
        chosen, rejected = rewards.chosen.detach(), rewards.rejected.detach()
        right = (chosen > rejected).to(chosen.dtype)
        logged = {"margin": chosen - rejected, "chosen_reward": chosen, "rejected_reward": rejected}
        return LossOutput(values, {"accuracy": right, **logged})

    @property
    def _head(self) -> str:
        return self.params.head or NAMES[self.params.pooling]

    def _margin(self, inputs: LossInputs) -> Tensor | float:
        """How far apart the sides are to be, [groups] where the data says it."""
        if not self.params.scores:
            return self.params.margin
        return self.params.margin + self.params.scores * sides(inputs, inputs.column("target_scores").flatten()).gap

    def _rewards(self, inputs: LossInputs) -> Tensor:
        """Rewards [B] of the rows."""
        values = inputs.column(self._head)
        if self.params.pooling == "last":
            return values
        return inputs.segments.mean(values[:, None], inputs.mask.any(dim=1, keepdim=True))
