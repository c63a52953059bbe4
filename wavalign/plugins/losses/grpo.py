"""Raise what scored above its group, lower what scored below it.

With r_t = pi(y_t) / pi_old(y_t), or with `ratio: sequence` the geometric mean of a sequence's r_t in the place of each:

    clipped   -min(r_t A, clip(r_t, 1 - low, 1 + high) A)        a token beyond its bound gives no gradient
    cispo     -stop(clip(r_t, 1 - low, 1 + high)) A log pi(y_t)   every token gives one, by a bounded weight

`dual_clip` c keeps `clipped` at -c A at most where A < 0. Without a clip, `clipped` is -exp(log pi - stop(log pi)) A:
one strictly on-policy step, whose gradient is that of the plain policy gradient (REINFORCE). However it is, r_t is
logged: its mean, that of r - 1 - log r, and the largest |log r|.
Sources: PPO (arXiv 1707.06347, Eq. 7), GRPO (arXiv 2402.03300, Eq. 3), the clip with two bounds from DAPO (arXiv
2503.14476), the sequence ratio from GSPO (arXiv 2507.18071), `cispo` from MiniMax-M1 (arXiv 2506.13585), the dual clip
(arXiv 1912.09729); as the preference half of WavAlign's objective arXiv 2604.14932, Eq. 3.
"""

from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from wavalign.plugins.api import Loss, LossInputs, LossOutput, Regularizer
from wavalign.plugins.ops import KLEstimator, RatioLevel, clamped_ratio, ratio_of
from wavalign.schema.base import Params, Section

_LowerWidth = Annotated[float, Field(gt=0, lt=1)]
_UpperWidth = Annotated[float, Field(gt=0, le=1e6)]
_Coefficient = Annotated[float, Field(ge=0, le=1e6)]


@final
class KindCoefficients(Section):
    """One coefficient per token kind, each over that kind's tokens, whatever the term's own tokens are."""

    text: _Coefficient = 0.0
    """For text tokens and their end marker."""
    audio: _Coefficient = 0.0
    """For audio tokens."""
    marks: _Coefficient = 0.0
    """For the marks around audio."""


@final
class Pull(Section):
    """The pull towards the reference."""

    coefficient: _Coefficient | KindCoefficients = 0.0
    """A number acts on the term's own tokens; `{text: , audio: , marks: }` acts on each kind's tokens, also where the
    term's own selection leaves them out. 0 loads no reference."""
    estimator: KLEstimator = "k3"
    """How the divergence is estimated, see the `kl` loss."""
    unbiased: bool = False
    """Weigh each token's estimate by the ratio, see the `kl` loss."""


@final
class GRPOParams(Params):
    """Clip, ratio and pull towards the reference."""

    surrogate: Literal["clipped", "cispo"] = "clipped"
    """What a ratio beyond its bounds does: end the token's gradient, or weigh it no further."""
    clip: _LowerWidth | tuple[_LowerWidth | None, _UpperWidth | None] | None = 0.2
    """Width of the trust region, or its lower and upper width, of which null is no bound. As a whole null takes, of
    `clipped`, no ratio to the sampling policy at all, which is right only when every rollout is used for one update; in
    such a run r is 1 but for rounding and no width does anything. Of `cispo` it takes ratios as they are."""
    dual_clip: Annotated[float, Field(gt=1, le=1e6)] | None = None
    """Largest ratio that counts where the advantage is negative, above 1 + the upper width; of `clipped` alone."""
    ratio: RatioLevel = "token"
    """Whether each token has its own ratio or its sequence's geometric mean."""
    kl: Pull = Pull()
    """Pull towards the reference; it comes along as a term of its own, with this term's share and weight."""

    @model_validator(mode="after")
    def _dual_clip_is_outermost(self) -> "GRPOParams":
        if self.dual_clip is None:
            return self
        if self.surrogate != "clipped" or self.clip is None:
            raise ValueError("dual_clip bounds the clipped surrogate: set a clip, and no other surrogate")
        if self.dual_clip <= 1 + (self.widths[1] or 0.0):
            raise ValueError("dual_clip must lie above 1 + the upper width of the clip")
        return self

    @property
    def widths(self) -> tuple[float | None, float | None]:
        """Lower and upper width; None where there is no bound."""
        return self.clip if isinstance(self.clip, tuple) else (self.clip, self.clip)


@final
class GRPO(Loss):
    """Group-relative policy loss at every token, [B, S, T]."""

    Params = GRPOParams
    family = "rollouts"
    signal = "advantages"
    params: GRPOParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"advantages", "old_logprobs"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        advantages, params = inputs.column("advantages"), self.params
        log_ratio = self._log_ratio(inputs, inputs.column("old_logprobs"))
        moved, seen = log_ratio.detach(), log_ratio.detach().exp()
        metrics, maxima = {"ratio": seen, "kl_to_old": seen - 1 - moved}, {"max_log_ratio": moved.abs()}
        if params.surrogate == "clipped" and params.clip is None:
            ratio = self._log_ratio(inputs, inputs.logprobs.detach()).exp()
            return LossOutput(-ratio * advantages, metrics, maxima)
        low, high = params.widths
        below, above = (
            torch.zeros_like(seen) if low is None else (seen < 1 - low).to(seen.dtype),
            torch.zeros_like(seen) if high is None else (seen > 1 + high).to(seen.dtype),
        )
        if params.surrogate == "cispo":
            values = -clamped_ratio(seen, low, high) * advantages * inputs.logprobs
            return LossOutput(values, metrics | {"clip_low": below, "clip_high": above}, maxima)
        ratio = log_ratio.exp()
        if params.dual_clip is not None:
            ratio = torch.where(advantages < 0, ratio.clamp(max=params.dual_clip), ratio)
            metrics["clip_dual"] = ((seen > params.dual_clip) & (advantages < 0)).to(seen.dtype)
        values = -torch.minimum(ratio * advantages, clamped_ratio(ratio, low, high) * advantages)
        metrics |= {"clip_low": below * (advantages < 0), "clip_high": above * (advantages > 0)}
        return LossOutput(values, metrics, maxima)

    @property
    def inert_on_policy(self) -> str:
        return "" if self.params.clip is None else "clip"

    def regularizers(self) -> tuple[Regularizer, ...]:
        pull = self.params.kl
        params: dict[str, Any] = {"estimator": pull.estimator}
        if pull.unbiased:
            params |= {"unbiased": True, "ratio": self.params.ratio}
        if isinstance(pull.coefficient, float):
            if pull.coefficient == 0:
                return ()
            return (Regularizer("kl", "kl", params, tokens=None, weight=pull.coefficient),)
        return tuple(
            Regularizer(f"kl_{kind}", "kl", params, tokens={kind: 1.0}, weight=weight)
            for kind, weight in pull.coefficient
            if weight > 0
        )

    def _log_ratio(self, inputs: LossInputs, anchor: Tensor) -> Tensor:
        """Log-ratio [B, S, T] to `anchor`, per token or the sequence's mean at every token."""
        return ratio_of(inputs.logprobs - anchor, inputs.mask, inputs.segments, level=self.params.ratio)
