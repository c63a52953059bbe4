"""Word errors: the fewest insertions, deletions and substitutions that turn what was said into what was to be said."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from wavalign.plugins.speech.wording import tokens

Weighted = tuple[str, float]
"""A word and how much it counts."""


def edit_distance(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> int:
    """Fewest changes of single elements that make `wanted` of `found` (Levenshtein, 1966), a row at a time.

        d[i, j] = min(d[i-1, j-1] + (found[i] != wanted[j]), d[i-1, j] + 1, d[i, j-1] + 1)

    The last of the three is a running minimum of d[i, j] - j.
    """
    numbers = {each: number for number, each in enumerate(dict.fromkeys((*found, *wanted)))}
    others, places = np.asarray([numbers[each] for each in wanted], np.int64), np.arange(len(wanted) + 1)
    row = places.copy()
    for number, each in enumerate(found, start=1):
        above = np.minimum(row[1:] + 1, row[:-1] + (others != numbers[each]))
        row = np.minimum.accumulate(np.concatenate([[number], above]) - places) + places
    return int(row[-1])


def word_errors(
    heard: str, wanted: Sequence[str], *, by: Callable[[str], tuple[str, ...]] = tokens
) -> tuple[int, int] | None:
    """Errors and reference words of what was heard, by the nearest of `wanted`; None where nothing is wanted.

    `by` makes of a text what is compared.
    """
    said = by(heard)
    found = [(edit_distance(said, words), len(words)) for words in map(by, wanted) if words]
    return min(found, key=lambda pair: (pair[0] / pair[1], pair[0])) if found else None


def weighted_errors(said: Sequence[Weighted], wanted: Sequence[Weighted]) -> float:
    """The same fewest changes where words count differently: one that counts 0 may come and go for nothing.

    d[i, j] = min(d[i-1, j-1] + [said_i != wanted_j] max(u_i, w_j), d[i-1, j] + u_i, d[i, j-1] + w_j)
    """
    row = [0.0]
    for _, weight in wanted:
        row.append(row[-1] + weight)
    for word, extra in said:
        above, row = row, [row[0] + extra]
        for place, (other, weight) in enumerate(wanted):
            changed = above[place] + (0.0 if word == other else max(extra, weight))
            row.append(min(changed, above[place + 1] + extra, row[place] + weight))
    return row[-1]
