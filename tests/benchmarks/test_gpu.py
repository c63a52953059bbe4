"""The GPU benchmark's own arithmetic, and that a part that fails costs no other part."""

import math
import time

import pytest
import torch

from benchmarks import gpu
from benchmarks.cuda.rows import Row, Setting, ceilings
from benchmarks.cuda.runs import _apart as lines_apart
from benchmarks.cuda.sampling import _apart as draws_apart


@pytest.fixture
def setting() -> Setting:
    """A CPU's."""
    return Setting(torch.device("cpu"), torch.float32, small=True, bandwidth=1e9, matrix_rate=1e9)


def test_frequencies_of_other_probabilities_are_told_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])
    ids = torch.multinomial(probabilities, 4000, replacement=True, generator=draw)
    common, apart = draws_apart(ids, probabilities.log()[ids])
    assert (common, apart < 5) == (5, True)
    sharper = torch.softmax(probabilities.log() / 0.9, dim=0)
    assert draws_apart(ids, sharper.log()[ids])[1] > 5


def test_lines_are_compared_but_for_times() -> None:
    left = [{"loss": 2.0, "step": 1, "stage": "train", "step_seconds": 1.0}]
    assert lines_apart(left, [{**left[0], "step_seconds": 9.0}]) == (0.0, 2)
    assert lines_apart(left, [{**left[0], "loss": 2.1}])[0] == pytest.approx(0.05)
    with pytest.raises(RuntimeError, match="1 lines against 0"):
        lines_apart(left, [])


def test_a_part_that_fails_is_a_row(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Setting) -> object:
        yield Row("first", "1", "2", holds=False)
        raise ValueError("no such kernel\nand more")

    def missing(_: Setting) -> object:
        raise ModuleNotFoundError("No module named 'soundfile'")

    def whole(_: Setting) -> object:
        yield Row("last", "3")

    monkeypatch.setattr(gpu, "PARTS", {"broken": broken, "missing": missing, "whole": whole})
    rows = list(gpu.measure(setting, ["broken", "missing", "whole"], until=math.inf))
    assert [str(row) for row in rows] == [
        "| first | 1 | 2 | NO |",
        "| broken | failed: ValueError: no such kernel |  | NO |",
        "| missing | not run: No module named 'soundfile' |  | NO |",
        "| last | 3 |  |  |",
    ]
    assert [str(row) for row in gpu.measure(setting, ["whole"], until=time.monotonic() - 1)] == [
        "| whole | not run: out of time |  |  |"
    ]


def test_ceilings_are_of_this_machine() -> None:
    found = ceilings(torch.device("cpu"), torch.float32, small=True)
    assert 1e8 < found.bandwidth < 1e13
    assert 1e8 < found.matrix_rate < 1e14
