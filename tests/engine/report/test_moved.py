"""What has changed between two measurements of a split, item by item."""

from collections.abc import Sequence

import pytest

from wavalign.engine.report.outcomes import Outcome, Split, keyed, moved
from wavalign.engine.report.paired import holm, paired_p


def split(**values: Sequence[float | None]) -> Split:
    """One measurement; `a_b` stands for the part `a/b=x`."""
    count = len(next(iter(values.values())))
    named = {name.replace("_", "/"): items for name, items in values.items()}
    rows = [{name: items[i] for name, items in named.items()} for i in range(count)]
    return keyed(Outcome("s", 0, "heldout", i, f"d{i // 2}", "", "", None, None, row, {}) for i, row in enumerate(rows))


def test_values_and_their_parts_are_corrected_apart() -> None:
    before = split(heard=[0.0] * 12, text=[1.0, 0.0] * 6, still=[1.0] * 12, heard_sad=[0.0] * 6 + [None] * 6)
    after = split(heard=[1.0] * 8 + [0.0] * 4, text=[0.0, 1.0] * 6, still=[1.0] * 12, heard_sad=[1.0] * 6 + [None] * 6)
    found = moved(before, after)
    assert set(found) == {"heard", "text", "heard/sad"}, "what is right everywhere is no further look"
    alone = [2 / 2**8, 1.0]
    assert [found["heard"], found["text"]] == pytest.approx(holm(alone))
    assert found["heard/sad"] == pytest.approx(2 / 2**6) == paired_p([1.0] * 6, [0.0] * 6)


def test_items_are_paired_by_their_dialogue() -> None:
    before, after = split(heard=[0.0] * 6), split(heard=[1.0] * 10)
    assert moved(before, after) == {"heard": pytest.approx(2 / 2**6)}
    assert moved(before, {}) == {}
