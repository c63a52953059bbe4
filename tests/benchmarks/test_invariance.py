"""A small part of the table of what changes nothing; the whole of it is `python benchmarks/invariance.py`."""

import pytest

from benchmarks.invariance import BLOCKS, EPOCHS, Way, asked_of, line, run
from wavalign.engine.state.distributed import World


@pytest.mark.parametrize("block", [(), EPOCHS], ids=["one update", "epochs"])
def test_micro_batches_are_no_part_of_the_result(block: tuple[str, ...]) -> None:
    """Of one step on one process: weights move, and differ by rounding."""
    whole, cut = (
        run(Way("", settings=settings).plan(block), World.single("cpu"), steps=1)
        for settings in ((), ("batch.micro_batch=3", "batch.packing=false"))
    )
    assert whole.moved > 1e-5
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5)
    worst = max(float((cut.weights[name] - each).abs().max()) for name, each in whole.weights.items())
    assert worst < 1e-6


def test_the_table_has_every_axis() -> None:
    names = " ".join(way.name for _, _, way in asked_of(()))
    assert all(each in names for each in ("micro-batches", "2 processes", *(f"ZeRO {stage}" for stage in range(4))))
    assert {way.name for block, _, way in asked_of(("bf16",))} == {way.name for way in list(BLOCKS.values())[2][1]}


def test_a_row() -> None:
    row = {"way": "plain", "losses": [1.0, 0.5], "loss": 3e-7, "weights": 1.2e-8, "moved": 0.001}
    assert line(row, is_first=False) == "| plain | 0.500000 | 3.0e-07 | 1.2e-08 |"
    assert line(row, is_first=True) == "| plain | 0.500000 |  | moved by 1.0e-03 |"
