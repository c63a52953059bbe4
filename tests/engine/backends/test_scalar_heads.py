"""Scalar heads on every backend: the same updates, checkpoints to the last bit, and no part of the network's layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from tests.distributed import run_ranks
from tests.engine.backends.test_equality import KINDS
from tests.engine.backends.tiny import HIDDEN, RATES, SPACE, TinyPolicy, build, rows, save_shared
from wavalign.engine.backends.base import Backend, beside
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.state.distributed import World
from wavalign.errors import CheckpointError
from wavalign.plugins.scalars import ScalarHead

HEADS = (ScalarHead("values", "token"), ScalarHead("score", "sequence"), ScalarHead("probe", "token", detach=True))
NAMES = {f"scalar_heads.{head.name}_head.{part}" for head in HEADS for part in ("weight", "bias")}


def train_step(backend: Backend, step: int, world: World) -> tuple[float, float]:
    """One update of log-probs and of values that shall be told from the ids; two micro-batches a rank."""
    total, share = torch.zeros(()), 8 // world.size
    backend.begin_update(2)
    for index in range(2):
        first = world.rank * share + index * share // 2
        batch = rows(first, first + share // 2, step=step)
        select = torch.zeros(batch.ids.shape, dtype=torch.bool)
        select[:, :, 2 + step :] = step < 4  # the last update selects nothing: scalars alone
        found = backend.forward(batch, select, temperature=0.7)
        wanted = batch.ids[:, 0].float() / 13
        loss = -found.logprobs.sum() / 40 + (found.scalars["values"] - wanted).square()[:, 1:].sum() / 48
        loss = loss + (found.scalars["score"] - wanted[:, 0]).square().sum() / 8
        loss = loss + found.scalars["probe"].sub(1).square()[:, 1:].sum() / 48
        total += loss.detach()
        backend.backward(loss * backend.divisor)
    norm = backend.step(3 * RATES[step % len(RATES)])
    return float(world.all_reduce_sum(total)), norm


def everything(backend: Backend, module: ScoredPolicy) -> dict[str, Tensor]:
    """A copy of every parameter of `module`, whole."""
    with backend.full_parameters():
        return {name: each.detach().clone() for name, each in module.named_parameters()}


def made(kind: str, world: World) -> tuple[Backend, ScoredPolicy]:
    module = ScoredPolicy(TinyPolicy(), SPACE, HEADS, hidden_size=HIDDEN)
    return build(kind, ranks=world, accumulation=1, module=module), module


def train(world: World, kinds: tuple[str, ...], folder: str) -> dict[str, Any]:
    """Five updates of each backend, in the middle of them a checkpoint, from which a fresh one goes the same way."""
    found = {}
    for kind in kinds:
        backend, module = made(kind, world)
        done = [train_step(backend, step, world) for step in range(3)]
        place = Path(folder) / f"{kind}-{world.size}"
        save_shared(backend, place, world)
        done += [train_step(backend, step, world) for step in range(3, 5)]
        weights = everything(backend, module)
        assert backend.broken() == ""
        assert {name for name, _ in backend.weights()} == set(backend.policy.state_dict())
        assert not any("scalar" in name for name, _ in backend.weights())
        backend.close()

        again, second = made(kind, world)
        again.load(place)
        assert [train_step(again, step, world) for step in range(3, 5)] == done[3:], kind
        resumed = everything(again, second)
        assert all(torch.equal(resumed[name], weight) for name, weight in weights.items()), kind
        again.close()
        found[kind] = {"losses": [s[0] for s in done], "norms": [s[1] for s in done], "weights": weights}
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plain backend in one process."""
    return dict(train(World.single(), ("plain",), str(tmp_path_factory.mktemp("plain")))["plain"])


def assert_equal(results: dict[str, Any], reference: dict[str, Any]) -> None:
    for kind, result in results.items():
        assert result["losses"] == pytest.approx(reference["losses"], abs=2e-6), kind
        assert result["norms"] == pytest.approx(reference["norms"], abs=1e-6), kind
        assert result["weights"].keys() == reference["weights"].keys()
        for name, weight in result["weights"].items():
            assert torch.allclose(weight, reference["weights"][name], rtol=0, atol=2e-6), (kind, name)


def test_heads_learn(reference: dict[str, Any]) -> None:
    """The comparisons below would also hold between backends that leave them as they begin."""
    for name in NAMES:
        assert float(reference["weights"][name].abs().max()) > 1e-2, name


def test_one_process(reference: dict[str, Any], tmp_path: Path) -> None:
    (results,) = run_ranks(train, 1, KINDS, str(tmp_path))
    assert len(results) == len(KINDS)
    assert_equal(results, reference)


def test_two_processes(reference: dict[str, Any], tmp_path: Path) -> None:
    kinds = ("plain", "zero0", "zero1", "zero2", "zero3")
    for results in run_ranks(train, 2, kinds, str(tmp_path)):
        assert len(results) == len(kinds)
        assert_equal(results, reference)


@pytest.mark.slow
def test_two_processes_with_offload(reference: dict[str, Any], tmp_path: Path) -> None:
    for results in run_ranks(train, 2, ("zero1+offload", "zero2+offload", "zero3+offload"), str(tmp_path)):
        assert_equal(results, reference)


def half(world: World) -> dict[str, tuple[list[float], bool]]:
    """Losses in bf16, and whether the values were float32."""
    found = {}
    for kind in ("plain", "zero0", "zero2", "zero3"):
        module = ScoredPolicy(TinyPolicy(), SPACE, HEADS, hidden_size=HIDDEN)
        backend = build(kind, ranks=world, accumulation=1, precision="bf16", module=module)
        losses = [train_step(backend, step, world)[0] for step in range(4)]
        batch = rows(0, 2, step=0)
        output = backend.forward(batch, torch.zeros(batch.ids.shape, dtype=torch.bool), temperature=1.0)
        found[kind] = losses, all(each.dtype == torch.float32 for each in output.scalars.values())
        backend.close()
    return found


def test_half_precision_stays_near(reference: dict[str, Any]) -> None:
    (found,) = run_ranks(half, 1)
    for kind, (losses, wide) in found.items():
        assert wide, kind
        assert losses == pytest.approx(reference["losses"][:4], rel=2e-2), kind


def scores(world: World, kinds: tuple[str, ...]) -> dict[str, list[Tensor]]:
    """Log-probs without gradient: before, inside and between updates, as often as each rank likes it."""
    found = {}
    for kind in kinds:
        backend, _ = made(kind, world)
        batch = rows(0, 8, step=1)
        select = torch.ones(batch.ids.shape, dtype=torch.bool)
        select[:, :, :2] = False
        seen = []
        for step in range(3):
            scored = backend.score(batch, select, temperature=0.7)
            assert not scored.requires_grad
            forward = backend.forward(batch, select, temperature=0.7).logprobs
            assert torch.equal(scored, forward), kind
            with backend.full_parameters():
                assert torch.equal(scored, backend.score(batch, select, temperature=0.7)), kind
            seen.append(scored)
            train_step(backend, step, world)
        backend.close()
        found[kind] = seen
    return found


@pytest.mark.parametrize(("ranks", "kinds"), [(1, KINDS), (2, ("plain", "zero2", "zero3"))])
def test_scores_without_gradient(ranks: int, kinds: tuple[str, ...]) -> None:
    for found in run_ranks(scores, ranks, kinds):
        for kind, seen in found.items():
            assert not torch.equal(seen[0], seen[1])
            for ours, plain in zip(seen, found["plain"], strict=True):
                torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5, msg=kind)


def test_files_of_a_checkpoint(tmp_path: Path) -> None:
    """Names as before where there are no heads; those of heads beside them; the two do not mix."""
    names, backends = {}, {}
    for key, heads in (("without", ()), ("with", HEADS)):
        module = ScoredPolicy(TinyPolicy(), SPACE, heads, hidden_size=HIDDEN)
        backends[key] = build("plain", ranks=World.single(), accumulation=1, module=module)
        save_shared(backends[key], tmp_path / key, World.single())
        with safe_open(tmp_path / key / "training.safetensors", framework="pt") as file:
            names[key] = set(file.keys())
    assert names["without"] == {f"weights/{name}" for name, _ in TinyPolicy().named_parameters()}
    assert names["with"] - names["without"] == {f"weights/{name}" for name in NAMES}
    with pytest.raises(CheckpointError, match="of another model: weights/scalar_heads"):
        backends["with"].load(tmp_path / "without")
    with pytest.raises(CheckpointError, match="of another model: weights/scalar_heads"):
        backends["without"].load(tmp_path / "with")


def test_a_name_that_the_network_has_itself_is_refused() -> None:
    policy = TinyPolicy()
    policy.scalar_heads = nn.ModuleDict({"values_head": nn.Linear(2, 1)})
    with pytest.raises(ValueError, match="has a parameter scalar_heads"):
        beside(ScoredPolicy(policy, SPACE, HEADS, hidden_size=HIDDEN), policy)
