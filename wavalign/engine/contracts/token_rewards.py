"""What a reward says of single tokens. Shapes: S streams, Tc tokens of a completion."""

import torch
from torch import Tensor

from wavalign.engine.contracts.values import exact, finite, tensor
from wavalign.plugins.batch import SCORED_ROLES, TokenSequence
from wavalign.plugins.guard import Broken

LARGEST_REWARD = 1e12
"""Sums and variances of rewards stay finite, also in 32 bits."""


def token_values(found: object, completion: TokenSequence, low: float, high: float) -> Tensor:
    """A reward's values of single tokens [S, Tc] as a float64 copy; raises Broken for what is none of `completion`."""
    given = tensor(found, "tokens", shape=completion.ids.shape).detach().to("cpu", torch.float64, copy=True)
    finite(given, "tokens")
    least, most = min(low, 0.0), max(high, 0.0)
    outside = ((given < least) | (given > most) | (given.abs() > LARGEST_REWARD)).nonzero()
    if len(outside):
        place = outside[0].tolist()
        value = exact(float(given[tuple(place)]))
        raise Broken(f"gave {value} in tokens at {place}; each lies between 0 and the ends of its range")
    nobody = ((given != 0) & ~is_scored(completion.roles)).nonzero()
    if len(nobody):
        place = nobody[0].tolist()
        raise Broken(f"gave a value in tokens at {place}, where the layout put the token and the model chose none")
    return given


def is_scored(roles: Tensor) -> Tensor:
    """Bool [...]: which of `roles` [...] the model chose itself."""
    return torch.isin(roles, torch.tensor([int(role) for role in SCORED_ROLES], dtype=roles.dtype))
