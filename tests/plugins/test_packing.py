"""Where segments stand in packed rows, what they see, and when packing is worth it."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wavalign.plugins.packing import LONGEST, PackingOptions, RowLayout, Unit, arrange, packing

CPU = torch.device("cpu")
BOTH = PackingOptions(share=True, pack=True, pairs=1e9)


def group(prefix: int, *rests: int, first: int = 0) -> Unit:
    return Unit(prefix, tuple((first + number,) for number in range(len(rests))), rests)


def alone(row: int, length: int) -> Unit:
    return Unit(0, ((row,),), (length,))


def test_answers_stand_behind_their_prompt_and_see_it_and_themselves() -> None:
    """[p p a | p p b b] as p p a b b: who sees whom, by hand."""
    found = packing([group(2, 1, 2)], [3, 4], BOTH, CPU)
    assert found is not None
    assert found.positions.tolist() == [[0, 1, 2, 2, 3]]
    assert found.source.tolist() == [[0, 1, 2, 4 + 2, 4 + 3]]
    assert found.place.tolist() == [[0, 1, 2, 0], [0, 1, 3, 4]]
    layout = RowLayout(found.positions, found.segment, found.prefix, found.source, torch.arange(8).view(2, 1, 4))
    seen = layout.mask(torch.float64) == 0
    assert seen.shape == (1, 1, 5, 5)
    assert seen[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 0, 1, 1],
    ]
    assert layout.ahead(1).tolist() == [
        [[1, 2, 3, 7, 7]]
    ]  # of the first row's own next token, and of none behind the last


def test_rows_behind_one_another_do_not_see_one_another() -> None:
    found = packing([alone(0, 3), alone(1, 2), alone(2, 1)], [3, 2, 1], BOTH, CPU)
    assert found is not None
    assert found.tokens == 6
    assert found.positions.tolist() == [[0, 1, 2], [0, 1, 0]]
    layout = RowLayout(found.positions, found.segment, found.prefix, found.source, torch.zeros(3, 1, 3).long())
    seen = layout.mask(torch.float32) == 0
    assert seen[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert seen[1, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_equal_rows_have_one_place() -> None:
    found = packing([Unit(2, ((0, 2), (1,)), (1, 2))], [3, 4, 3], BOTH, CPU)
    assert found is not None
    assert found.tokens == 5
    assert found.place[0].tolist() == found.place[2].tolist() == [0, 1, 2, 0]


def test_padding_sees_something() -> None:
    """A row of a softmax without anything would be NaN."""
    found = packing([group(6, 1, 1, 1), alone(3, 2)], [7, 7, 7, 2], BOTH, CPU)
    assert found is not None
    assert (found.segment == -1).any()
    layout = RowLayout(found.positions, found.segment, found.prefix, found.source, torch.zeros(4, 1, 7).long())
    assert bool((layout.mask(torch.float32) == 0).any(dim=-1).all())


def test_what_costs_no_less_is_left_as_it_is() -> None:
    assert packing([alone(0, 5), alone(1, 5)], [5, 5], BOTH, CPU) is None
    # 8 answers of 1000 behind 10: a row of 8010 would attend to itself for far more than 70 tokens are worth.
    lengths, unit = [1010] * 8, group(10, *[1000] * 8)
    assert arrange([unit], lengths, PackingOptions(share=True, pack=True, pairs=500)) is None
    long = group(1000, *[10] * 8)
    found = arrange([long], lengths, PackingOptions(share=True, pack=True, pairs=500))
    assert found is not None and found.tokens == 1080


def test_a_group_is_divided_where_one_row_of_it_would_mask_too_much() -> None:
    unit = group(1000, *[1000] * 4)
    found = arrange([unit], [2000] * 4, PackingOptions(share=True, pack=True, pairs=6000))
    assert found is not None
    assert [[each.length for each in row] for row in found.rows] == [[3000], [3000]]
    free = arrange([unit], [2000] * 4, BOTH)
    assert free is not None and free.tokens == 5000


def test_no_packed_row_is_longer_than_masks_are_made_for() -> None:
    count = 4 * LONGEST // 1000
    found = arrange([group(1000, *[1000] * count)], [2000] * count, BOTH)
    assert found is not None and found.length <= LONGEST
    single = arrange([alone(0, 3 * LONGEST), alone(1, 5), alone(2, 7)], [3 * LONGEST, 5, 7], BOTH)
    assert single is not None and single.length == 3 * LONGEST


units_of = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(0, 6), min_size=1, max_size=4)), min_size=1, max_size=6
)


@given(units_of, st.booleans())
def test_every_token_has_a_place_of_its_own_row(groups: Sequence[tuple[int, list[int]]], pack: bool) -> None:
    units: list[Unit] = []
    lengths: list[int] = []
    for prefix, rests in groups:
        if len(rests) == 1:
            units.append(alone(len(lengths), prefix + rests[0]))
        else:
            units.append(group(prefix, *rests, first=len(lengths)))
        lengths += [prefix + rest for rest in rests]
    found = packing(units, lengths, PackingOptions(share=True, pack=pack, pairs=1e12), CPU)
    if found is None:
        return
    width = max(lengths)
    layout = RowLayout(
        found.positions, found.segment, found.prefix, found.source, torch.zeros(len(lengths), 1, width).long()
    )
    seen = layout.mask(torch.float32)[:, 0] == 0
    for row, length in enumerate(lengths):
        places = found.place[row, :length]
        at, columns = places // found.positions.shape[1], places % found.positions.shape[1]
        assert len(set(at.tolist())) == 1
        assert found.positions.flatten()[places].tolist() == list(range(length))
        assert len(set(places.tolist())) == length
        for number in range(length):  # it sees exactly what stands before it in its own row
            assert seen[at[0], columns[number]].nonzero()[:, 0].tolist() == sorted(columns[: number + 1].tolist())
    assert sum(unit.length for unit in units) <= found.tokens


@pytest.mark.parametrize("rows", [[0], [1, 2], [2, 0, 3]])
def test_some_rows_alone(rows: list[int]) -> None:
    found = packing([group(4, 2, 1, 3), alone(3, 2)], [6, 5, 7, 2], BOTH, CPU)
    assert found is not None
    part = found.of(rows)
    if part is None:
        assert len(rows) == 1
        return
    assert part.lengths == tuple(found.lengths[row] for row in rows)
    for index, row in enumerate(rows):
        there = part.place[index, : found.lengths[row]]
        assert part.positions.flatten()[there].tolist() == list(range(found.lengths[row]))
    assert part.tokens <= sum(part.lengths) + 3
