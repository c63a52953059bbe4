"""Bytes between processes in a training step, by what is sent; docs/scaling.md derives them.

Measured by a hook on the collectives they agree within 5 % (tests/engine/compile/test_traffic.py). Not counted: what
does not grow with the network, some 50 kB a step (random states, counts, rewards).
"""

from dataclasses import dataclass
from typing import Literal, final

from wavalign.engine.compile.adapter import WeightCounts
from wavalign.engine.compile.memory import live_parameters
from wavalign.engine.compile.plan import StagePlan
from wavalign.schema.runtime import RuntimeSection

Collective = Literal["all_reduce", "all_gather", "reduce_scatter"]
_WAYS = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
"""How often a ring sends every part but one's own."""


@final
@dataclass(frozen=True, slots=True)
class Flow:
    """Something that goes between all processes."""

    name: str
    collective: Collective
    bytes: int
    """Of the whole tensor, once."""
    times: int
    """A step."""
    note: str = ""

    @property
    def payload(self) -> int:
        """Bytes that a step hands to the collective on one process."""
        return self.bytes * self.times

    def sent(self, processes: int) -> int:
        """Bytes that each process sends in a step, in a ring."""
        return _WAYS[self.collective] * (processes - 1) * self.payload // processes


def step_traffic(stage: StagePlan, runtime: RuntimeSection, weights: WeightCounts) -> tuple[Flow, ...]:
    """What a step of a stage that learns sends between its processes; nothing where there is one."""
    cut = stage.geometry
    if cut is None or cut.processes == 1:
        return ()
    zero = runtime.engine.zero if runtime.engine.type == "deepspeed" else 0
    width = 2 if runtime.precision != "float32" and zero else 4
    passes = cut.updates * cut.accumulation
    trained = 4 * (weights.trainable + (weights.critic_trained if stage.has_critic else 0))
    if zero < 2:
        flows = [Flow("gradients", "all_reduce", trained, cut.updates, "float32, once an update")]
    elif zero == 2:
        flows = [Flow("gradients", "all_reduce", trained, passes, "float32, once a micro-batch")]
    else:
        flows = [Flow("gradients", "reduce_scatter", trained, passes, "float32, once a micro-batch")]
    if zero in (1, 2):
        size = width * weights.trainable
        flows.append(Flow("updated weights", "all_gather", size, cut.updates, "once an update"))
    if zero == 3:
        flows += _gathered(stage, weights, width=width, passes=passes)
    return tuple(flows)


def _gathered(stage: StagePlan, weights: WeightCounts, *, width: int, passes: int) -> list[Flow]:
    """Weights that lie in parts, made whole where they are used."""
    size = width * weights.held
    # As far as they fit, weights stay whole from the forward pass to the backward pass.
    stays = weights.held <= live_parameters(stage)
    often, note = (passes, "once") if stays else (2 * passes, "forward and backward")
    flows = [Flow("weights in use", "all_gather", size, often, f"{note} a micro-batch")]
    if stage.graph.gives("rollouts"):
        flows.append(Flow("weights that sample", "all_gather", size, 2, "to sample, and again behind it"))
    return flows
