"""Learning rates by hand."""

import math
from typing import Any

import pytest

from wavalign.engine.state.seeds import derive, generator
from wavalign.engine.step.schedule import learning_rate
from wavalign.schema.optim import OptimSection


def rates(steps: int, **schedule: Any) -> list[float]:
    optim = OptimSection.model_validate({"learning_rate": 2.0, "schedule": schedule})
    return [learning_rate(optim, index, steps) for index in range(steps)]


def test_constant() -> None:
    assert rates(3) == [2, 2, 2]
    assert rates(5, warmup_steps=4) == [0.5, 1, 1.5, 2, 2]


def test_linear() -> None:
    assert rates(5, shape="linear") == [2, 1.5, 1, 0.5, 0]
    # Two steps up to the full rate, then from it down to a quarter in the five that are left.
    assert rates(7, shape="linear", warmup_steps=2, final_fraction=0.25) == pytest.approx(
        [1, 2, 2, 1.625, 1.25, 0.875, 0.5]
    )


def test_cosine() -> None:
    found = rates(5, shape="cosine", final_fraction=0.5)
    assert found == pytest.approx([1 + (1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)])
    assert (found[0], found[2], found[4]) == pytest.approx((2, 1.5, 1))


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_short_stages(shape: str) -> None:
    assert rates(1, shape=shape) == [2]
    assert rates(2, shape=shape, warmup_steps=5) == pytest.approx([0.4, 0.8])


def test_every_use_has_a_seed_of_its_own() -> None:
    assert derive(1, "a", 2) == derive(1, "a", 2)
    assert len({derive(1, "a", 2), derive(2, "a", 2), derive(1, "b", 2), derive(1, "a", 3), derive(1, "a")}) == 5
    assert generator(1, "a").initial_seed() == derive(1, "a") < 2**63
