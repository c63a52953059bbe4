import itertools
import random

from wavalign.plugins.speech.matching import matches


def longest(a: list[int], b: list[int]) -> int:
    """By its definition."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return longest(a[:-1], b[:-1]) + 1
    return max(longest(a[:-1], b), longest(a, b[:-1]))


def test_as_many_as_there_can_be_and_in_order() -> None:
    draw = random.Random(3)
    for _ in range(60):
        a, b = ([draw.randrange(4) for _ in range(draw.randrange(8))] for _ in range(2))
        found = matches(a, b)
        assert len(found) == longest(a, b)
        assert all(a[i] == b[j] for i, j in found)
        assert all(before[0] < after[0] and before[1] < after[1] for before, after in itertools.pairwise(found))


def test_words() -> None:
    assert matches(["what", "is", "the", "name"], ["what", "was", "the", "other", "name"]) == [(0, 0), (2, 2), (3, 4)]
    assert matches([], [1]) == []
