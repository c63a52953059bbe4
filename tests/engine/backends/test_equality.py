"""Every backend updates by the same numbers, whatever the ranks, micro-batches, ZeRO stage and offload."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.backends.tiny import build, save_shared, train, train_step, weights
from wavalign.engine.state.distributed import World
from wavalign.errors import NonFiniteError

KINDS = ("plain", "zero0", "zero1", "zero2", "zero3", "zero1+offload", "zero2+offload", "zero3+offload")


def run_alone(world: World, kinds: tuple[str, ...], accumulations: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """Train each combination from the same start."""
    results = {}
    for kind in kinds:
        for accumulation in accumulations:
            backend = build(kind, ranks=world, accumulation=accumulation)
            results[f"{kind} x{accumulation}"] = train(backend, world, accumulation=accumulation)
            backend.close()
    return results


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """The plain backend, one process, one micro-batch."""
    world = World.single()
    return train(build("plain", ranks=world, accumulation=1), world, accumulation=1)


def assert_equal(result: dict[str, Any], reference: dict[str, Any], name: str) -> None:
    """Losses, norms and every weight within float32 rounding."""
    assert result["losses"] == pytest.approx(reference["losses"], abs=2e-6), name
    assert result["norms"] == pytest.approx(reference["norms"], abs=1e-6), name
    assert set(result["weights"]) == set(reference["weights"]), name
    for key, value in result["weights"].items():
        assert torch.allclose(value, reference["weights"][key], rtol=0, atol=1e-6), (name, key)


def test_updates_move_what_they_should(reference: dict[str, Any]) -> None:
    """The comparison below would also hold between backends that do nothing."""
    start = dict(build("plain", ranks=World.single(), accumulation=1).policy.named_parameters())
    moved = {name for name, value in reference["weights"].items() if not torch.equal(value, start[name].detach())}
    # Decay alone moves an unused matrix; an unused vector stays, and so does what is frozen.
    assert moved == {"embed.weight", "up.weight", "up.bias", "down.weight", "norm.weight", "norm.bias"} | {
        "second.weight",
        "unused.weight",
    }
    decayed = start["unused.weight"].detach().clone()
    for rate in (1e-2, 5e-3, 2e-2, 1e-2, 5e-3):
        decayed *= 1 - rate * 0.1
    assert torch.allclose(reference["weights"]["unused.weight"], decayed, rtol=1e-6)
    assert all(norm > 0.5 for norm in reference["norms"]), "clipping must be active"


def test_one_process(reference: dict[str, Any]) -> None:
    for name, result in run_ranks(run_alone, 1, KINDS, (1, 2))[0].items():
        assert_equal(result, reference, name)


@pytest.mark.slow
def test_two_processes(reference: dict[str, Any]) -> None:
    first, second = run_ranks(run_alone, 2, KINDS, (1, 2))
    assert first.keys() == second.keys() == {f"{kind} x{n}" for kind in KINDS for n in (1, 2)}
    for name in first:
        assert_equal(first[name], reference, name)
        assert_equal(second[name], reference, name)


def test_two_processes_of_the_widest_stages(reference: dict[str, Any]) -> None:
    for results in run_ranks(run_alone, 2, ("plain", "zero3"), (2,)):
        for name, result in results.items():
            assert_equal(result, reference, name)


def interrupted(world: World, kinds: tuple[str, ...], folder: str) -> None:
    """Three updates, save, two more; then a fresh backend, load, the same two: equal to the last bit."""
    for kind in kinds:
        backend = build(kind, ranks=world, accumulation=2)
        train(backend, world, accumulation=2, steps=range(3))
        save_shared(backend, Path(folder) / kind, world)
        expected = train(backend, world, accumulation=2, steps=range(3, 5))
        backend.close()

        again = build(kind, ranks=world, accumulation=2)
        again.load(Path(folder) / kind)
        result = train(again, world, accumulation=2, steps=range(3, 5))
        again.close()
        assert result["losses"] == expected["losses"], kind
        assert result["norms"] == expected["norms"], kind
        for name, value in result["weights"].items():
            assert torch.equal(value, expected["weights"][name]), (kind, name)


def test_resume_is_exact_in_one_process(tmp_path: Path) -> None:
    run_ranks(interrupted, 1, KINDS, str(tmp_path))


@pytest.mark.slow
def test_resume_is_exact_in_two_processes(tmp_path: Path) -> None:
    run_ranks(interrupted, 2, KINDS, str(tmp_path))


def broken_step(world: World, kinds: tuple[str, ...]) -> list[str]:
    """A loss that is not finite on the last rank only: every rank raises, no weight moves, the next step is sound."""
    for kind in kinds:
        backend = build(kind, ranks=world, accumulation=1)
        train_step(backend, 0, ranks=world, accumulation=1)
        before = weights(backend)
        factor = torch.tensor(float("nan") if world.rank == world.size - 1 else 1.0)
        with pytest.raises(NonFiniteError, match="gradient norm"):
            train_step(backend, 1, ranks=world, accumulation=1, factor=factor)
        for name, value in weights(backend).items():
            assert torch.equal(value, before[name]), (kind, name)
        _, norm = train_step(backend, 1, ranks=world, accumulation=1)
        assert 0 < norm < 100, kind
        backend.close()
    return list(kinds)


def test_gradients_that_are_not_finite() -> None:
    assert run_ranks(broken_step, 1, KINDS) == [list(KINDS)]


@pytest.mark.slow
def test_gradients_that_are_not_finite_on_one_rank() -> None:
    assert run_ranks(broken_step, 2, KINDS) == [list(KINDS)] * 2


def sampled(world: World) -> None:
    """Ranks walk the policy a different number of times between updates, as sampling does."""
    backend = build("zero3", ranks=world, accumulation=1)
    for step in range(3):
        with backend.full_parameters(), torch.no_grad(), backend.full_parameters():
            for _ in range(1 + 2 * world.rank):
                logits = backend.policy.up(backend.policy.embed(torch.tensor([1])))  # type: ignore[operator]
                logits = logits[:, :8] @ backend.policy.head_weight(1).T
                assert logits.shape == (1, 13)
                assert logits.isfinite().all()
        train_step(backend, step, ranks=world, accumulation=1)
    assert backend.policy.head_weight(1).numel() == 0, "the stage shards nothing; the test would show nothing"
    backend.close()


def test_sampling_with_gathered_parameters() -> None:
    run_ranks(sampled, 2)


def half_precision(world: World) -> dict[str, list[float]]:
    """Losses in bf16."""
    losses = {}
    for kind in ("plain", "zero0", "zero2", "zero3"):
        backend = build(kind, ranks=world, accumulation=2, precision="bf16")
        with backend.full_parameters(), torch.no_grad():
            states = backend.policy.up(torch.ones(2, 8, dtype=next(backend.policy.parameters()).dtype))  # type: ignore[operator]
        assert states.dtype == torch.bfloat16, kind
        losses[kind] = train(backend, world, accumulation=2)["losses"]
        backend.close()
    return losses


def test_half_precision_stays_near(reference: dict[str, Any]) -> None:
    losses = run_ranks(half_precision, 1)[0]
    for kind, values in losses.items():
        assert values == pytest.approx(reference["losses"], rel=2e-2), kind
        assert values != pytest.approx(reference["losses"], abs=1e-6), f"{kind} did not compute in bf16"
    assert losses["zero0"] == losses["plain"]


def quiet(world: World) -> None:
    """Train and save with everything that can write to the terminal captured."""
    backend = build("zero3", ranks=world, accumulation=1)
    train(backend, world, accumulation=1, steps=range(1))
    backend.close()


def test_nothing_reaches_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    run_ranks(quiet, 1)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
