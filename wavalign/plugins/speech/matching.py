"""Which items of two sequences are the same, in order."""

from collections.abc import Hashable, Sequence

import numpy as np


def matches(said: Sequence[Hashable], wanted: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Places (i, j) at which `said[i] == wanted[j]`, rising in both and as many as there can be.

    This is the alignment of the least edits where an edit adds or leaves out one item: a longest common subsequence.
    """
    if not said or not wanted:
        return []
    number = {item: index for index, item in enumerate(dict.fromkeys((*said, *wanted)))}
    theirs = np.array([number[item] for item in wanted])
    best = np.zeros((len(said) + 1, len(wanted) + 1), dtype=np.int64)
    for i, item in enumerate(said):
        row = np.maximum(best[i, 1:], best[i, :-1] + (theirs == number[item]))
        best[i + 1, 1:] = np.maximum.accumulate(row)
    found, i, j = [], len(said), len(wanted)
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            found.append((i, j))
    return found[::-1]
