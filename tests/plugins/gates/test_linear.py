"""A straight line between two points."""

import pytest
from pydantic import ValidationError

from wavalign.plugins.gates.linear import Linear, LinearParams


def test_values_on_the_line() -> None:
    gate = Linear(LinearParams(start=0.2, end=0.8, begin=0.25, until=0.75))
    values = [gate.update(None, progress=progress).value for progress in (0.0, 0.25, 0.375, 0.5, 0.75, 1.0)]
    assert values == pytest.approx([0.2, 0.2, 0.35, 0.5, 0.8, 0.8])
    assert values[-1] == 0.8  # exactly, not nearly
    assert not gate.needs_rewards
    gate.load_state_dict(gate.state_dict())


def test_it_may_fall() -> None:
    gate = Linear(LinearParams(start=1.0, end=0.0))
    assert gate.update(None, progress=0.75).value == pytest.approx(0.25)


def test_a_line_needs_length() -> None:
    with pytest.raises(ValidationError, match="must come after"):
        LinearParams(start=0.0, end=1.0, begin=0.5, until=0.5)
