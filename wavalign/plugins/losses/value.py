"""Learn what answers will still earn: L_t = max((v_t - G_t)^2, (clip(v_t, v_old - c, v_old + c) - G_t)^2) / 2.

v_t is the scalar output `values` before token t, v_old the same under the weights that sampled, G_t the returns of a
token-level advantage. The clip keeps v within c of v_old, pessimistically; without one L_t = (v_t - G_t)^2 / 2.
Of tokens of several streams at one position each counts. Source: PPO's value loss (arXiv 1707.06347), clipped as in its
authors' implementation.
"""

from typing import Annotated, final

import torch
from pydantic import Field

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.schema.base import Params


@final
class ValueParams(Params):
    """The trust region of values."""

    clip: Annotated[float, Field(gt=0, le=1e6)] | None = 0.2
    """How far, in units of reward, a value may go from what it was when answers were sampled; null does not clip."""


@final
class Value(Loss):
    """Squared error of the value head at every token, [B, S, T]."""

    Params = ValueParams
    family = "rollouts"
    reads_logprobs = False
    params: ValueParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"values", "returns"} if self.params.clip is None else {"values", "returns", "old_values"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        values, returns = inputs.column("values")[:, None, :], inputs.column("returns")
        error = (values - returns).square()
        seen = {"value": values.detach().expand_as(inputs.logprobs), "return": returns.expand_as(inputs.logprobs)}
        if self.params.clip is not None:
            old = inputs.column("old_values")
            near = old + (values - old).clamp(-self.params.clip, self.params.clip)
            held = (near - returns).square()
            # Where the value moved less, the two differ by rounding alone.
            seen["clipped"] = ((held > error) & ((values - old).abs() > self.params.clip)).to(error.dtype).detach()
            error = torch.maximum(error, held)
        return LossOutput((error / 2).expand_as(inputs.logprobs), seen)

    @property
    def inert_on_policy(self) -> str:
        return "" if self.params.clip is None else "clip"
