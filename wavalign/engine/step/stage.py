"""A stage's live objects, made by the builder and used by the operators of its steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, final

from wavalign.engine.backends.base import Backend
from wavalign.engine.compile.model_flops import TokenFlops
from wavalign.engine.compile.plan import Geometry, StagePlan
from wavalign.engine.contracts.origins import close_all
from wavalign.engine.feeding.feeds import Feed
from wavalign.engine.models.reference import Reference
from wavalign.engine.models.reference_cache import ReferenceCache
from wavalign.engine.state.distributed import World
from wavalign.engine.state.remembering import Remembered
from wavalign.engine.step.ahead import InFlight
from wavalign.engine.step.cutting import Cutter, Limits
from wavalign.engine.step.dead_signal import SignalWatch
from wavalign.engine.step.memory_watch import MemoryWatch
from wavalign.engine.step.reward_pool import RewardPool
from wavalign.engine.step.rollouts import Roller
from wavalign.engine.step.selection import Selection
from wavalign.engine.step.skipping import Skipped, SkipWatch
from wavalign.engine.step.terms import LiveTerm
from wavalign.plugins.api import Advantage, Architecture, Gate, Provider, SamplingOptions
from wavalign.schema.optim import OptimSection

T = TypeVar("T")


def _nothing() -> None:
    """Nobody asked to be called."""


def _not_kept(_: Skipped) -> Path | None:
    """Nobody keeps it."""
    return None


@final
@dataclass(slots=True)
class WeightsClock:
    """How far the weights are, for those who write checkpoints while a step goes on."""

    weights_of: int | None = 0
    """Steps that the weights have seen; None while they change."""
    before_update: Callable[[], None] = _nothing
    """Called on every rank when the first gradients of a step are complete and the weights have not moved."""
    skipped: Callable[[Skipped], Path | None] = _not_kept
    """Called on every rank where an update is skipped; gives where it is kept."""
    together: bool = False
    """Whether the error that a step raised was raised on every rank."""


def there(part: T | None) -> T:
    """A part that the builder made because an operator of the plan wants it."""
    if part is None:
        raise RuntimeError("the plan has an operator whose part was not built")
    return part


@final
@dataclass(frozen=True, slots=True)
class StepSettings:
    """What the recipe says of a stage's steps, as plain numbers and names."""

    stage: str
    """Its name."""
    steps: int
    seed: int
    """Of the run."""
    geometry: Geometry
    sampling: SamplingOptions
    temperatures: tuple[float, ...]
    """[S] that rollouts are sampled at."""
    truncated: str
    """What an answer is worth that was cut off."""
    importance_cap: float
    resample_limit: int
    """Rounds of further prompts for groups without spread at most; 0 where they stay."""
    reward_failure_budget: float
    most_rows: int | None
    """Rows of a micro-batch at most, where a larger one did not fit into memory."""
    dropout: bool
    """Whether the network drops anything while it learns."""
    optim: OptimSection
    flops: TokenFlops | None = None
    """Operations that a token of the stage's rows costs."""
    peak: float | None = None
    """Operations a second of one device; None where its maker does not say."""

    @property
    def limits(self) -> Limits:
        """What one forward may hold."""
        cut = self.geometry
        rows = cut.micro_batch if self.most_rows is None else min(cut.micro_batch, self.most_rows)
        return Limits(rows, cut.micro_batch_tokens, together=cut.share_prompts)

    def where(self, index: int) -> str:
        """Where step `index` (from 0) is, in words."""
        return f"step {index + 1} of stage '{self.stage}'"


@final
@dataclass(frozen=True, slots=True)
class LiveStage:
    """Everything a stage's steps touch."""

    plan: StagePlan
    settings: StepSettings
    world: World
    architecture: Architecture
    backend: Backend
    reference: Reference | None
    reference_cache: ReferenceCache | None
    """Where there are rows of data that it scores."""
    roller: Roller
    provider: Provider
    feeds: Mapping[str, Feed]
    """By heading: `prompts`, and the families that come from data."""
    rewards: RewardPool
    advantage: Advantage | None
    gate: Gate | None
    terms: Sequence[LiveTerm]
    selection: Selection
    cutter: Cutter
    signal: SignalWatch
    skips: SkipWatch
    remembered: Remembered
    """All of it that has a state."""
    in_flight: InFlight | None = None
    """Where the next step's prompts are answered while rewards score."""
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    clock: WeightsClock = field(default_factory=WeightsClock)
    closing: list[Callable[[], None]] = field(default_factory=list)
    """What else is to be freed with it."""

    def close(self) -> None:
        """Free threads, processes and files."""
        close_all((self.rewards.close, *self.closing, self.provider.close, self.backend.close))

    @property
    def referring(self) -> frozenset[str]:
        """Families of which some term needs the reference's log-probs."""
        return frozenset(term.plan.family for term in self.terms if "ref_logprobs" in term.needs)

    def share(self, count: int) -> slice:
        """This rank's part of `count` dialogues of a step."""
        each = count // self.world.size
        return slice(self.world.rank * each, (self.world.rank + 1) * each)

    def term(self, name: str) -> LiveTerm:
        """The term of that name."""
        return next(term for term in self.terms if term.plan.name == name)
