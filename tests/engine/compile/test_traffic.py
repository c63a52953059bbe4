"""Bytes between processes: the formula against what a hook on the collectives counts, on two ranks."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.distributed import run_ranks
from wavalign.engine.compile.adapter import WeightCounts
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster, Plan
from wavalign.engine.compile.traffic import Flow, step_traffic
from wavalign.engine.rank import run_rank
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.step import StepExecutor
from wavalign.schema.loading import load_recipe

HERE = Path(__file__).resolve().parents[3]
WEIGHTS = WeightCounts(frozen=0, trained=791_680)
"""Of the quickstart's model."""
SETTINGS = (
    "runtime.processes=2", "runtime.checkpoint_every=0", "evaluation.metrics={}", "data.evaluation={}", "steps=2",
    "runtime.threads=1", "runtime.trackers=[]", "rollout.max_new_tokens=16", "runtime.report=false",
    "batch.skip_without_signal=false",
)  # fmt: skip
SENT = ("all_reduce", "all_gather_into_tensor", "reduce_scatter_tensor")


def planned(*settings: str) -> Plan:
    """The quickstart on two ranks, two steps without evaluation."""
    recipe = load_recipe(str(HERE / "recipes" / "quickstart.yaml"), (*SETTINGS, *settings))
    return compile_recipe(recipe, Cluster(cores=2, host_bytes=8 << 30))


def counted(world: World, plan: str, folder: str) -> dict[str, int]:
    """Run `plan` and give the bytes that its last step hands to each collective on this rank."""
    found: Counter[str] = Counter()
    steps: list[Counter[str]] = []
    for name in SENT:
        _hook(name, found)
    step = StepExecutor.step

    def watched(self: StepExecutor, index: int) -> Any:
        before = Counter(found)
        result = step(self, index)
        steps.append(found - before)
        return result

    StepExecutor.step = watched  # type: ignore[method-assign]
    world.close()  # a run joins by itself
    run_rank(RunFolder(Path(folder)), plan=Plan.from_json(plan), resume=False)
    if dist.is_initialized():
        dist.destroy_process_group()
    world.size = 1
    return dict(steps[-1])


def _hook(name: str, found: Counter[str]) -> None:
    """Count the bytes of the whole tensor that each call of a collective is about."""
    own = getattr(dist, name)

    def call(*given: torch.Tensor, **named: Any) -> Any:
        tensors = [each for each in (*given, *named.values()) if isinstance(each, torch.Tensor)]
        whole = max(tensors, key=torch.Tensor.numel)  # of input and output the one that has all parts
        found[name] += whole.numel() * whole.element_size()
        return own(*given, **named)

    setattr(dist, name, call)


NAMES = {"all_reduce": "all_reduce", "all_gather": "all_gather_into_tensor", "reduce_scatter": "reduce_scatter_tensor"}
CASES = {
    "plain": ("runtime.engine={type: plain}", "batch.micro_batch=24"),
    "zero 0": ("runtime.engine={type: deepspeed, zero: 0}", "batch.micro_batch=24"),
    "zero 1": ("runtime.engine={type: deepspeed, zero: 1}", "batch.micro_batch=24"),
    "zero 2": ("runtime.engine={type: deepspeed, zero: 2}", "batch.micro_batch=24"),
    "zero 3": ("runtime.engine={type: deepspeed, zero: 3}",),
    "zero 3, micro-batches": ("runtime.engine={type: deepspeed, zero: 3}", "batch.micro_batch=24"),
    "zero 3, mini-batches": ("runtime.engine={type: deepspeed, zero: 3}", "batch.mini_batches=2"),
}
QUICK = ("zero 2",)


@pytest.mark.parametrize("case", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in CASES])
def test_the_formula_is_what_goes_between_two_ranks(tmp_path: Path, case: str) -> None:
    plan = planned(*CASES[case])
    (stage,) = plan.stages
    expected: Counter[str] = Counter()
    for flow in step_traffic(stage, plan.runtime, WEIGHTS):
        expected[NAMES[flow.collective]] += flow.payload
    for each in run_ranks(counted, 2, plan.to_json(), str(tmp_path)):
        assert {name for name, size in each.items() if size > 20_000} == {*expected}
        for name, size in expected.items():
            assert each[name] == pytest.approx(size, rel=0.05), name


@pytest.mark.slow
def test_weights_that_cannot_stay_whole_are_gathered_up_to_twice(tmp_path: Path) -> None:
    """With no room for whole weights: the last layers forward are still whole when the backward pass begins."""
    options = "{stage3_max_live_parameters: 1, stage3_max_reuse_distance: 1, stage3_param_persistence_threshold: 0}"
    plan = planned(f"runtime.engine={{type: deepspeed, zero: 3, options: {options}}}", "batch.micro_batch=24")
    flows = step_traffic(plan.stages[0], plan.runtime, WEIGHTS)
    expected = sum(flow.payload for flow in flows if flow.collective == "all_gather")
    assert {flow.name: flow.times for flow in flows}["weights in use"] == 6
    for each in run_ranks(counted, 2, plan.to_json(), str(tmp_path)):
        assert 0.8 * expected < each["all_gather_into_tensor"] <= expected


def test_a_rings_bytes_by_hand() -> None:
    """Of 800 bytes on 8 ranks each sends 7 parts of 100 once to gather, twice to reduce; three times a step."""
    assert Flow("weights", "all_gather", 800, 3).sent(8) == 2100
    assert Flow("gradients", "all_reduce", 800, 3).sent(8) == 4200


def test_one_process_sends_nothing() -> None:
    plan = planned("runtime.processes=1")
    assert step_traffic(plan.stages[0], plan.runtime, WEIGHTS) == ()


def test_large_weights_are_gathered_twice_a_micro_batch() -> None:
    """8 GPUs, ZeRO 3 in bf16, 7 G weights: 14 GB forward and again backward, where small ones stay whole."""
    plan = planned("runtime.engine={type: deepspeed, zero: 3}", "runtime.precision=bf16")
    large = step_traffic(plan.stages[0], plan.runtime, WeightCounts(frozen=0, trained=7 * 10**9))
    assert {flow.name: (flow.bytes, flow.times) for flow in large} == {
        "gradients": (28 * 10**9, 1), "weights in use": (14 * 10**9, 2), "weights that sample": (14 * 10**9, 2),
    }  # fmt: skip
