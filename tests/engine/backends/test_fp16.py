"""fp16 with a loss scale: the numbers of float32 but for rounding, overflows that cost an update, and exact resumes."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.backends.tiny import build, save_shared, train, train_step, weights
from wavalign.engine.backends import loss_scale
from wavalign.engine.backends.base import GradientOverflowError
from wavalign.engine.backends.loss_scale import LEAST, LossScale
from wavalign.engine.compile import lowering
from wavalign.engine.state.distributed import World
from wavalign.errors import NonFiniteError

QUICK = ("plain", "zero0", "zero2", "zero3")
KINDS = (*QUICK, "zero1", "zero2+offload", "zero3+offload")
POWER = 9
"""Of the first scale here: gradients of this network are above 1, so that their own sums in fp16 overflow at 2^16."""
FIRST = 2.0**POWER


def near(world: World, kinds: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    found = {}
    backend = build("plain", ranks=world, accumulation=2)
    found["float32"] = train(backend, world, accumulation=2)
    assert backend.loss_scale is None
    for kind in kinds:
        backend = build(kind, ranks=world, accumulation=2, precision="fp16")
        assert backend.loss_scale == FIRST, kind
        found[kind] = train(backend, world, accumulation=2)
        assert backend.loss_scale == FIRST, kind
        backend.close()
    return found


def overflow(world: World, kinds: tuple[str, ...]) -> list[str]:
    """Of one rank alone: every rank skips, the scale is halved, the next update is sound."""
    for kind in kinds:
        backend = build(kind, ranks=world, accumulation=1, precision="fp16")
        train_step(backend, 0, ranks=world, accumulation=1)
        before = weights(backend)
        factor = torch.tensor(1e38 if world.rank == world.size - 1 else 1.0)
        with pytest.raises(GradientOverflowError):
            train_step(backend, 1, ranks=world, accumulation=1, factor=factor)
        for name, value in weights(backend).items():
            assert torch.equal(value, before[name]), (kind, name)
        assert backend.loss_scale == FIRST / 2, kind
        _, norm = train_step(backend, 1, ranks=world, accumulation=1)
        assert 0 < norm < 100, kind
        assert any(not torch.equal(value, before[name]) for name, value in weights(backend).items()), kind
        backend.close()
    return list(kinds)


def resumed(world: World, kinds: tuple[str, ...], folder: str) -> list[str]:
    """The scale and what it counts are in the checkpoint."""
    for kind in kinds:
        backend = build(kind, ranks=world, accumulation=2, precision="fp16")
        train(backend, world, accumulation=2, steps=range(2))
        with pytest.raises(GradientOverflowError):
            train_step(backend, 2, ranks=world, accumulation=2, factor=torch.tensor(1e38))
        save_shared(backend, Path(folder) / kind, world)
        expected = train(backend, world, accumulation=2, steps=range(3, 5))
        backend.close()
        again = build(kind, ranks=world, accumulation=2, precision="fp16")
        again.load(Path(folder) / kind)
        assert again.loss_scale == FIRST / 2, kind
        result = train(again, world, accumulation=2, steps=range(3, 5))
        again.close()
        assert (result["losses"], result["norms"]) == (expected["losses"], expected["norms"]), kind
        assert all(value.equal(expected["weights"][name]) for name, value in result["weights"].items()), kind
    return list(kinds)


def least(world: World, kinds: tuple[str, ...]) -> list[str]:
    """What overflows at a scale of 1 is no matter of the scale."""
    for kind in kinds:
        backend = build(kind, ranks=world, accumulation=1, precision="fp16")
        for _ in range(POWER):
            with pytest.raises(GradientOverflowError):
                train_step(backend, 0, ranks=world, accumulation=1, factor=torch.tensor(math.inf))
        assert backend.loss_scale == LEAST, kind
        with pytest.raises(NonFiniteError):
            train_step(backend, 0, ranks=world, accumulation=1, factor=torch.tensor(math.inf))
        backend.close()
    return list(kinds)


def any_hardware() -> bool:
    """Let DeepSpeed compute in fp16 on a CPU without instructions for it, which torch does all the same."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True
    loss_scale.INITIAL_POWER = lowering.SCALING["initial_scale_power"] = POWER
    return bool(get_accelerator().is_fp16_supported())


def everything(world: World, kinds: tuple[str, ...], folder: str) -> tuple[Any, ...]:
    if not any_hardware():
        return ()
    return near(world, kinds), overflow(world, kinds), resumed(world, kinds, folder), least(world, kinds)


@pytest.mark.parametrize(
    ("size", "kinds"),
    [(1, QUICK), pytest.param(1, KINDS, marks=pytest.mark.slow), pytest.param(2, KINDS, marks=pytest.mark.slow)],
    ids=["quick", "one", "two"],
)
def test_every_backend(tmp_path: Path, size: int, kinds: tuple[str, ...]) -> None:
    for found, *lists in run_ranks(everything, size, kinds, str(tmp_path)):
        assert lists == [list(kinds)] * 3
        reference = found.pop("float32")
        for kind, result in found.items():
            assert result["losses"] == pytest.approx(reference["losses"], rel=2e-2), kind
            assert result["losses"] != pytest.approx(reference["losses"], abs=1e-7), f"{kind} did not compute in fp16"
            assert result["norms"] == pytest.approx(reference["norms"], rel=5e-2), kind


def test_a_scale_against_its_rule() -> None:
    """Halved by an overflow, doubled after so many updates without one; kept by its state."""
    first = 2.0**loss_scale.INITIAL_POWER
    assert first == 2.0 ** lowering.SCALING["initial_scale_power"] == 65536, "the same numbers in two places"
    assert (
        lowering.SCALING["loss_scale_window"],
        lowering.SCALING["min_loss_scale"],
    ) == (loss_scale.WINDOW, loss_scale.LEAST)
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer, scale = torch.optim.SGD([parameter], lr=1.0), LossScale(torch.device("cpu"))

    def update(gradient: float) -> float:
        assert float(scale.scaled(torch.tensor(3.0))) == 3.0 * scale.value
        parameter.grad = torch.full((2,), gradient * scale.value)
        scale.unscale(optimizer)
        return float(parameter.grad[0])

    assert update(0.25) == 0.25
    assert update(math.inf) == math.inf and scale.value == first / 2
    for _ in range(999):
        update(0.5)
    assert scale.value == first / 2
    kept = scale.state()
    again, scale = scale, LossScale(torch.device("cpu"))
    scale.load(kept)
    update(0.5)
    assert scale.value == first, "the thousandth, counted over the checkpoint"
    assert again.value == first / 2
