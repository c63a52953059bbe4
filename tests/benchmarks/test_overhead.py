"""The benchmark of the engine's overhead: that both sides make the same steps."""

from pathlib import Path

import pytest

from benchmarks.grpo.point import Point
from benchmarks.overhead import LOSS_TOLERANCE, WEIGHT_TOLERANCE, line, measure


@pytest.mark.filterwarnings("ignore")  # transformers writes the shared weights, and warns of its own habits
def test_the_engine_and_the_bare_loop_learn_the_same(tmp_path: Path) -> None:
    point = Point("T", 2048, 0.5, prompts=2, group_size=3, prompt_length=24, completion_length=12, warm_up=1, steps=3)
    row = measure(point, tmp_path)
    assert row["loss"] < LOSS_TOLERANCE
    assert 0 < row["weights"] < WEIGHT_TOLERANCE, "rows stand in another order, and nothing else differs"
    assert row["wall"]["engine"] > 0 and row["cpu"]["bare"] > 0
    assert line(row).startswith("| T | 2 x 64 | 2,048 | 288 |") and "yes (" in line(row)
