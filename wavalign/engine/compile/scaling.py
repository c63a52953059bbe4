"""Time of a step, bytes between processes and checkpoints on a cluster; docs/scaling.md derives the formulas.

Nothing is taken to overlap, and rows are taken to be as long as the longest that was seen: times are upper bounds by
the stated rates. N weights, T tokens of a process: a forward pass takes 2 N T operations, a backward pass 4 N T.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from wavalign.engine.compile.adapter import WeightCounts
from wavalign.engine.compile.goodput import Faults, mean_time_between_failures
from wavalign.engine.compile.machine import GIGA, Machine
from wavalign.engine.compile.memory_sizes import RowSizes
from wavalign.engine.compile.plan import Geometry, StagePlan
from wavalign.engine.compile.traffic import Flow, step_traffic
from wavalign.schema.runtime import RuntimeSection

FORWARD, BACKWARD = 2, 4
"""Operations a weight and token."""


@final
@dataclass(frozen=True, slots=True)
class Scaled:
    """A stage that learns, on a cluster."""

    flows: tuple[Flow, ...]
    seconds: Mapping[str, float]
    """Of a step, by what it does."""
    checkpoint_bytes: int
    faults: Faults
    processes: int

    @property
    def step(self) -> float:
        """Seconds."""
        return sum(self.seconds.values())

    @property
    def checkpoint_every(self) -> int:
        """Steps between two checkpoints with the best goodput."""
        return self.faults.steps_between(self.step)

    @property
    def goodput(self) -> float:
        """Share of time that trains with that interval."""
        return self.faults.goodput(self.checkpoint_every * self.step)


def scaled(
    stage: StagePlan, runtime: RuntimeSection, *, weights: WeightCounts, row: RowSizes, machine: Machine
) -> Scaled | None:
    """What a stage takes on `machine`; None for one that does not learn."""
    if stage.geometry is None:
        return None
    flows = step_traffic(stage, runtime, weights)
    seconds = _compute(stage, runtime, weights, row, machine)
    seconds["sending"] = sum(flow.sent(machine.processes) for flow in flows) / machine.wire
    half, zero = runtime.precision != "float32", runtime.engine.type == "deepspeed" and runtime.engine.zero > 0
    # Float32 weights (masters) and two moments, and beside masters the bfloat16 weights.
    size = 12 * weights.trainable + (2 * weights.held if half and zero else 0)
    writers = machine.nodes if zero else 1
    written = size / (writers * machine.store * GIGA)
    mean_time = mean_time_between_failures(machine.nodes, machine.failures)
    return Scaled(flows, seconds, size, Faults(mean_time, written, machine.restart), machine.processes)


def _compute(
    stage: StagePlan, runtime: RuntimeSection, weights: WeightCounts, row: RowSizes, machine: Machine
) -> dict[str, float]:
    """Seconds on one device, by what is done."""
    assert stage.geometry is not None
    cut, count = stage.geometry, weights.held
    rate = machine.tflops * 1e12 * machine.utilisation
    seconds = {}
    if stage.graph.gives("rollouts"):
        answers = cut.prompts_per_process * cut.group_size
        width = 4 if runtime.precision == "float32" else 2
        prefill = FORWARD * count * cut.prompts_per_process * row.prompt / rate
        # A token of all answers takes as long as reading the weights once, or as computing where there are many.
        token = max(width * count / (machine.memory * GIGA), FORWARD * count * answers / rate)
        seconds["sampling"] = prefill + row.sampled * token
    tokens = _tokens(cut, row)
    if stage.graph.gives("ref_logprobs"):
        seconds["reference"] = FORWARD * count * tokens / rate
    passes = FORWARD + BACKWARD + (FORWARD if runtime.gradient_checkpointing else 0)
    seconds["learning"] = cut.epochs * passes * count * tokens / rate
    return seconds


def _tokens(cut: Geometry, row: RowSizes) -> int:
    """That the network is given of one process's rows."""
    prompts = cut.rows_per_process
    if cut.share_prompts and cut.group_size:
        prompts -= cut.prompts_per_process * (cut.group_size - 1)
    return prompts * row.prompt + cut.rows_per_process * row.answer
