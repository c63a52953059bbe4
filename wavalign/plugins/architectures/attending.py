"""What tokens of a batch see of one another, and where they stand: rows as they are, or packed ones."""

import torch
from torch import Tensor

from wavalign.plugins.batch import TokenBatch


def attending(batch: TokenBatch, states: Tensor) -> tuple[Tensor, Tensor | None]:
    """Positions [1, T] or [R, T] of the tokens of `states` [R, T, H], and what is added to scores, [R, 1, T, T].

    Nothing is for rows as they are: they are right-padded, so that causality alone hides the padding.
    """
    if batch.layout is None:
        return torch.arange(states.shape[1], device=states.device)[None], None
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    return batch.layout.positions, batch.layout.mask(dtype)
