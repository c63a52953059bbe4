"""What becomes of rewards and log-probs: masks, advantages, gates and losses."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from wavalign.errors import PluginError
from wavalign.plugins.api.base import Plugin, Remembers
from wavalign.plugins.api.steps import StepInputs, StepOutput
from wavalign.plugins.ops import PADDED, Segments


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


@final
@dataclass(frozen=True, slots=True)
class AdvantageInputs:
    """What a step's answers were worth, of all ranks in their order. Prompts P, group G."""

    rewards: Tensor
    """[P, G] float64: the total; NaN where absent."""
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    """By reward [P, G] float64 on the common scale; NaN where it has no value or the answer has no total."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By reward, how much it counts beside the others; the total is the mean of the parts by these."""


@final
@dataclass(frozen=True, slots=True)
class AdvantageOutput:
    """How much better than expected, and where that can be said."""

    values: Tensor
    """[P, G]; 0 where not valid."""
    valid: Tensor
    """Bool [P, G]: answers to learn from; never one whose reward is absent."""


class Advantage(Remembers):
    """Rewards to advantages: of whole answers, by `compute`, or of their steps, by `compute_steps`.

    Sees the answers of all ranks, so that what it remembers is equal on all of them.
    """

    kind = "advantage"
    unit: ClassVar[Literal["answer", "token"]] = "answer"
    """What it works on, and so which of the two is called."""

    def __init__(self, params: Any) -> None:
        self.params = params

    @property
    def needs(self) -> frozenset[str]:
        """What it reads beside rewards; of unit `token`: `old_values`, `ref_logprobs`."""
        return frozenset()

    @property
    def compares_answers(self) -> bool:
        """Whether answers to one prompt are compared with one another, so that there must be two or more."""
        return True

    def compute(self, inputs: AdvantageInputs) -> AdvantageOutput:
        """Advantages of every answer of the step."""
        raise PluginError(f"its unit is {self.unit}, and it has no `compute`")

    def compute_steps(self, inputs: StepInputs) -> StepOutput:
        """Advantages, returns and validity of every step of the answers of all ranks."""
        raise PluginError(f"its unit is {self.unit}, and it has no `compute_steps`")


@final
@dataclass(frozen=True, slots=True)
class GateReading:
    """A gate's value this step and the factors that made it, for the report."""

    value: float
    """What a share is of where it is of no prompt in particular: rows of data, the log."""
    factors: Mapping[str, float] = field(default_factory=dict)
    prompts: Sequence[float] = ()
    """[P] a value for each prompt of all ranks, in their order, where the gate is `per_prompt`; `value` should be their
    mean, so that shares of `gate` and `1 - gate` add up to 1 over a step."""


class Gate(Remembers):
    """The moving share between terms. Sees rewards of all ranks, so that it is equal on all of them."""

    kind = "gate"
    needs_rewards: ClassVar[bool] = True

    def __init__(self, params: Any) -> None:
        self.params = params

    @property
    def needs_noise(self) -> bool:
        """Whether it reads the variance of the rewards' own errors; `update` is then called with `noise`."""
        return False

    @property
    def per_prompt(self) -> bool:
        """Whether its readings have a value for each prompt (`GateReading.prompts`), which sampled answers follow."""
        return False

    @abstractmethod
    def update(self, rewards: Tensor | None, *, progress: float, noise: Tensor | None = None) -> GateReading:
        """Take a step's rewards and advance the state.

        `rewards` [P, G] float64 of all ranks, NaN where absent; `progress` 0..1 of the stage; `noise` [P, G] float64:
        the variance of each reward's own error, NaN where nobody states one, None unless `needs_noise`. A gate that
        does not need it may leave that argument out.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What must be remembered for an exact resume (JSON values)."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""


@final
@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a loss is given: rows of its family in one micro-batch. Rows B, streams S, tokens T.

    Positions outside the term's mask hold arbitrary finite values: the engine gives them weight 0.
    """

    logprobs: Tensor
    """[B, S, T] float32 of the policy, with gradient."""
    mask: Tensor
    """Bool [B, S, T]: positions the term weighs."""
    group: Tensor
    """[B] int64 from 0: rows with one number belong together, e.g. the answers to a prompt."""
    member: Tensor
    """[B] int64: which of its group a row is, e.g. 0 the chosen and 1 the rejected one of a pair."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, those that `needs` names; see `column`."""
    segments: Segments = PADDED
    """Sums and means over the tokens of each row, however rows are laid out."""

    def column(self, name: str) -> Tensor:
        """A column that the loss's `needs` names: [B, S, T], or [B, 1, 1] where it is one number a row.

        Of the scalar outputs of the policy `values` are [B, T] and `row_values` [B], and those that a loss has of its
        own either. PluginError for one that did not come.
        """
        if name not in self.columns:
            raise PluginError(
                f"a loss reads `{name}`, which its `needs` does not name",
                hint=f"add `{name}` to what `needs` gives, so that the engine computes it",
            )
        return self.columns[name]

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return int(self.group.max()) + 1 if len(self.group) else 0


@final
@dataclass(frozen=True, slots=True)
class LossOutput:
    """Unreduced values and, of the same shape, what is worth logging."""

    values: Tensor
    """[B, S, T] for unit `token`, [B] for `sequence`, [groups] for `group`."""
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
    members: tuple[int, ...] = ()
    """Members of a group that it is of, e.g. (0,) for the chosen one of a pair; empty for those of the parent term."""


class Loss(Plugin):
    """Values per token, sequence or group. Knows no mask, weight, reduction, scaling or step number."""

    kind = "loss"
    unit: ClassVar[Literal["token", "sequence", "group"]] = "token"
    """What a value is of. Of a `group` all rows are in one micro-batch, and count where all of them are valid."""
    family: ClassVar[str]
    """Rows the loss is made for, e.g. `rollouts` or `demonstrations`; a term may name another family."""
    reads_logprobs: ClassVar[bool] = True
    """Whether it looks at `logprobs`; those that nobody looks at are not computed, and are 0."""
    whole_groups: ClassVar[bool] = False
    """Whether the rows of a group must meet in one micro-batch also where the unit is another."""
    members: ClassVar[tuple[int, ...]] = ()
    """Members of a group that it is given, e.g. (0, 1) for the two sides of a pair; empty for all there are. Where the
    unit is the group, one in which a member is not there or holds no token of the term is left out and counted."""
    signal: ClassVar[str] = ""
    """One of its needs: where that is 0 in all of a row, the row's values and their gradient are 0, so that it need not
    be run. Empty where there is no such thing. Of units `token` and `sequence`."""

    def __init__(self, params: Any) -> None:
        self.params = params

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Names of the columns it reads beyond `logprobs`.

        Of all families `ref_logprobs` and the policy's scalar outputs `values` and `row_values`; of rollouts also
        `old_logprobs`, `advantages` and `rewards`.
        """

    @property
    def scalars(self) -> Mapping[str, Literal["token", "sequence"]]:
        """Scalar outputs of its own among what it needs: by name, whether a number is of a token or of a row.

        Each is a head of its own beside the policy; losses that name the same one share it.
        """
        return {}

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
