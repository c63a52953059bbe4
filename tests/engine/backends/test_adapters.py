"""Adapters on every backend: the same updates, the same reference, the same merged weights."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed import run_ranks
from tests.engine.backends.tiny import OPTIM, save_shared
from tests.plugins.architectures.vita_helpers import lively_policy, small_vita
from wavalign.engine.backends.base import AdamSettings, Backend, Precision
from wavalign.engine.backends.deepspeed import DeepSpeedBackend
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.compile.lowering import deepspeed_config
from wavalign.engine.models.adapters import attach, merged_weights
from wavalign.engine.models.reference import AdapterOff
from wavalign.engine.models.scored_policy import ScoredPolicy, score_batch
from wavalign.engine.state.distributed import World
from wavalign.plugins.batch import Role, TokenBatch
from wavalign.schema.model import AdapterSection
from wavalign.schema.runtime import EngineSection

Parts = tuple[Backend, AdapterOff]


def build(kind: str, type_: str, world: World, precision: Precision = "float32") -> Parts:
    """A backend over a small VITA with adapters and a head that is trained in full, and its reference."""
    with tempfile.TemporaryDirectory() as folder:
        architecture = small_vita(Path(folder), num_mtp_layers=1, tie_embeddings=False)
    policy = lively_policy(architecture, scale=3.0)
    fields = {"type": type_, "rank": 3, "groups": ["trunk", "mtp"], "also_train": ["text_head"]}
    section = AdapterSection.model_validate(fields)
    attach(policy, section, architecture=architecture, seed=1, precision=precision)
    reference, module = AdapterOff(policy, architecture.tokens), ScoredPolicy(policy, architecture.tokens)
    if kind == "plain":
        settings = AdamSettings(OPTIM.betas, OPTIM.epsilon, OPTIM.weight_decay, OPTIM.max_grad_norm)
        backend: Backend = PlainBackend(module, policy=policy, optimizer=settings, precision=precision, ranks=world)
    else:
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
        backend = DeepSpeedBackend(module, policy=policy, heads=module.head_parameters(), config=config, ranks=world)
    reference.follow(backend)
    return backend, reference


def train(parts: Parts, world: World, steps: range = range(3)) -> dict[str, Any]:
    """Some updates with a look at the reference before each."""
    backend, reference = parts
    losses, norms, scores = [], [], []
    for step in steps:
        ids = torch.randint(20, (4, 1, 24), generator=torch.Generator().manual_seed(step))
        sources = torch.zeros_like(ids, dtype=torch.int8)
        sources[2:, :, 18:] = 1
        own = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
        roles = torch.full_like(sources, int(Role.TEXT))
        batch = TokenBatch(ids[own], roles[own], sources[own], torch.full((4 // world.size,), 24))
        select = torch.ones(batch.ids.shape, dtype=torch.bool)
        select[:, :, :12] = False
        with reference.scoring() as score:
            scored = score(batch, select, temperature=1.0)
            scores.append(world.all_reduce_sum(scored.float().sum()).item())
        backend.begin_update(1)
        loss = -backend.forward(batch, select, temperature=1.0).logprobs.sum() / (4 * 12)
        backend.backward(loss * backend.divisor)
        norms.append(backend.step(1e-2))
        losses.append(world.all_reduce_sum(loss.detach()).item())
    with backend.full_parameters():
        merged = {name: weight.clone() for name, weight in merged_weights(backend.policy).items()}
    return {"losses": losses, "norms": norms, "scores": scores, "weights": merged}


def train_each(world: World, kinds: tuple[str, ...], types: tuple[str, ...], precision: Precision) -> dict[str, Any]:
    found = {}
    for kind in kinds:
        for type_ in types:
            parts = build(kind, type_, world, precision)
            found[f"{kind} {type_}"] = train(parts, world)
            parts[0].close()
    return found


def interrupted(world: World, kinds: tuple[str, ...], folder: str) -> list[str]:
    """Two updates, save, two more; then a fresh backend, load, the same two: equal to the last bit."""
    for kind in kinds:
        parts = build(kind, "lora", world)
        train(parts, world, range(2))
        save_shared(parts[0], Path(folder) / kind, world)
        expected = train(parts, world, range(2, 4))
        parts[0].close()
        again = build(kind, "lora", world)
        again[0].load(Path(folder) / kind)
        result = train(again, world, range(2, 4))
        again[0].close()
        for key in ("losses", "norms", "scores"):
            assert result[key] == expected[key], (kind, key)
        assert all(torch.equal(weight, expected["weights"][name]) for name, weight in result["weights"].items())
    return list(kinds)


def everything(world: World, kinds: tuple[str, ...], types: tuple[str, ...], folder: str) -> tuple[Any, list[str]]:
    return train_each(world, kinds, types, "float32"), interrupted(world, kinds, folder)


def reference_of(type_: str) -> dict[str, Any]:
    """The plain backend in one process, with what must hold of it alone."""
    world = World.single()
    parts = build("plain", type_, world)
    before = {name: each.clone() for name, each in merged_weights(parts[0].policy).items()}
    result = train(parts, world)
    moved = {name for name, each in result["weights"].items() if float((each - before[name]).abs().max()) > 1e-4}
    assert moved == {name for name in before if name.endswith("_proj.weight")} | {"lm_head.weight"}
    return result


def assert_agree(results: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> None:
    for name, result in results.items():
        reference = wanted[name.split()[1]]
        assert result["losses"] == pytest.approx(reference["losses"], rel=2e-6), name
        assert result["norms"] == pytest.approx(reference["norms"], rel=2e-5), name
        assert result["scores"] == pytest.approx(reference["scores"], rel=2e-6), name
        assert set(result["weights"]) == set(reference["weights"])
        for key, weight in result["weights"].items():
            assert torch.allclose(weight, reference["weights"][key], rtol=0, atol=2e-5), (name, key)


def first_scores(type_: str) -> list[float]:
    """Scores of the same batches under weights that nothing was put on."""
    with tempfile.TemporaryDirectory() as folder:
        architecture = small_vita(Path(folder), num_mtp_layers=1, tie_embeddings=False)
    policy, found = lively_policy(architecture, scale=3.0), []
    for step in range(3):
        ids = torch.randint(20, (4, 1, 24), generator=torch.Generator().manual_seed(step))
        sources = torch.zeros_like(ids, dtype=torch.int8)
        sources[2:, :, 18:] = 1
        select: Tensor = torch.ones(ids.shape, dtype=torch.bool)
        select[:, :, :12] = False
        batch = TokenBatch(ids, torch.full_like(sources, int(Role.TEXT)), sources, torch.full((4,), 24))
        with torch.no_grad():
            found.append(float(score_batch(policy, batch, select, architecture.tokens, temperature=1.0).sum()))
    return found


@pytest.mark.parametrize("type_", ["lora", "dora"])
def test_the_reference_stays_where_the_stage_began(type_: str) -> None:
    assert reference_of(type_)["scores"] == pytest.approx(first_scores(type_), rel=1e-6)


def test_sharded_parameters_on_two_ranks() -> None:
    wanted = {"lora": reference_of("lora")}
    for results in run_ranks(train_each, 2, ("plain", "zero3"), ("lora",), "float32"):
        assert_agree(results, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("plain", "zero0"), ("zero1",), ("zero2",), ("zero3",)], ids="-".join)
def test_every_stage_on_two_ranks(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    types = ("lora", "dora")
    wanted = {type_: reference_of(type_) for type_ in types}
    for results, resumed in run_ranks(everything, 2, kinds, types, str(tmp_path)):
        assert len(results) == 2 * len(kinds)
        assert_agree(results, wanted)
        assert resumed == list(kinds)


@pytest.mark.slow
def test_half_precision_on_two_ranks() -> None:
    wanted = {type_: reference_of(type_) for type_ in ("lora", "dora")}
    for results in run_ranks(train_each, 2, ("plain", "zero0", "zero2", "zero3"), ("lora", "dora"), "bf16"):
        for name, result in results.items():
            reference = wanted[name.split()[1]]
            assert result["losses"] == pytest.approx(reference["losses"], rel=0.05), name
            assert result["scores"] == pytest.approx(reference["scores"], rel=0.02), name
