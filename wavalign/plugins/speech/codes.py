"""What codecs share: flat ids of several code books, the rate that is refused, and the digest of weights.

Flat ids are frame-major, and each code book has a range of its own: with books of `sizes` (A, B) the frames
(a0, b0), (a1, b1) are the ids a0, A + b0, a1, A + b1.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from wavalign.errors import DataError
from wavalign.plugins.batch import Waveform


def refuse_other_rate(waveform: Waveform, sample_rate: int) -> None:
    """Raise DataError unless `waveform` has `sample_rate` (Hz)."""
    if waveform.sample_rate != sample_rate:
        raise DataError(
            f"the codec takes {sample_rate} Hz, the sound has {waveform.sample_rate} Hz",
            hint="read the file with the codec's sample rate",
        )


def flat_ids(frames: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[int]:
    """Ids of `frames` [T, K], whose codes count from 0 in every code book of `sizes` [K]."""
    starts = _starts(sizes)
    return [start + code for frame in frames for start, code in zip(starts, frame, strict=True)]


def whole_frames(ids: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """Codes [T, K] of every K ids in a row that are one of each code book, in order; all other ids are left out."""
    starts, count, found, place = _starts(sizes), len(sizes), [], 0
    while place + count <= len(ids):
        frame = [identity - start for identity, start in zip(ids[place : place + count], starts, strict=True)]
        if all(0 <= code < size for code, size in zip(frame, sizes, strict=True)):
            found.append(frame)
            place += count
        else:
            place += 1
    return found


def digest(tensors: Mapping[str, Tensor], *facts: str) -> str:
    """16 hexadecimal digits that change with any value, name or shape of `tensors` and with any of `facts`."""
    total = hashlib.sha256()
    for fact in facts:
        total.update(f"{len(fact)}:{fact}".encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def _starts(sizes: Sequence[int]) -> list[int]:
    """First id of each code book."""
    return [0, *accumulate(sizes)][:-1]
