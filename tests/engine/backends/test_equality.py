"""Every backend updates by the same numbers, whatever the ranks, micro-batches, ZeRO stage and offload."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.backends.tiny import TinyPolicy, build, save_shared, train, train_step, weights
from wavalign.engine.state.distributed import World
from wavalign.errors import NonFiniteError

KINDS = ("plain", "zero0", "zero1", "zero2", "zero3", "zero1+offload", "zero2+offload", "zero3+offload")


def train_all(world: World, kinds: tuple[str, ...], accumulations: tuple[int, ...]) -> dict[str, dict[str, Any]]:
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


def several(world: World, *jobs: tuple[Callable[..., Any], tuple[object, ...]]) -> list[Any]:
    """Some functions one after the other: starting ranks takes longer than most of them."""
    return [function(world, *arguments) for function, arguments in jobs]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Everything that one process is asked, in one process."""
    folder = str(tmp_path_factory.mktemp("alone"))
    found: list[list[Any]] = run_ranks(
        several,
        1,
        (train_all, (KINDS, (1, 2))),
        (interrupted, (KINDS, folder)),
        (broken_step, (KINDS,)),
        (half_precision, ()),
        (compilers, ()),
    )
    return found[0]


def test_one_process(alone: list[Any], reference: dict[str, Any]) -> None:
    assert len(alone[0]) == 2 * len(KINDS)
    for name, result in alone[0].items():
        assert_equal(result, reference, name)


def test_resume_is_exact(alone: list[Any]) -> None:
    assert alone[1] == list(KINDS)


def test_gradients_that_are_not_finite(alone: list[Any]) -> None:
    assert alone[2] == list(KINDS)


def test_half_precision_stays_near(alone: list[Any], reference: dict[str, Any]) -> None:
    losses = alone[3]
    for kind, values in losses.items():
        assert values == pytest.approx(reference["losses"], rel=2e-2), kind
        assert values != pytest.approx(reference["losses"], abs=1e-6), f"{kind} did not compute in bf16"
    assert losses["zero0"] == losses["plain"]


def test_no_compiler_is_imported(alone: list[Any]) -> None:
    """Every ZeRO stage would otherwise wait for it at its start."""
    assert alone[4] == (["deepspeed.runtime.zero.muon.original_muon"], None)


def test_two_processes(reference: dict[str, Any]) -> None:
    for results, _ in run_ranks(several, 2, (train_all, (("plain", "zero3"), (2,))), (sampled, ())):
        for name, result in results.items():
            assert_equal(result, reference, name)


@pytest.mark.slow
def test_two_processes_of_every_kind(reference: dict[str, Any], tmp_path: Path) -> None:
    jobs = ((train_all, (KINDS, (1, 2))), (interrupted, (KINDS, str(tmp_path))), (broken_step, (KINDS,)))
    for results, resumed, survived in run_ranks(several, 2, *jobs):
        assert resumed == survived == list(KINDS)
        assert len(results) == 2 * len(KINDS)
        for name, result in results.items():
            assert_equal(result, reference, name)


def interrupted(world: World, kinds: tuple[str, ...], folder: str) -> list[str]:
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
    return list(kinds)


def broken_step(world: World, kinds: tuple[str, ...]) -> list[str]:
    """A loss that is not finite on the last rank only: every rank raises, no weight moves, the next step is sound.

    An update that is too large is told from the weights.
    """
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
        assert backend.broken() == "", kind
        _, norm = train_step(backend, 2, ranks=world, accumulation=1, rate=math.nan)
        assert 0 < norm < 100, "the gradient says nothing of it"
        name = backend.broken()
        assert world.any_true(bool(name)), kind
        assert not name or name in dict(backend.policy.named_parameters()), kind
        backend.close()
    return list(kinds)


def sampled(world: World) -> None:
    """Ranks walk the policy a different number of times between updates, as sampling does."""
    backend = build("zero3", ranks=world, accumulation=1)
    policy = cast(TinyPolicy, backend.policy)
    for step in range(3):
        with backend.full_parameters(), torch.no_grad(), backend.full_parameters():
            for _ in range(1 + 2 * world.rank):
                logits = policy.up(policy.embed(torch.tensor([1])))
                logits = logits[:, :8] @ backend.policy.head_weight(1).T
                assert logits.shape == (1, 13)
                assert logits.isfinite().all()
        train_step(backend, step, ranks=world, accumulation=1)
    assert backend.policy.head_weight(1).numel() == 0, "the stage shards nothing; the test would show nothing"
    backend.close()


def compilers(world: World) -> tuple[list[str], str | None]:
    """What is imported of PyTorch's compiler and of what asks for it; then the variable that turns the compiler off."""
    asked = ("deepspeed.runtime.zero.muon.original_muon", "torch._inductor.compile_fx")
    return [name for name in asked if name in sys.modules], os.environ.get("TORCHDYNAMO_DISABLE")


def half_precision(world: World) -> dict[str, list[float]]:
    """Losses in bf16."""
    losses = {}
    for kind in ("plain", "zero0", "zero2", "zero3"):
        backend = build(kind, ranks=world, accumulation=2, precision="bf16")
        with backend.full_parameters(), torch.no_grad():
            policy = cast(TinyPolicy, backend.policy)
            states = policy.up(torch.ones(2, 8, dtype=next(policy.parameters()).dtype))
        assert states.dtype == torch.bfloat16, kind
        losses[kind] = train(backend, world, accumulation=2)["losses"]
        backend.close()
    return losses


QUIET = """
import warnings
warnings.simplefilter("error")
from tests.engine.backends.tiny import build, train
from wavalign.engine.state.distributed import World
from wavalign.leaving import leave
world = World.from_environment("cpu")
backend = build("zero3", ranks=world, accumulation=1)
train(backend, world, accumulation=1, steps=range(2))
backend.close()
world.close()
print("done", world.rank)
leave(0)
"""


@pytest.mark.slow
def test_nothing_reaches_the_terminal(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    (tmp_path / "worker.py").write_text(QUIET)
    code = (
        "import os, sys; from pathlib import Path; from wavalign.engine.launch import Place, launch;"
        f"folder = Path({str(tmp_path)!r});"
        f"env = dict(os.environ, PYTHONPATH={str(root)!r});"
        "sys.exit(launch([str(folder / 'worker.py')], Place(folder), processes=2, env=env, threads=1).code)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (run.stdout, run.stderr) == ("done 0\n", "")
    assert (tmp_path / "rank-1.log").read_text() == "done 1\n"
