"""What becomes of rewards and log-probs: masks, advantages, gates and losses."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from wavalign.plugins.api.base import Plugin


class Mask(Plugin):
    """Weights over positions, from roles alone."""

    kind = "mask"

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def weights(self, roles: Tensor) -> Tensor:
        """Float32 weights [B, S, T] >= 0 of `roles` [B, S, T]; 0 for PAD, PROMPT and FORCED."""

    @property
    def text_alone(self) -> bool:
        """Whether weights are 0 off TEXT and TEXT_END and do not depend on what stands behind the text.

        Only where every mask says so, sampling may stop when no text can follow.
        """
        return False


class Advantage(Plugin):
    """Rewards of a group to advantages."""

    kind = "advantage"

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def compute(self, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """`rewards` [P, G] float64, NaN where absent -> advantages [P, G] (0 where absent), validity bool [P, G]."""


@final
@dataclass(frozen=True, slots=True)
class GateReading:
    """A gate's value this step and the factors that made it, for the report."""

    value: float
    factors: Mapping[str, float] = field(default_factory=dict)


class Gate(Plugin):
    """The moving share between terms. Sees rewards of all ranks, so that it is equal on all of them."""

    kind = "gate"
    needs_rewards: ClassVar[bool] = True

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def update(self, rewards: Tensor | None, *, progress: float) -> GateReading:
        """`rewards` [P, G] float64 of all ranks, NaN where absent; `progress` 0..1 of the stage. Advances the state."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What must be remembered for an exact resume (JSON values)."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""


@final
@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a loss may ask for in `needs`; a field it did not ask for is None.

    Positions outside the term's mask hold arbitrary finite values: the engine gives them weight 0.
    """

    logprobs: Tensor
    """[B, S, T] float32 of the policy, with gradient."""
    old_logprobs: Tensor | None = None
    """[B, S, T] of the distribution that was sampled."""
    ref_logprobs: Tensor | None = None
    """[B, S, T] of the reference."""
    advantages: Tensor | None = None
    """[B, S, T] or broadcastable."""
    mask: Tensor | None = None
    """Bool [B, S, T] of scored positions, for losses whose unit is the sequence (`needs: mask`)."""


@final
@dataclass(frozen=True, slots=True)
class LossOutput:
    """Unreduced values and, of the same shape, what is worth logging."""

    values: Tensor
    """[B, S, T] for unit `token`, [B] for unit `sequence`."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Logged by their means over the term's tokens."""
    maxima: Mapping[str, Tensor] = field(default_factory=dict)
    """Logged by their largest value among the term's tokens."""


@final
@dataclass(frozen=True, slots=True)
class Regularizer:
    """A further term a loss brings along: its own loss, over its own tokens."""

    name: str
    loss: str
    """Type of a loss plugin."""
    params: Mapping[str, Any]
    tokens: Any
    """Token selection as in a recipe; None means the tokens of the parent term."""
    weight: float


class Loss(Plugin):
    """Values per token or sequence. Knows no mask, weight, reduction, scaling or step number."""

    kind = "loss"
    unit: ClassVar[Literal["token", "sequence"]] = "token"
    rows: ClassVar[Literal["rollouts", "demonstrations"]]
    """Which rows the loss is made for."""

    def __init__(self, params: Any) -> None:
        self.params = params

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Subset of {"old_logprobs", "ref_logprobs", "advantages", "mask"} beyond `logprobs`."""

    @abstractmethod
    def compute(self, inputs: LossInputs) -> LossOutput:
        """Unreduced values; lower is better."""

    def regularizers(self) -> tuple[Regularizer, ...]:
        """Terms that come along with this one; none unless a loss says so."""
        return ()

    @property
    def inert_on_policy(self) -> str:
        """Options that do nothing while every batch of rollouts is used for one update; the plan says so."""
        return ""
