"""Build the toy stage in this process and step through it."""

from typing import Any

from torch import Tensor

from wavalign.engine.compile.plan import Plan
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.evaluation import Evaluator
from wavalign.engine.state.distributed import World
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.step import StepExecutor

VARYING = ("_seconds", "_per_second", "_bytes", "mfu", "forward_tokens", "forward_share")
"""How a metric's name ends that hangs on the time, or on how a step is cut."""


def silent(what: str, done: int, total: int) -> None:
    """Progress nobody watches."""


def live_stage(plan: Plan, world: World | None = None) -> LiveStage:
    """The first stage of a plan."""
    world = world if world is not None else World.single("cpu")
    return Builder(plan, world, silent).stage(plan.stages[0], None)


def evaluated_stage(plan: Plan, world: World | None = None) -> tuple[LiveStage, Evaluator]:
    """The first stage of a plan, and what measures it."""
    builder = Builder(plan, world if world is not None else World.single("cpu"), silent)
    live = builder.stage(plan.stages[0], None)
    evaluator = builder.evaluator(live.plan, live.roller)
    live.closing.append(evaluator.close)
    return live, evaluator


def train(
    plan: Plan, world: World | None = None, *, steps: int = 3
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Metrics of each step without times, and the weights after the last."""
    live = live_stage(plan, world)
    executor = StepExecutor(live)
    lines = [dict(executor.step(index).metrics) for index in range(steps)]
    weights = {name: each.detach().clone() for name, each in live.backend.policy.named_parameters()}
    live.close()
    return [{k: v for k, v in line.items() if not k.endswith(VARYING)} for line in lines], weights


def train_rank(world: World, plan: str) -> tuple[Any, Any]:
    """`train` on one rank of several; the plan as text."""
    return train(Plan.from_json(plan), world)
