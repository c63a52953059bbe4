"""Whole trainers against TRL's on the same weights and ids: DPO, and GRPO with several updates a step."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.dpo.point import Point, pairs_of
from benchmarks.parity_trl import compare, points


@pytest.mark.slow
@pytest.mark.parametrize("name", points(quick=True))
def test_trainers_agree(name: str, tmp_path: Path) -> None:
    point = points(quick=True)[name]
    few = replace(point, steps=4 if isinstance(point, Point) else 2)
    gap = compare(few, tmp_path)
    assert gap.holds, gap
    assert gap.moved > 1e-4


def test_pairs_are_of_the_lengths_that_a_point_says() -> None:
    point = Point("T", 2048, pairs=3, prompt_length=40, completion_length=16, steps=2, warm_up=1)
    lengths = {(len(each["prompt"].split()), len(each["chosen"].split())) for each in pairs_of(point)}
    assert lengths == {(30, 15)}
    assert len(pairs_of(point)) == 3
    assert len(pairs_of(replace(point, fresh=True))) == 9
