"""What a loss is given, from few words."""

import torch
from torch import Tensor

from wavalign.plugins.api import LossInputs


def loss_inputs(
    logprobs: Tensor, *, mask: Tensor | None = None, group: Tensor | None = None, member: Tensor | None = None,
    **columns: Tensor,
) -> LossInputs:  # fmt: skip
    """Every position weighed and every row a group of its own, unless told otherwise; columns by name."""
    rows = len(logprobs)
    return LossInputs(
        logprobs,
        torch.ones_like(logprobs, dtype=torch.bool) if mask is None else mask,
        torch.arange(rows) if group is None else group,
        torch.zeros(rows, dtype=torch.int64) if member is None else member,
        columns,
    )
