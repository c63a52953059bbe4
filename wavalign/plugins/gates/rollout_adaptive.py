"""A share that opens when a prompt's best answer is good and its answers differ.

Per prompt with rewards R: raw = ceiling * sigmoid(slope * (max R - threshold)) * clip(Var(R) / max_variance, 0, 1), Var
the population variance; then lambda_t = (1 - ema) * mean over prompts of raw + ema * lambda_{t-1}, lambda_1 = the first
mean. Source: arXiv 2604.14932, Eq. 9-12; `slope` is not printed there, 5 is the released code's.

Three options of our own. `subtract_noise`: errors of a judge with the variances s_i^2 add (1 - 1/n) * mean s^2 to the
variance of n rewards on average, also where all answers are worth the same; it is taken off, down to 0 at least.
`zero_variance: leave_out`: groups without spread are in no mean. `per_prompt`: a prompt's answers have
lambda_t * raw / mean raw, 1 at most, and everything else has the mean of these.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, final

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
    subtract_noise: bool = False
    """Whether the variance that rewards state of their own errors is taken off a group's; what they do not state is
    not."""
    zero_variance: Literal["count", "leave_out"] = "count"
    """Whether groups without spread (none that the noise leaves, with `subtract_noise`) count as ones that call for a
    lambda of 0, or are left out of the means."""
    per_prompt: bool = False
    """Whether each prompt's answers have a lambda of their own, in proportion to how informative the prompt is."""


@final
class RolloutAdaptive(Gate):
    """Lambda from reward statistics, smoothed over steps."""

    Params = RolloutAdaptiveParams
    params: RolloutAdaptiveParams

    def __init__(self, params: RolloutAdaptiveParams) -> None:
        super().__init__(params)
        self._previous: float | None = None

    @property
    @override
    def needs_noise(self) -> bool:
        return self.params.subtract_noise

    @property
    @override
    def per_prompt(self) -> bool:
        return self.params.per_prompt

    @override
    def update(self, rewards: Tensor | None, *, progress: float, noise: Tensor | None = None) -> GateReading:
        """Absent rewards (NaN) count nowhere; a prompt with none is left out, and with no prompt left lambda stays.

        `factors`: groups (prompts that counted), held (1 when lambda stayed), and the means over prompts of
        best_reward, variance, direction, information and raw, which are missing when lambda stayed. With
        `subtract_noise` also what was observed_variance and noise of it, and unstated (share of rewards whose noise
        nobody states); with `leave_out` left_out (groups without spread); with `per_prompt` lowest and highest lambda.
        Before the first reward lambda is 0: there is nothing to prefer yet, and the average does not start.
        """
        if rewards is None:
            raise PluginError("the rollout_adaptive gate was updated without rewards", hint="give the stage rollouts")
        if self.params.subtract_noise and noise is None:
            raise PluginError("the rollout_adaptive gate was updated without the noise that it subtracts")
        present = ~rewards.isnan()
        kept = present.any(dim=1)
        found = self._factors(rewards[kept].double(), present[kept], None if noise is None else noise[kept].double())
        counted, said = self._counted(rewards[kept], found["variance"])
        said |= {"groups": float(counted.sum()), "held": float(not counted.any())}
        raw = torch.full((len(rewards),), torch.nan, dtype=torch.float64)
        if not counted.any():
            return self._reading(self._previous or 0.0, said, raw)
        means = {name: float(value[counted].mean()) for name, value in found.items()}
        mean, ema = means["raw"], self.params.ema
        self._previous = mean if self._previous is None else (1 - ema) * mean + ema * self._previous
        raw[kept.nonzero()[counted, 0]] = found["raw"][counted]
        return self._reading(self._previous, {**said, **means}, raw)

    def _factors(self, rewards: Tensor, present: Tensor, noise: Tensor | None) -> dict[str, Tensor]:
        """By name [P], what makes lambda; `rewards`, `present`, `noise` [P, G], at least one present in each row."""
        count = present.double().sum(dim=1)
        mean = torch.where(present, rewards, 0.0).sum(dim=1) / count
        variance = torch.where(present, rewards - mean[:, None], 0.0).square().sum(dim=1) / count
        best = torch.where(present, rewards, -torch.inf).amax(dim=1)
        said: dict[str, Tensor] = {}
        if noise is not None:
            unstated = present & noise.isnan()
            own = torch.where(present & ~unstated, noise, 0.0).sum(dim=1) / count
            said = {"observed_variance": variance, "noise": own, "unstated": unstated.sum(dim=1) / count}
            variance = (variance - (1 - 1 / count) * own).clamp(min=0)
        direction = torch.sigmoid(self.params.slope * (best - self.params.threshold))
        information = (variance / self.params.max_variance).clamp(0, 1)
        raw = self.params.ceiling * direction * information
        named = {"best_reward": best, "variance": variance, "direction": direction, "information": information}
        return {**named, "raw": raw, **said}

    def _counted(self, rewards: Tensor, variance: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Bool [P]: groups of `rewards` [P, G], with this `variance` [P], that the means are over; and the others."""
        if self.params.zero_variance == "count":
            return torch.ones(len(rewards), dtype=torch.bool), {}
        # Not by the variance alone, which is rounding where rewards are equal.
        differ = rewards.nan_to_num(nan=-torch.inf).amax(dim=1) > rewards.nan_to_num(nan=torch.inf).amin(dim=1)
        counted = differ & (variance > 0)
        return counted, {"left_out": float((~counted).sum())}

    def _reading(self, value: float, factors: dict[str, float], raw: Tensor) -> GateReading:
        """`value` for all, or by each prompt's `raw` [P], NaN for one that counts nowhere and so has `value`."""
        if not self.params.per_prompt:
            return GateReading(value, factors)
        mean = raw.nanmean()
        own = torch.where(raw.isnan() | ~(mean > 0), value, value * raw / mean).clamp(max=1)
        prompts: list[float] = own.tolist()
        factors |= {"lowest": min(prompts), "highest": max(prompts)}
        return GateReading(float(own.mean()), factors, tuple(prompts))

    def state_dict(self) -> dict[str, Any]:
        return {"previous": self._previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "previous" not in state:
            raise ResumeError(
                "the gate's state lacks `previous`", hint="resume with the recipe that wrote the checkpoint"
            )
        previous = state["previous"]
        self._previous = None if previous is None else float(previous)
