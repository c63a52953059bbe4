"""How far a quantity is outside of bounds: 1 within them, then the ratio to the nearer bound."""

from typing import Annotated

from pydantic import AfterValidator, Field

_Bound = Annotated[float, Field(ge=0, le=1e9)]


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1] or bounds[1] == 0:
        raise ValueError("the first bound must not be above the second, and the second above 0, e.g. [0.5, 2]")
    return bounds


Bounds = Annotated[tuple[_Bound, _Bound], AfterValidator(_rising)]
"""The least and the most that is fine."""


def within(value: float, bounds: tuple[float, float]) -> float:
    """1 for a `value` of 0 or more within `bounds`, value/low below them, high/value above: half as much, or twice as
    much as is fine, is 0.5."""
    low, high = bounds
    if value < low:
        return value / low
    return high / value if value > high else 1.0
