"""Positions in a batch of the features of user sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wavalign.plugins.batch import SoundSegment


@final
@dataclass(frozen=True, slots=True)
class BatchFeatures:
    """Features of a batch, each distinct segment once, and the M positions that take them."""

    values: Tensor
    """[N, D]."""
    rows: Tensor
    """[M] row of each position."""
    columns: Tensor
    """[M] place of each position in its row."""
    source: Tensor
    """[M] index into `values` of what each position takes."""


def place_features(
    rows: Sequence[Sequence[SoundSegment]], shifts: Sequence[int], device: torch.device
) -> BatchFeatures | None:
    """Lay out the segments of `rows`, each row's positions moved by its shift; None where there are no features.

    Rows of a group share their segments, which are then adapted once. Raises ValueError where a segment does not have a
    feature for every position.
    """
    first: dict[int, int] = {}
    values: list[Tensor] = []
    places: list[Tensor] = []
    filled = 0
    for row, (segments, shift) in enumerate(zip(rows, shifts, strict=True)):
        for segment in segments:
            count = len(segment.values)
            if count != segment.length:
                raise ValueError(f"{count} features for {segment.length} positions")
            if id(segment.values) not in first:
                first[id(segment.values)] = filled
                values.append(segment.values)
                filled += count
            steps = torch.arange(count)
            begin = first[id(segment.values)]
            places.append(torch.stack([torch.full_like(steps, row), segment.start + shift + steps, begin + steps]))
    if not values:
        return None
    row_of, column_of, source = torch.cat(places, dim=1).to(device)
    return BatchFeatures(torch.cat(values).to(device), row_of, column_of, source)


def no_features(size: int, device: torch.device) -> BatchFeatures:
    """One feature of zeros [1, size] that no position takes."""
    nowhere = torch.empty(0, dtype=torch.int64, device=device)
    return BatchFeatures(torch.zeros(1, size, device=device), nowhere, nowhere, nowhere)
