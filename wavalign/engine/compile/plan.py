"""What the compiler decides, as a record: frozen, printable, diffable, and the same after a round trip through JSON."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, final

from pydantic import Field

from wavalign.plugins.scalars import ScalarHead
from wavalign.schema.base import Section
from wavalign.schema.calibration import Correction
from wavalign.schema.component import Component
from wavalign.schema.environment import remember, secret_names
from wavalign.schema.runtime import RuntimeSection
from wavalign.schema.share import Share
from wavalign.schema.stage import Stage
from wavalign.schema.stage_kinds import KINDS, StageKind

FREE_RUNTIME = (
    "folder", "trackers", "report", "keep_checkpoints", "keep_every", "checkpoint_every", "reward_workers", "threads",
    "gradient_checkpointing", "clips", "reward_failure_budget", "log_rollouts_every", "dead_signal_after", "timeout",
    "trace_every", "async_checkpoints", "checkpoint_store", "non_finite_limit",
)  # fmt: skip
"""Keys of `runtime` that change nothing that is learned: a resumed run may have others."""
_BESIDE = ("fingerprint", "earlier", "accepted")
"""Keys of plan.json that are no part of the plan."""
Scope = Literal["collect", "update", "micro_batch"]
"""How often an operator runs: once a step, once an update of the weights, once a micro-batch."""


@final
class Cluster(Section):
    """What the plan is made for."""

    gpus: int = 0
    gpu_bytes: int = 0
    """Memory of the smallest GPU."""
    cores: int = 1
    host_bytes: int = 0
    nodes: int = 0
    """Machines that a hostfile, an allocation or a launcher names; 0 where none does."""
    slots: int = 0
    """Processes that they have room for, each; 0 where that is not said."""


@final
class Operator(Section):
    """A function from named values to named values."""

    name: str
    function: str
    """Which function of `step/operators.py` it is."""
    of: str = ""
    """What of the recipe it is made for, by name: a reward, a row family, a term; empty where there is one alone."""
    needs: tuple[str, ...] = ()
    """Values it reads."""
    gives: Mapping[str, str] = Field(default_factory=dict)
    """Values it makes that somebody needs, with their symbolic shapes."""
    scope: Scope
    place: Literal["device", "threads", "host"]
    """`threads` runs beside whatever does not need what it gives."""
    counts_as: Literal["rollout", "reward", "learn"] = "learn"
    """Which `..._seconds` of the metrics its time is part of."""
    detail: str = ""


@final
class Pruned(Section):
    """Something the recipe could have led to and does not need."""

    what: str
    why: str


@final
class Graph(Section):
    """A training step: operators in an order that respects `needs`, those of an inner scope between the outer ones."""

    operators: tuple[Operator, ...]
    pruned: tuple[Pruned, ...] = ()
    rollout_need: Literal["none", "text", "all"] = "none"
    """How much of an answer somebody asks for; `text` lets sampling stop when no text can follow, which changes neither
    the text nor what a term over text learns from."""

    def gives(self, value: str) -> bool:
        """Whether some operator gives this value."""
        return any(value in each.gives for each in self.operators)

    def made_for(self, function: str) -> tuple[str, ...]:
        """Names of the recipe's parts that a function is in the graph for, e.g. the rewards in use."""
        return tuple(each.of for each in self.operators if each.function == function)


@final
class TermPlan(Section):
    """A term with nothing left to decide."""

    name: str
    loss: Component
    mask: Component
    share: Share
    weight: float
    aggregation: Literal["token", "sequence", "fixed", "sum"]
    fixed_length: int | None
    """Tokens a row is taken to have under `fixed`; null under the others."""
    family: str
    """The rows it learns from."""
    unit: Literal["token", "sequence", "group"]
    whole_groups: bool = False
    """Whether the rows of a group must meet in one micro-batch."""
    needs: tuple[str, ...]
    members: tuple[int, ...] = Field(default=(), exclude_if=lambda members: not members)
    """Of a group, those it learns from; empty for all."""
    scalars: Mapping[str, Literal["token", "sequence"]] = Field(default_factory=dict, exclude_if=lambda own: not own)
    """Scalar outputs that are there for its loss, beside those that every stage could have."""
    signal: str = Field(default="", exclude_if=lambda signal: not signal)
    """A column of its needs: a row where that is 0 everywhere teaches nothing; empty where none is."""
    heads: Literal["own", "mtp"] = "own"
    brought_by: str = ""
    """The term whose loss brought this one along."""

    @property
    def leaves_out(self) -> bool:
        """Whether pairs, or rows of data, without all that it needs are left out and counted."""
        return self.unit != "token" and self.family != "rollouts"

    @property
    def lives(self) -> bool:
        """Whether it can move a weight: a constant factor of 0 switches a term off."""
        return self.weight != 0 and self.share != Share(constant=0.0, slope=0.0)

    def coefficient(self, gate: float | None) -> float:
        """share * weight at `gate`."""
        return self.share.value(gate) * self.weight


@final
class FamilySize(Section):
    """Rows of a data family in a step."""

    name: str
    groups: int
    """Dialogues a step, all processes."""
    groups_per_process: int


@final
class Geometry(Section):
    """A step in integers."""

    processes: int
    prompts: int
    """Prompts a step, all processes."""
    group_size: int
    prompts_per_process: int
    families: tuple[FamilySize, ...] = ()
    """Rows that come from data."""
    rows_per_process: int
    """Of a step; dialogues with several targets count as one here."""
    epochs: int = 1
    """Times that a step's rows are learned from."""
    mini_batches: int = 1
    """Parts, by groups, that an epoch is cut into, each with an update of its own."""
    micro_batch: int
    """Most rows of a forward on one process."""
    accumulation: int
    """Forwards of an update on one process, as planned; what is whole or longer may need more."""
    micro_batch_tokens: int | None = Field(default=None, exclude_if=lambda most: most is None)
    """Most tokens of a forward on one process, as the network sees them; null where rows alone are counted."""
    share_prompts: bool = False
    """Whether what a group's rows begin with goes through the network once."""
    packing: bool = False
    """Whether rows may stand behind one another."""
    skip_without_signal: bool = False
    """Whether answers that can teach nothing are left out of the forward."""

    @property
    def updates(self) -> int:
        """Updates of the weights in a step."""
        return self.epochs * self.mini_batches


@final
class MemoryRow(Section):
    """One use of a device's memory."""

    name: str
    bytes: int
    note: str = ""
    phase: Literal["held", "collect", "train", "learn", "update"] = "held"
    """`held` throughout, or only while answers are sampled (`collect`), while a micro-batch goes forward and backward
    (`learn`), from the end of the last backward pass until the weights have moved (`update`), or in both (`train`)."""


MARGIN = 0.1
"""Share of a device's memory that an estimate leaves alone before it says that a run fits: fragments of the allocator,
and what no row counts."""


@final
class Memory(Section):
    """Estimate for one device; what it assumes stands in the notes."""

    rows: tuple[MemoryRow, ...]
    capacity: int
    """Bytes there are; 0 where unknown."""

    @property
    def total(self) -> int:
        """Bytes of the fullest moment."""
        sums = {"held": 0, "collect": 0, "train": 0, "learn": 0, "update": 0}
        for row in self.rows:
            sums[row.phase] += row.bytes
        return sums["held"] + max(sums["collect"], sums["train"] + max(sums["learn"], sums["update"]))

    @property
    def fits(self) -> Literal["yes", "tight", "no"]:
        """Whether it fits: `tight` within `MARGIN` of the capacity; yes where that is unknown."""
        if not self.capacity or self.total <= (1 - MARGIN) * self.capacity:
            return "yes"
        return "tight" if self.total <= self.capacity else "no"


@final
class Warned(Section):
    """Something a recipe may do and a reader of its results should know."""

    path: str
    """Where in the recipe, dotted."""
    message: str
    hint: str = ""
    where: str = ""
    """File, line and column."""


@final
class StagePlan(Section):
    """A stage with every default filled in and every decision taken."""

    name: str
    first_step: int
    """Steps done before this stage."""
    stage: Stage
    """The stage's sections; component params are complete."""
    terms: tuple[TermPlan, ...] = ()
    scalars: tuple[ScalarHead, ...] = Field(default=(), exclude_if=lambda heads: not heads)
    """Trained beside the network and left out of its layout."""
    graph: Graph = Graph(operators=())
    geometry: Geometry | None = None
    memory: Memory | None = None
    deepspeed: Mapping[str, Any] | None = None
    warnings: tuple[Warned, ...] = ()
    corrections: Mapping[str, Correction] = Field(default_factory=dict, exclude_if=lambda found: not found)
    """By reward, what its calibration makes of its values."""

    @property
    def has_critic(self) -> bool:
        """Whether its scalar heads read a network of their own."""
        objective = self.stage.objective
        return bool(self.scalars) and objective is not None and objective.critic.type == "separate"

    @property
    def copies_reference(self) -> bool:
        """Whether that network is held a second time; with an adapter it is the policy with the adapter off."""
        return self.graph.gives("ref_logprobs") and self.stage.model.adapter is None

    @property
    def kind(self) -> StageKind:
        """What it reads, leaves and learns."""
        return KINDS[self.stage.type]

    @property
    def steps(self) -> int:
        return self.stage.steps if self.kind.learns else 0


@final
class Plan(Section):
    """Everything a run does, in the order it does it."""

    version: int = 1
    """Of this format."""
    name: str
    description: str = ""
    seed: int
    device: Literal["cpu", "cuda"]
    processes: int
    runtime: RuntimeSection
    plugins: tuple[str, ...] = ()
    plugin_digests: tuple[str, ...] = ()
    """SHA-256 of each plugin file, so that an edited plugin is another plan."""
    stages: tuple[StagePlan, ...]

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def nodes(self) -> int:
        """Machines."""
        return self.runtime.nodes if isinstance(self.runtime.nodes, int) else 1

    @property
    def processes_per_node(self) -> int:
        """Of `processes`, those on each machine."""
        return self.processes // self.nodes

    @property
    def fingerprint(self) -> str:
        """Equal for two plans exactly when a run of one may be resumed by the other."""
        content = learned(self.model_dump(mode="json"))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self, earlier: Sequence[str] = (), accepted: Collection[str] = ()) -> str:
        """The plan as text; `from_json` gives an equal plan.

        `earlier` are fingerprints that the same run had before, `accepted` what may have changed at its last resume.
        """
        content = self.model_dump(mode="json")
        beside = {"fingerprint": self.fingerprint, "earlier": list(earlier), "accepted": sorted(accepted)}
        return json.dumps({**content, **beside}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read `to_json`'s text."""
        return cls.from_content(json.loads(text))

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> "Plan":
        """The plan in the object that `to_json` wrote; raises pydantic's ValidationError."""
        remember(secret_names(content), os.environ)
        return cls.model_validate({key: value for key, value in content.items() if key not in _BESIDE})


def learned(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a plan's JSON decides what is learned; this is what a fingerprint is of and what a resume compares."""
    kept: dict[str, Any] = json.loads(json.dumps(content))
    for key in FREE_RUNTIME:
        kept["runtime"].pop(key, None)
    if kept["runtime"].pop("nodes", 1) != 1:  # on how many machines they are is free, how many they are is not
        kept["runtime"]["processes"] = kept["processes"]
    for key in ("description", *_BESIDE):
        kept.pop(key, None)
    for stage in kept["stages"]:
        stage.pop("warnings", None)
        sections = stage["stage"]
        if sections["objective"] is not None:
            sections["objective"].pop("terms")  # as written; `terms` beside it says what they come to
        for reward in sections["rewards"].values():
            reward.pop("timeout", None)
    return kept
