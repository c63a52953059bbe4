"""Names of values that are drawn before groups without spread are replaced."""

from collections.abc import Collection

from wavalign.engine.compile.plan import Operator

DRAWN = "drawn."
"""Begins them."""


def as_drawn(operator: Operator, names: Collection[str]) -> Operator:
    """The operator with its values of these `names` under those that they have before."""

    def name(value: str) -> str:
        return f"{DRAWN}{value}" if value in names else value

    gives = {name(value): shape for value, shape in operator.gives.items()}
    return operator.model_copy(update={"needs": tuple(name(value) for value in operator.needs), "gives": gives})


def without_prefix(operator: Operator) -> Operator:
    """The operator as it is where nothing is resampled."""
    gives = {name.removeprefix(DRAWN): shape for name, shape in operator.gives.items()}
    needs = tuple(name.removeprefix(DRAWN) for name in operator.needs)
    return operator.model_copy(update={"needs": needs, "gives": gives})
