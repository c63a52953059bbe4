"""A constant is a constant."""

import pytest
from pydantic import ValidationError

from wavalign.plugins.gates.fixed import Fixed, FixedParams


def test_it_never_moves_and_needs_nothing() -> None:
    gate = Fixed(FixedParams(value=0.3))
    assert [gate.update(None, progress=progress).value for progress in (0.0, 0.5, 1.0)] == [0.3, 0.3, 0.3]
    assert not gate.needs_rewards
    gate.load_state_dict(gate.state_dict())


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_share_lies_between_zero_and_one(value: float) -> None:
    with pytest.raises(ValidationError):
        FixedParams(value=value)
