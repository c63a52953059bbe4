"""An encoder that some ranks use and others do not, under sharded parameters and gradients."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.backends.tiny import OPTIM
from tests.plugins.architectures.vita_helpers import codes_of, hearing_vita, lively_policy, spoken
from wavalign.engine.backends.base import AdamSettings, Backend
from wavalign.engine.backends.deepspeed import DeepSpeedBackend
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.compile.lowering import deepspeed_config
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.state.distributed import World
from wavalign.plugins.batch import Dialogue, Message, Role, TokenSequence, collate, concatenate
from wavalign.schema.runtime import EngineSection

KINDS = ("plain", "zero0", "zero2", "zero3")


def build(kind: str, world: World, folder: Path) -> tuple[Backend, list[TokenSequence]]:
    """A backend over a small VITA that hears, the encoder frozen; rows of which the first half has no sound."""
    vita = hearing_vita(folder)
    policy = lively_policy(vita, scale=3.0)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(vita.parameter_group(name) not in vita.frozen_groups)
    dialogues = [Dialogue(f"t{i}", (Message("user", f"w{i} w{i + 1}"),)) for i in range(2)]
    dialogues += [spoken(f"s{i}", range(2 + 5 * i)) for i in range(2)]
    rows = []
    for index, dialogue in enumerate(dialogues):
        ids = torch.arange(5 + index, 13 + index)[None]
        answer = TokenSequence(ids, torch.full_like(ids, int(Role.TEXT), dtype=torch.int8))
        rows.append(concatenate(vita.encode_prompt(dialogue, codes_of), answer, vita.tokens))
    module = ScoredPolicy(policy, vita.tokens)
    if kind == "plain":
        settings = AdamSettings(OPTIM.betas, OPTIM.epsilon, OPTIM.weight_decay, OPTIM.max_grad_norm)
        return PlainBackend(module, policy=policy, optimizer=settings, precision="float32", ranks=world), rows
    config = deepspeed_config(
        EngineSection.model_validate({"type": "deepspeed", "zero": int(kind[-1])}),
        OPTIM,
        precision="float32",
        micro_batch=2,
        accumulation=1,
        processes=world.size,
        device="cpu",
    )
    if kind == "zero3":
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    heads = module.head_parameters()
    return DeepSpeedBackend(module, policy=policy, heads=heads, config=config, ranks=world), rows


def train(world: World, kind: str) -> dict[str, Any]:
    """Three updates: half of the ranks hear, then nobody, then again half of them."""
    with tempfile.TemporaryDirectory() as folder:
        backend, rows = build(kind, world, Path(folder))
        space = hearing_vita(Path(folder)).tokens
    losses = []
    for step in range(3):
        chosen = rows if step != 1 else rows[:2] + rows[:2]
        own = chosen[world.rank * 4 // world.size : (world.rank + 1) * 4 // world.size]
        batch = collate(own, space)
        backend.begin_update(1)
        loss = -backend.forward(batch, batch.roles == int(Role.TEXT), temperature=1.0).logprobs.sum() / 32
        backend.backward(loss * backend.divisor)
        backend.step(1e-2)
        losses.append(world.all_reduce_sum(loss.detach()).item())
    with backend.full_parameters():
        weights = {name: p.detach().float().clone() for name, p in backend.policy.named_parameters()}
    backend.close()
    return {"losses": losses, "weights": weights}


def train_each(world: World) -> dict[str, dict[str, Any]]:
    """`train` for each kind."""
    return {kind: train(world, kind) for kind in KINDS}


@pytest.mark.slow
def test_ranks_that_hear_nothing_keep_up_with_those_that_do() -> None:
    reference = train(World.single(), "plain")
    assert reference["losses"][2] != reference["losses"][0]
    for results in run_ranks(train_each, 2):
        for kind, result in results.items():
            assert result["losses"] == pytest.approx(reference["losses"], rel=1e-5), kind
            for name, weight in result["weights"].items():
                assert torch.allclose(weight, reference["weights"][name], rtol=0, atol=5e-5), (kind, name)
