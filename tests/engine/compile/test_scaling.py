"""A machine as a person states it, and what a step takes on it, by hand."""

from pathlib import Path

import pytest

from wavalign.engine.compile.adapter import WeightCounts
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.machine import Machine, parse_machine
from wavalign.engine.compile.memory_sizes import RowSizes
from wavalign.engine.compile.plan import Plan
from wavalign.engine.compile.scaling import Scaled, scaled
from wavalign.errors import UsageError
from wavalign.schema.loading import load_recipe

HERE = Path(__file__).resolve().parents[3]
MACHINE = Machine(gpus=8, gib=80, nodes=2, tflops=100, utilisation=0.5, memory=1000, link=100, network=10, store=1)
BILLION = WeightCounts(frozen=0, trained=10**9)
ROW = RowSizes(streams=1, prompt=100, answer=50, sampled=50)


def planned(*settings: str) -> Plan:
    """The quickstart on 16 GPUs: one prompt, 8 answers and one demonstration each."""
    fixed = ("runtime.processes=16", "runtime.device=cuda", "batch.share_prompts=false", "runtime.precision=bf16")
    return compile_recipe(load_recipe(str(HERE / "recipes" / "quickstart.yaml"), (*fixed, *settings)), MACHINE.cluster)


def on_machine(*settings: str) -> Scaled:
    plan = planned(*settings)
    found = scaled(plan.stages[0], plan.runtime, weights=BILLION, row=ROW, machine=MACHINE)
    assert found is not None
    return found


def test_a_machine() -> None:
    machine = parse_machine("gpus=8x80, nodes=4,network=25")
    assert (machine.gpus, machine.gib, machine.nodes, machine.network) == (8, 80, 4, 25)
    assert (machine.processes, machine.cluster.gpus, machine.cluster.gpu_bytes) == (32, 32, 80 * 2**30)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "lacks gpus"),
        ("gpus=8", "lacks gpus"),
        ("gpus=8x", "`` is no value of gpus"),
        ("gpus=0x80", "`0` is no value of gpus"),
        ("gpus=1.5x80", "`1.5` is no value of gpus"),
        ("gpus=8x80,nodes=many", "`many` is no value of nodes"),
        ("gpus=8x80,nodes=nan", "`nan` is no value of nodes"),
        ("gpus=8x80,nodes=2,nodes=3", "`nodes` is given twice"),
        ("gpus=8x80,mfu=0.4", "knows no `mfu`"),
        ("gpus=8x80,gib=40", "knows no `gib`"),
        ("gpus=8x80,fast", "`fast` is not key=value"),
        ("gpus=8x80,utilisation=40", "utilisation is a share"),
    ],
)
def test_what_is_no_machine(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_machine(text)
    assert problem in caught.value.message


def test_times_by_hand() -> None:
    """10^9 weights, 5 x 10^13 operations a second; 9 rows of 150 tokens; the prompt once to sample, then 50 tokens.

    Sampling: 2 x 10^9 x 100 / 5e13 + 50 x max(2e9 / 1e12, 2 x 10^9 x 8 / 5e13); learning: 6 x 10^9 x 1350 / 5e13.
    """
    found = on_machine()
    assert found.seconds["sampling"] == pytest.approx(0.004 + 50 * 0.002)
    assert found.seconds["learning"] == pytest.approx(0.162)
    assert found.seconds["sending"] == pytest.approx(2 * 15 / 16 * 4e9 / 10e9)
    assert "reference" not in found.seconds
    assert found.step == pytest.approx(0.104 + 0.162 + 0.75)


def test_what_is_computed_again_and_what_is_shared() -> None:
    assert on_machine("runtime.gradient_checkpointing=true").seconds["learning"] == pytest.approx(0.162 * 8 / 6)
    shared = on_machine("batch.share_prompts=true")
    assert shared.seconds["learning"] == pytest.approx(6e9 * (9 * 50 + 2 * 100) / 5e13)
    kl = on_machine("objective.terms.rl.loss.kl={coefficient: 0.1}")
    assert kl.seconds["reference"] == pytest.approx(2e9 * 1350 / 5e13)


def test_checkpoints_by_hand() -> None:
    """12 bytes a weight by one process; 2 more in bfloat16, written by both nodes, with ZeRO."""
    assert on_machine().checkpoint_bytes == 12 * 10**9
    assert on_machine().faults.checkpoint == pytest.approx(12)
    sharded = on_machine("runtime.engine={type: deepspeed, zero: 2}")
    assert sharded.checkpoint_bytes == 14 * 10**9
    assert sharded.faults.checkpoint == pytest.approx(7)
    assert sharded.checkpoint_every == sharded.faults.steps_between(sharded.step)


def test_one_node_sends_over_its_links() -> None:
    plan = planned()
    one = Machine(gpus=16, gib=80, link=100, network=10)
    found = scaled(plan.stages[0], plan.runtime, weights=BILLION, row=ROW, machine=one)
    assert found is not None and found.seconds["sending"] == pytest.approx(2 * 15 / 16 * 4e9 / 100e9)
