"""Parameters and optimiser in host memory: the numbers of a run that keeps them where it computes, on two ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.backends import tiny
from tests.engine.backends.test_equality import several
from wavalign.engine.backends.base import Backend, Precision
from wavalign.engine.backends.deepspeed import DeepSpeedBackend
from wavalign.engine.compile.lowering import deepspeed_config
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.state.distributed import World
from wavalign.schema.runtime import EngineSection

BOTH = {"zero": 3, "offload_parameters": True, "offload_optimizer": True}


def build(world: World, engine: dict[str, Any], precision: Precision = "float32") -> Backend:
    """A backend over the tiny policy, all of it in parts."""
    config = deepspeed_config(
        EngineSection.model_validate({"type": "deepspeed", **engine}),
        tiny.OPTIM,
        precision=precision,
        micro_batch=2,
        accumulation=2,
        processes=world.size,
        device="cpu",
    )
    if engine["zero"] == 3:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    assert ("offload_param" in config["zero_optimization"]) == bool(engine.get("offload_parameters"))
    module = ScoredPolicy(tiny.TinyPolicy(), tiny.SPACE)
    heads = module.head_parameters()
    return DeepSpeedBackend(module, policy=module.policy, heads=heads, config=config, ranks=world)


def trained(world: World, engine: dict[str, Any], precision: Precision = "float32") -> dict[str, Any]:
    backend = build(world, engine, precision)
    found = tiny.train(backend, world, accumulation=2)
    assert backend.broken() == ""
    lent = {each.device.type for _, each in backend._parts()}
    backend.close()
    return {**found, "lent": lent}


def resumed(world: World, folder: str) -> None:
    """Two updates, a checkpoint, two more; another backend goes on from the checkpoint: the same to the last bit."""
    backend = build(world, BOTH)
    tiny.train(backend, world, accumulation=2, steps=range(2))
    tiny.save_shared(backend, Path(folder), world)
    wanted = tiny.train(backend, world, accumulation=2, steps=range(2, 4))
    backend.close()
    again = build(world, BOTH)
    again.load(Path(folder))
    found = tiny.train(again, world, accumulation=2, steps=range(2, 4))
    again.close()
    assert (found["losses"], found["norms"]) == (wanted["losses"], wanted["norms"])
    assert all(torch.equal(found["weights"][name], each) for name, each in wanted["weights"].items())


def test_the_same_numbers(tmp_path: Path) -> None:
    here, parameters, both, _ = run_ranks(
        several,
        2,
        (trained, ({"zero": 3},)),
        (trained, ({"zero": 3, "offload_parameters": True},)),
        (trained, (BOTH,)),
        (resumed, (str(tmp_path / "kept"),)),
    )[0]
    assert parameters["losses"] == here["losses"] and parameters["norms"] == here["norms"]
    for name, weight in here["weights"].items():
        assert torch.equal(parameters["weights"][name], weight), name
        assert torch.allclose(both["weights"][name], weight, rtol=0, atol=2e-7), name
    assert both["losses"] == pytest.approx(here["losses"], rel=1e-7)
    assert both["norms"] == pytest.approx(here["norms"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_the_optimiser_alone(stage: int) -> None:
    here, there = run_ranks(
        several, 2, (trained, ({"zero": stage},)), (trained, ({"zero": stage, "offload_optimizer": True},))
    )[0]
    assert there["losses"] == pytest.approx(here["losses"], rel=1e-7)
    for name, weight in here["weights"].items():
        assert torch.allclose(there["weights"][name], weight, rtol=0, atol=2e-7), name


@pytest.mark.slow
def test_half_precision() -> None:
    here, there = run_ranks(several, 2, (trained, ({"zero": 3}, "bf16")), (trained, (BOTH, "bf16")))[0]
    assert there["losses"] == pytest.approx(here["losses"], rel=1e-2)
