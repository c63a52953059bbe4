"""A real architecture, with its multi-token heads, under sharded parameters."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.backends.tiny import OPTIM
from tests.plugins.architectures.vita_helpers import lively_policy, small_vita
from wavalign.engine.backends.base import AdamSettings, Backend, Precision
from wavalign.engine.backends.deepspeed import DeepSpeedBackend
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.compile.lowering import deepspeed_config
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.state.distributed import World
from wavalign.plugins.batch import Role, TokenBatch
from wavalign.schema.runtime import EngineSection


def build(kind: str, world: World, precision: Precision) -> tuple[Backend, int]:
    """A backend over a small VITA and the number of its heads."""
    with tempfile.TemporaryDirectory() as folder:
        architecture = small_vita(Path(folder))
    policy = lively_policy(architecture, scale=3.0)
    module = ScoredPolicy(policy, architecture.tokens)
    count = len(architecture.tokens.heads)
    if kind == "plain":
        settings = AdamSettings(OPTIM.betas, OPTIM.epsilon, OPTIM.weight_decay, OPTIM.max_grad_norm)
        plain = PlainBackend(module, policy=policy, optimizer=settings, precision=precision, ranks=world)
        return plain, count
    config = deepspeed_config(
        EngineSection.model_validate({"type": "deepspeed", "zero": int(kind[-1])}),
        OPTIM,
        precision=precision,
        micro_batch=2,
        accumulation=1,
        processes=world.size,
        device="cpu",
    )
    if kind == "zero3":
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return (
        DeepSpeedBackend(module, policy=policy, heads=module.head_parameters(), config=config, ranks=world),
        count,
    )


def train(world: World, kind: str, precision: Precision) -> dict[str, Any]:
    """Four updates; in the first only the last rank uses the multi-token heads, in the third nobody does."""
    backend, heads = build(kind, world, precision)
    losses, norms = [], []
    for step in range(4):
        ids = torch.randint(20, (4, 1, 24), generator=torch.Generator().manual_seed(step))
        sources = torch.zeros_like(ids, dtype=torch.int8)
        if step != 2:
            sources[2:, :, 16:] = (torch.arange(8) % heads).to(torch.int8)
        own = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
        roles = torch.full_like(sources, int(Role.TEXT))
        batch = TokenBatch(ids[own], roles[own], sources[own], torch.full((4 // world.size,), 24))
        select = torch.ones(batch.ids.shape, dtype=torch.bool)
        select[:, :, :12] = False
        backend.begin_update(1)
        loss = -backend.forward(batch, select, temperature=1.0).logprobs.sum() / (4 * 12)
        backend.backward(loss * backend.divisor)
        norms.append(backend.step(1e-2))
        losses.append(world.all_reduce_sum(loss.detach()).item())
    with backend.full_parameters():
        weights = {name: p.detach().float().clone() for name, p in backend.policy.named_parameters()}
    backend.close()
    return {"losses": losses, "norms": norms, "weights": weights}


def train_each(world: World, kinds: tuple[str, ...], precision: Precision) -> dict[str, dict[str, Any]]:
    """`train` for each of `kinds`."""
    return {kind: train(world, kind, precision) for kind in kinds}


@pytest.mark.slow
def test_every_stage_agrees() -> None:
    reference = train(World.single(), "plain", "float32")
    assert reference["losses"][3] != reference["losses"][0]
    for results in run_ranks(train_each, 2, ("plain", "zero0", "zero1", "zero2", "zero3"), "float32"):
        for kind, result in results.items():
            assert result["losses"] == pytest.approx(reference["losses"], rel=2e-6), kind
            assert result["norms"] == pytest.approx(reference["norms"], rel=2e-5), kind
            for name, weight in result["weights"].items():
                assert torch.allclose(weight, reference["weights"][name], rtol=0, atol=2e-5), (kind, name)


@pytest.mark.slow
def test_half_precision_agrees_roughly() -> None:
    reference = train(World.single(), "plain", "float32")
    for results in run_ranks(train_each, 2, ("plain", "zero0", "zero1", "zero2", "zero3"), "bf16"):
        for kind, result in results.items():
            assert result["losses"] == pytest.approx(reference["losses"], rel=0.05), kind
