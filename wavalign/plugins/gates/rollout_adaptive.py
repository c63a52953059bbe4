"""A share that opens when a prompt's best answer is good and its answers differ.

Per prompt with rewards R: raw = ceiling * sigmoid(slope * (max R - threshold)) * clip(Var(R) / max_variance, 0, 1), Var
the population variance; then lambda_t = (1 - ema) * mean over prompts of raw + ema * lambda_{t-1}, lambda_1 = the first
mean. Source: arXiv 2604.14932, Eq. 9-12; `slope` is not printed there, 5 is the released code's.
"""

from collections.abc import Mapping
from typing import Annotated, Any, final

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import override

from wavalign.errors import PluginError, ResumeError
from wavalign.plugins.api import Gate, GateReading
from wavalign.schema.base import Params


@final
class RolloutAdaptiveParams(Params):
    """Height, place and sharpness of the gate."""

    ceiling: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Largest lambda; the other side of the mix keeps at least 1 - ceiling."""
    threshold: Annotated[float, Field(ge=-1e6, le=1e6)] = 3.0
    """Best reward at which the gate is half open, in the rewards' scale."""
    slope: Annotated[float, Field(gt=0, le=1e6)] = 5.0
    """Sharpness around the threshold, per unit of reward."""
    max_variance: Annotated[float, Field(ge=1e-12, le=1e12)] = 4.0
    """Variance at which a group counts as fully informative; 4 is the largest on a scale of 1 to 5."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Weight of the previous value; 0 switches the smoothing off."""


@final
class RolloutAdaptive(Gate):
    """Lambda from reward statistics, smoothed over steps."""

    Params = RolloutAdaptiveParams
    params: RolloutAdaptiveParams

    def __init__(self, params: RolloutAdaptiveParams) -> None:
        super().__init__(params)
        self._previous: float | None = None

    @override
    def update(self, rewards: Tensor | None, *, progress: float) -> GateReading:
        """Absent rewards (NaN) count nowhere; a prompt with none is left out, and with no prompt left lambda stays.

        `factors`: groups (prompts that counted), held (1 when lambda stayed), and the means over prompts of
        best_reward, variance, direction, information and raw, which are missing when lambda stayed.
        Before the first reward lambda is 0: there is nothing to prefer yet, and the average does not start.
        """
        if rewards is None:
            raise PluginError("the rollout_adaptive gate was updated without rewards", hint="give the stage rollouts")
        present = ~rewards.isnan()
        kept = present.any(dim=1)
        rewards, present = rewards[kept].double(), present[kept]
        groups = int(kept.sum())
        if groups == 0:
            return GateReading(self._previous or 0.0, {"groups": 0.0, "held": 1.0})
        factors = self._factors(rewards, present)
        raw, ema = factors["raw"], self.params.ema
        self._previous = raw if self._previous is None else (1 - ema) * raw + ema * self._previous
        return GateReading(self._previous, {"groups": float(groups), "held": 0.0, **factors})

    def _factors(self, rewards: Tensor, present: Tensor) -> dict[str, float]:
        """Means over prompts of what makes lambda; `rewards`, `present` [P, G], at least one present in each row."""
        count = present.sum(dim=1)
        mean = torch.where(present, rewards, 0.0).sum(dim=1) / count
        variance = torch.where(present, rewards - mean[:, None], 0.0).square().sum(dim=1) / count
        best = torch.where(present, rewards, -torch.inf).amax(dim=1)
        direction = torch.sigmoid(self.params.slope * (best - self.params.threshold))
        information = (variance / self.params.max_variance).clamp(0, 1)
        raw = self.params.ceiling * direction * information
        named = {"best_reward": best, "variance": variance, "direction": direction, "information": information}
        return {name: float(value.mean()) for name, value in {**named, "raw": raw}.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"previous": self._previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "previous" not in state:
            raise ResumeError(
                "the gate's state lacks `previous`", hint="resume with the recipe that wrote the checkpoint"
            )
        previous = state["previous"]
        self._previous = None if previous is None else float(previous)
