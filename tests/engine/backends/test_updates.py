"""An update has as many micro-batches as it is told: free from update to update, rows unequal from rank to rank."""

from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.backends.test_equality import KINDS, assert_equal
from tests.engine.backends.tiny import RATES, build, rows, train, weights
from wavalign.engine.backends.base import Backend
from wavalign.engine.state.distributed import World

ALONE = (((0, 8),), ((0, 3), (3, 4), (4, 8)), ((0, 2), (2, 8)), ((0, 8), (0, 0)), ((0, 0), (0, 1), (1, 8), (0, 0)))
"""Update by update, the micro-batches of one process as the first row and the one behind the last."""
TOGETHER = (
    (((0, 5), (0, 0)), ((5, 7), (7, 8))),
    (((0, 3),), ((3, 8),)),
    (((0, 2), (2, 4), (4, 6)), ((6, 8), (0, 0), (0, 0))),
    (((0, 8),), ((0, 0),)),
    (((0, 0), (0, 4)), ((4, 8), (0, 0))),
)
"""The same for each of two ranks."""


def update(backend: Backend, step: int, cuts: tuple[tuple[int, int], ...], world: World) -> tuple[float, float]:
    """One update over the rows of `cuts`; an empty cut is a row of which nothing is selected."""
    total = torch.zeros(())
    backend.begin_update(len(cuts))
    assert backend.divisor in (1, len(cuts) * world.size)
    for first, last in cuts:
        batch = rows(first, max(last, first + 1), step=step)
        select = torch.full(batch.ids.shape, last > first)
        select[:, :, :2] = False
        loss = -backend.forward(batch, select, temperature=0.7).logprobs.sum() / (8 * 5)
        total += loss.detach()
        backend.backward(loss * backend.divisor)
    norm = backend.step(RATES[step % len(RATES)])
    return float(world.all_reduce_sum(total)), norm


def train_ragged(world: World, kinds: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Five updates of each backend; the configuration it was made with says another number of micro-batches."""
    found = {}
    for kind in kinds:
        backend = build(kind, ranks=world, accumulation=4)
        cuts = [ALONE[step] if world.size == 1 else TOGETHER[step][world.rank] for step in range(5)]
        done = [update(backend, step, each, world) for step, each in enumerate(cuts)]
        found[kind] = {"losses": [s[0] for s in done], "norms": [s[1] for s in done], "weights": weights(backend)}
        backend.close()
    return found


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """The plain backend, one process, one micro-batch an update."""
    world = World.single()
    return train(build("plain", ranks=world, accumulation=1), world, accumulation=1)


@pytest.mark.parametrize(("ranks", "kinds"), [(1, KINDS), (2, ("plain", "zero2", "zero3"))])
def test_updates_of_different_lengths(reference: dict[str, Any], ranks: int, kinds: tuple[str, ...]) -> None:
    for results in run_ranks(train_ragged, ranks, kinds):
        assert list(results) == list(kinds)
        for name, result in results.items():
            assert_equal(result, reference, name)


@pytest.mark.slow
def test_updates_of_different_lengths_with_every_stage(reference: dict[str, Any]) -> None:
    for results in run_ranks(train_ragged, 2, KINDS):
        for name, result in results.items():
            assert_equal(result, reference, name)


def test_an_update_has_the_micro_batches_it_was_told() -> None:
    backend = build("plain", ranks=World.single(), accumulation=1)
    loss = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="at least one micro-batch, not 0"):
        backend.begin_update(0)
    with pytest.raises(RuntimeError, match="told 0 micro-batches"):
        backend.backward(loss)
    with pytest.raises(RuntimeError, match="0 of the update's 0 micro-batches"):
        backend.step(1e-3)
    backend.begin_update(2)
    with pytest.raises(RuntimeError, match="finish it with step"):
        backend.begin_update(1)
    backend.backward(loss * 1)
    before = weights(backend)
    with pytest.raises(RuntimeError, match="1 of the update's 2 micro-batches"):
        backend.step(1e-3)
    assert all(torch.equal(value, before[name]) for name, value in weights(backend).items())
    backend.begin_update(1)
    backend.backward(loss * 1)
    with pytest.raises(RuntimeError, match="told 1 micro-batches"):
        backend.backward(loss * 1)
