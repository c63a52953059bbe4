"""What rewards' own errors add to the variance of a group's rewards.

The total is the sum over the rewards with a value of w_r scale(v_r) / W, W the sum of their weights w_r. Where rewards
err independently of one another, the variance of its error is

    sum over rewards of (w_r / W)^2 slope_r^2 var_r

with `var_r` what the reward states (`Scored.variance`) and `slope_r` what the recipe's `scale` multiplies a difference
by. What a reward does not state is unknown and adds nothing: the sum is then too small, never too large. A value that a
rule of the recipe made (`on_absent: lowest`, `rollout.truncated: lowest`) has no error. Letters: P prompts, G group.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wavalign.plugins.batch import Scored

Words = Sequence[Sequence[Scored]]
"""A reward's answers, [P][G]."""


def own_errors(
    words: Mapping[str, Words],
    parts: Mapping[str, Tensor],
    absent: Mapping[str, Tensor],
    weights: Mapping[str, tuple[float, float]],
) -> dict[str, Tensor]:
    """By reward [P, G] float64: what its own error adds to the variance of the total; NaN where it is not known.

    `parts` [P, G] each, scaled, NaN where missing; `absent` bool [P, G] each: answers with nothing to score; `weights`
    (w_r, slope_r).
    """
    present = {name: ~part.isnan() for name, part in parts.items()}
    whole = sum((there.double() * weights[name][0] for name, there in present.items()), start=torch.zeros(()).double())
    found: dict[str, Tensor] = {}
    for name, part in parts.items():
        stated = [[math.nan if cell.variance is None else cell.variance for cell in row] for row in words[name]]
        variance = torch.tensor(stated, dtype=torch.float64).view(part.shape)
        variance = torch.where(absent[name], 0.0, variance).masked_fill(~present[name], math.nan)
        weight, slope = weights[name]
        found[name] = (weight / whole.clamp(min=1e-300) * slope).square() * variance
    return found


def total_noise(errors: Mapping[str, Tensor], total: Tensor) -> Tensor:
    """[P, G] float64: variance of the error of `total` [P, G], as far as it is stated; NaN where nothing is."""
    if not errors:
        return torch.full_like(total, math.nan)
    each = torch.stack(list(errors.values()))
    unknown = each.isnan().all(dim=0) | total.isnan()
    return each.nansum(dim=0).masked_fill(unknown, math.nan)


def unstated(errors: Mapping[str, Tensor], parts: Mapping[str, Tensor], total: Tensor) -> Tensor:
    """Bool [P, G]: answers with a total of which some reward gave a value and states no variance."""
    found = torch.zeros_like(total, dtype=torch.bool)
    for name, each in errors.items():
        found |= each.isnan() & ~parts[name].isnan()
    return found & ~total.isnan()
