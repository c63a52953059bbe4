"""What a network can be asked for beside log-probs; free of torch, so that a plan may hold it."""

from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True, slots=True)
class ScalarHead:
    """A linear layer from the hidden width to one number, trained with the policy and no part of its layout.

    It reads the hidden states of the main head of stream 0. Raises ValueError for a name that is no identifier.
    """

    name: str
    """E.g. `values`."""
    unit: Literal["token", "sequence"]
    """A number per position [B, T], of the state that the token there is predicted from; or one per row [B], of the
    state at its last real position."""
    detach: bool = False
    """Let no gradient pass from it into the network."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a scalar head's name is made of letters, digits and underscores, not {self.name!r}")
