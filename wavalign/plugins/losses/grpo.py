"""Raise what scored above its group, lower what scored below it.

L_t = -min(r_t A, clip(r_t, 1 - low, 1 + high) A) with r_t = pi(y_t) / pi_old(y_t); `ratio: sequence` puts the geometric
mean of a sequence's r_t in the place of each. Without a clip L_t = -exp(log pi - stop(log pi)) A: one strictly
on-policy step, whose gradient is that of the plain policy gradient. With either, r_t is logged: its mean, that of
r - 1 - log r, and the largest |log r|.
Sources: GRPO (arXiv 2402.03300, Eq. 3), the clip with two bounds from DAPO (arXiv 2503.14476), the sequence ratio from
GSPO (arXiv 2507.18071); as the preference half of WavAlign's objective arXiv 2604.14932, Eq. 3.
"""

from typing import Annotated, Literal, final

from pydantic import Field
from torch import Tensor

from wavalign.plugins.api import Loss, LossInputs, LossOutput, Regularizer
from wavalign.plugins.ops import KLEstimator, clipped_surrogate
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


@final
class GRPOParams(Params):
    """Clip, ratio and pull towards the reference."""

    clip: _LowerWidth | tuple[_LowerWidth, _UpperWidth] | None = 0.2
    """Width of the trust region, or its lower and upper width; null takes no ratio to the sampling policy at all,
    which is right only when every rollout is used for one update. In such a run r is 1 but for rounding and no width
    does anything."""
    ratio: Literal["token", "sequence"] = "token"
    """Whether each token has its own ratio or its sequence's geometric mean."""
    kl: Pull = Pull()
    """Pull towards the reference; it comes along as a term of its own, with this term's share and weight."""


@final
class GRPO(Loss):
    """Group-relative policy loss at every token, [B, S, T]."""

    Params = GRPOParams
    family = "rollouts"
    params: GRPOParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"advantages", "old_logprobs"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        advantages = inputs.column("advantages")
        clip = self.params.clip
        log_ratio = self._log_ratio(inputs, inputs.column("old_logprobs"))
        moved, seen = log_ratio.detach(), log_ratio.detach().exp()
        metrics, maxima = {"ratio": seen, "kl_to_old": seen - 1 - moved}, {"max_log_ratio": moved.abs()}
        if clip is None:
            ratio = self._log_ratio(inputs, inputs.logprobs.detach()).exp()
            return LossOutput(-ratio * advantages, metrics, maxima)
        low, high = clip if isinstance(clip, tuple) else (clip, clip)
        values = -clipped_surrogate(log_ratio.exp(), advantages, low, high)
        metrics |= {
            "clip_low": ((seen < 1 - low) & (advantages < 0)).to(seen.dtype),
            "clip_high": ((seen > 1 + high) & (advantages > 0)).to(seen.dtype),
        }
        return LossOutput(values, metrics, maxima)

    @property
    def inert_on_policy(self) -> str:
        return "" if self.params.clip is None else "clip"

    def regularizers(self) -> tuple[Regularizer, ...]:
        pull = self.params.kl
        params = {"estimator": pull.estimator}
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
        log_ratio = inputs.logprobs - anchor
        if self.params.ratio == "token":
            return log_ratio
        mean = inputs.segments.mean(log_ratio, inputs.mask)
        return inputs.segments.spread(mean, log_ratio).expand_as(log_ratio)
