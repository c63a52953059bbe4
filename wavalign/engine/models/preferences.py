"""How often rewards prefer the answer that was chosen, and how sure they are of it.

With m = r_chosen - r_rejected of a pair: it is right where m > 0, half right where m = 0. sigmoid(|m|) is how sure it
is, and of the pairs that it is as sure of that share should be right (calibration):
    ECE = sum over bins of (pairs of the bin / pairs) |share right - mean sureness|
Source: Guo et al., "On calibration of modern neural networks" (arXiv 1706.04599). Shares have Wilson's intervals.
"""

import math

import torch
from torch import Tensor

BINS = 10
"""Equal parts of the sureness from 0.5 to 1."""
_Z = 1.959963984540054


def preferences(margins: Tensor) -> dict[str, float]:
    """What is logged of the margins [N] of held-out pairs: accuracy, margin, calibration; N is 1 or more."""
    count, told = len(margins), right(margins)
    values = _share("accuracy", float(told.mean()), count) | _mean("margin", margins)
    sure = torch.sigmoid(margins.abs())
    place = ((sure - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    gaps = 0.0
    for index in range(BINS):
        chosen = place == index
        if not (pairs := int(chosen.sum())):
            continue
        said, came = float(sure[chosen].mean()), float(told[chosen].mean())
        gaps += pairs / count * abs(came - said)
        bin_ = f"calibration/{index}"
        values |= {f"{bin_}/sure": said, f"{bin_}/right": came, f"{bin_}/pairs": pairs}
    return values | {"ece": gaps, "ece/count": count}


def right(margins: Tensor) -> Tensor:
    """1, 1/2 or 0 [N] for margins [N] above, at and below 0."""
    return (margins.sign() + 1) / 2


def accuracy(margins: Tensor) -> dict[str, float]:
    """The share of margins [N] above 0, with its interval and count."""
    return _share("accuracy", float(right(margins).mean()), len(margins))


def _share(name: str, value: float, count: int) -> dict[str, float]:
    square = _Z * _Z
    middle = (value + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(value * (1 - value) / count + square / (4 * count * count))
    low, high = (middle - half if value > 0 else 0.0), (middle + half if value < 1 else 1.0)
    return {name: value, f"{name}/low": low, f"{name}/high": high, f"{name}/count": count}


def _mean(name: str, values: Tensor) -> dict[str, float]:
    """The mean of `values` [N] with its normal interval, which one value alone has none of."""
    count, centre = len(values), float(values.mean())
    half = _Z * float(values.std()) / math.sqrt(count) if count > 1 else 0.0
    return {name: centre, f"{name}/low": centre - half, f"{name}/high": centre + half, f"{name}/count": count}
