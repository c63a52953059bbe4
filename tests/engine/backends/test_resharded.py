"""A checkpoint of one backend on some ranks, taken up by another on others: weights and moments to the last bit."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.distributed import run_ranks
from tests.engine.backends.tiny import SPACE, TinyPolicy, build, save_shared, train, weights
from wavalign.engine.backends.training_state import StoredState
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.state.distributed import World
from wavalign.errors import CheckpointError

KINDS = ("plain", "zero0", "zero1", "zero2", "zero3", "zero1+offload", "zero3+offload")


def whole(folder: Path) -> dict[str, Tensor]:
    """Everything in a checkpoint by key, flat, put together of its stretches."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stored = StoredState(folder, stack)
        for key in sorted(stored._parts):
            kind, name = key.split("/", 1)
            found[key] = stored.read(kind, name).clone()
    return found


def assert_same(folder: Path, other: Path) -> None:
    """Two checkpoints hold the same, and moments are among it."""
    ours, theirs = whole(folder), whole(other)
    assert ours.keys() == theirs.keys()
    assert {"exp_avg/embed.weight", "exp_avg_sq/norm.bias", "step/second.weight", "weights/frozen.bias"} <= ours.keys()
    for key, tensor in ours.items():
        assert tensor.equal(theirs[key]), key


def begun(world: World, kind: str, folder: str, precision: str) -> dict[str, Tensor]:
    """Three updates and a checkpoint; gives the weights."""
    backend = build(kind, ranks=world, accumulation=1, precision=precision)  # type: ignore[arg-type]
    train(backend, world, accumulation=1, steps=range(3))
    save_shared(backend, Path(folder), world)
    found = weights(backend)
    backend.close()
    return found


def taken_up(
    world: World, source: str, target: str, precision: str
) -> dict[str, tuple[dict[str, Tensor], list[float]]]:
    """Every kind takes up the checkpoint, writes it again and goes on for two updates; weights at once, losses then."""
    found = {}
    for kind in KINDS:
        if precision == "bf16" and kind in ("plain", "zero0"):
            continue
        module = ScoredPolicy(TinyPolicy(), SPACE)
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data.zero_()  # what is not taken up would show
        backend = build(kind, ranks=world, accumulation=1, precision=precision, module=module)  # type: ignore[arg-type]
        backend.load(Path(source))
        save_shared(backend, Path(target) / kind, world)
        mine = weights(backend)
        losses = train(backend, world, accumulation=1, steps=range(3, 5))["losses"]
        found[kind] = (mine, losses)
        backend.close()
    return found


@pytest.mark.parametrize(
    ("kind", "ranks", "after"),
    [
        ("zero3", 4, 2),
        ("zero1", 2, 1),
        pytest.param("zero3", 2, 4, marks=pytest.mark.slow),
        pytest.param("plain", 1, 2, marks=pytest.mark.slow),
        pytest.param("zero2", 4, 2, marks=pytest.mark.slow),
        pytest.param("zero0", 2, 4, marks=pytest.mark.slow),
    ],
)
def test_any_backend_on_any_ranks(tmp_path: Path, kind: str, ranks: int, after: int) -> None:
    source = tmp_path / "source"
    wanted = run_ranks(begun, ranks, kind, str(source), "float32")[0]
    results = run_ranks(taken_up, after, str(source), str(tmp_path), "float32")
    for result in results:
        for other, (found, losses) in result.items():
            assert_same(source, tmp_path / other)
            for name, weight in wanted.items():
                assert found[name].equal(weight), (other, name)
            assert losses == pytest.approx(results[0]["plain"][1], abs=2e-6), other


def test_bfloat16_weights_keep_their_masters(tmp_path: Path) -> None:
    source = tmp_path / "source"
    wanted = run_ranks(begun, 2, "zero3", str(source), "bf16")[0]
    kept = whole(source)
    assert kept["weights/embed.weight"].dtype == torch.float32
    assert not kept["weights/embed.weight"].bfloat16().float().equal(kept["weights/embed.weight"]), "masters, unrounded"
    for other, (found, _) in run_ranks(taken_up, 1, str(source), str(tmp_path), "bf16")[0].items():
        assert_same(source, tmp_path / other)
        assert all(found[name].equal(weight) for name, weight in wanted.items()), other


def test_frozen_weights_that_were_stored_rounded_stay_as_exact_as_they_are(tmp_path: Path) -> None:
    run_ranks(begun, 1, "zero1", str(tmp_path), "bf16")
    assert whole(tmp_path)["weights/frozen.weight"].dtype == torch.bfloat16
    backend = build("plain", ranks=World.single(), accumulation=1, precision="bf16")
    before = dict(backend.policy.named_parameters())["frozen.weight"].detach().clone()
    backend.load(tmp_path)
    after = dict(backend.policy.named_parameters())["frozen.weight"].detach()
    assert after.equal(before) and not after.bfloat16().float().equal(after)
    other = build("plain", ranks=World.single(), accumulation=1, precision="bf16")
    dict(other.policy.named_parameters())["frozen.weight"].data.add_(1.0)  # of another start
    other.load(tmp_path)
    found = dict(other.policy.named_parameters())["frozen.weight"].detach()
    assert found.bfloat16().float().equal(found) and torch.allclose(found, before, atol=1e-2)


def test_a_part_that_is_missing_is_named(tmp_path: Path) -> None:
    run_ranks(begun, 2, "zero3", str(tmp_path), "float32")
    (tmp_path / "training-00001.safetensors").unlink()
    backend = build("plain", ranks=World.single(), accumulation=1)
    with pytest.raises(CheckpointError, match=r"lacks elements \d+ to \d+ of weights/"):
        backend.load(tmp_path)
    with pytest.raises(CheckpointError, match="holds no training state"):
        backend.load(tmp_path / "elsewhere")


def test_weights_of_different_numbers_of_updates_are_not_mixed(tmp_path: Path) -> None:
    run_ranks(begun, 1, "plain", str(tmp_path), "float32")
    path = tmp_path / "training.safetensors"
    tensors = load_file(path)
    tensors["step/up.weight"] += 1
    save_file(tensors, path)
    with pytest.raises(AssertionError, match=r"weights of \[3.0, 4.0\] updates that are updated as one"):
        run_ranks(taken_up, 1, str(tmp_path), str(tmp_path), "bf16")


def test_a_snapshot_is_of_its_moment(tmp_path: Path) -> None:
    """What is trained after it does not reach it, and its memory is used again by the next."""
    world = World.single()
    backend = build("plain", ranks=world, accumulation=1)
    train(backend, world, accumulation=1, steps=range(2))
    (tmp_path / "now").mkdir()
    backend.save(tmp_path / "now")
    write, kept = backend.snapshot(), {key: each.data_ptr() for key, each in backend._copies.items()}
    train(backend, world, accumulation=1, steps=range(2, 3))
    (tmp_path / "later").mkdir()
    write(tmp_path / "later")
    assert_same(tmp_path / "now", tmp_path / "later")
    backend.snapshot()
    assert {key: each.data_ptr() for key, each in backend._copies.items()} == kept


def test_stretches_say_where_they_belong(tmp_path: Path) -> None:
    run_ranks(begun, 2, "zero3", str(tmp_path), "float32")
    with ExitStack() as stack:
        stored = StoredState(tmp_path, stack)
        parts = sorted((part.start, part.size) for part in stored._parts["exp_avg/second.weight"])
        assert parts == [(0, 52), (52, 52)]
        assert stored._shapes["exp_avg/second.weight"] == (13, 8)
        middle = stored.read("exp_avg", "second.weight", 40, 30)
    assert middle.equal(whole(tmp_path)["exp_avg/second.weight"][40:70])
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == json.dumps(
        ["training-00000.safetensors", "training-00001.safetensors"]
    )
