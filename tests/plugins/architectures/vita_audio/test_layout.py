"""Interleaving, roles, the schedule of heads, and the end of text."""

from itertools import islice, product

import pytest
import torch
from torch import Tensor

from wavalign.plugins.api import Buffers
from wavalign.plugins.architectures.vita_audio.layout import (
    HeadSchedule,
    TextWatch,
    VitaLayout,
    WatchTable,
    head_schedule,
)
from wavalign.plugins.batch import Role

BOA, EOA, END, STOP, FIRST = 90, 91, 92, 93, 100


def layout(*ratio: int) -> VitaLayout:
    return VitaLayout(BOA, EOA, END, STOP, first_code=FIRST, num_codes=64, ratio=ratio)


def picture(ids: list[int]) -> str:
    return "".join({BOA: "[", EOA: "]", END: "."}.get(x, "a" if x >= FIRST else "t") for x in ids)


@pytest.mark.parametrize(
    ("ratio", "text", "audio", "expected"),
    [
        ((1, 10, 4, 10), 9, 24, "t[aaaaaaaa]tttt[aaaaaaaa]tttt[aaaaaaaa]"),
        ((1, 10, 4, 10), 9, 40, "t[aaaaaaaa]tttt[aaaaaaaa]tttt[aaaaaaaaaaaaaaaaaaaaaaaa]"),
        ((1, 10, 4, 10), 20, 24, "t[aaaaaaaa]tttt[aaaaaaaa]ttttttttttttttt[aaaaaaaa]"),
        ((1, 4, 3, 8, 4, 10), 12, 30, "t[aa]ttt[aaaaaa]tttt[aaaaaaaa]tttt[aaaaaaaaaaaaaa]"),
        ((1, 10), 0, 3, "[aaa]"),
        ((1, 10), 3, 0, "ttt"),
        ((1, 10), 0, 0, ""),
    ],
)
def test_interleave_matches_the_published_examples(
    ratio: tuple[int, ...], text: int, audio: int, expected: str
) -> None:
    assert picture(layout(*ratio).interleave(list(range(text)), list(range(audio)))) == expected


@pytest.mark.parametrize("ratio", [(1, 10, 4, 10), (1, 4, 3, 8, 4, 10), (1, 3), (2, 5), (13, 28), (3, 4, 1, 9)])
def test_deinterleave_undoes_interleave_for_all_small_sizes(ratio: tuple[int, ...]) -> None:
    made = layout(*ratio)
    for text, audio in product(range(31), range(31)):
        words, codes = [40 + i for i in range(text)], list(range(audio))
        ids = made.interleave(words, codes)
        roles = made.roles(torch.tensor([*ids, END]), made.role_table(168))
        assert made.deinterleave([*ids, END], roles.tolist()) == (words, codes)
        assert roles[-1] == (Role.AUDIO_MARK if codes else Role.TEXT_END)
        assert ids.count(BOA) == ids.count(EOA)


def test_role_table_gives_every_id_one_role() -> None:
    table = layout(1, 10).role_table(168)
    expected = {BOA: Role.AUDIO_MARK, EOA: Role.AUDIO_MARK, END: Role.TEXT_END, STOP: Role.TEXT_END}
    for index in range(168):
        kind = Role.AUDIO if FIRST <= index < FIRST + 64 else Role.TEXT
        assert table[index] == expected.get(index, kind)


def modes(schedule: tuple[int, ...], length: int, modules: int = 10) -> str:
    return "".join("m" if head else "M" for head in islice(head_schedule(schedule, modules), length))


def test_schedule_matches_the_published_pattern() -> None:
    assert modes((1, 10, 4, 10), 41) == "MmmmmmmmmmmMMMMmmmmmmmmmmMMMMmmmmmmmmmmMM"
    assert modes((1, 10, 4, 10), 36) == "MmmmmmmmmmmMMMMmmmmmmmmmmMMMMmmmmmmm"
    assert modes((8192, 0), 9000) == "M" * 9000


def test_schedule_takes_the_modules_in_turn_and_falls_back_where_they_run_out() -> None:
    assert list(islice(head_schedule((1, 3), 10), 8)) == [0, 1, 2, 3, 0, 1, 2, 3]
    assert list(islice(head_schedule((1, 5), 3), 12)) == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 0, 1]
    assert set(islice(head_schedule((1, 5), 0), 20)) == {0}


def watch_of(made: VitaLayout, count: int) -> TextWatch:
    rows, shared = Buffers(), Buffers()
    rows["finished"] = torch.zeros(count, dtype=torch.bool)
    return TextWatch(made, rows, shared)


def watch(made: VitaLayout, ids: list[int]) -> list[bool]:
    """What the watch says after each id, of a row that stands between two others."""
    table, seen = made.role_table(168), watch_of(made, 3)
    other = torch.tensor(5)
    found = []
    for x in ids:
        row: Tensor = torch.stack([other, torch.tensor(x), other])
        seen.append(row, table[row])
        found.append(bool(seen.over[1]))
    return found


@pytest.mark.parametrize("ratio", [(1, 10, 4, 10), (1, 4, 3, 8, 4, 10), (2, 5)])
def test_text_watch_speaks_only_where_no_text_follows(ratio: tuple[int, ...]) -> None:
    """In well-formed answers it is silent while text is to come, and speaks where a short or merged chunk says so."""
    made, spoken = layout(*ratio), 0
    for text, audio in product(range(1, 15), (1, 2, 3, 6, 8, 9, 17, 30)):
        ids = made.interleave([40] * text, [0] * audio)
        last_text = max(i for i, x in enumerate(ids) if x == 40)
        over = watch(made, ids)
        assert not any(over[: last_text + 1]), (text, audio)
        spoken += any(over)
    assert spoken > 40


def test_text_watch_knows_short_and_merged_chunks() -> None:
    made = layout(1, 4, 4, 4)
    assert watch(made, [40, BOA]) == [False, False]
    assert watch(made, [40, BOA, 100, EOA, 40, 40, BOA]) == [False] * 6 + [True]
    assert watch(made, [40, 40, BOA, 100, EOA, 40, END]) == [False] * 2 + [True] * 5  # over stays over
    assert watch(made, [40, BOA, 100, EOA, 40, 40, 40, 40, 40, BOA]) == [False] * 9 + [True]
    assert watch(made, [40, 40, BOA]) == [False, False, True]
    assert watch(made, [BOA]) == [True]


@pytest.mark.parametrize("ratio", [(1, 10, 4, 10), (1, 4, 3, 8, 4, 10), (2, 5), (20_000, 5, 3, 4)])
def test_what_is_looked_up_is_what_the_watch_says(ratio: tuple[int, ...]) -> None:
    """For answers of marks, words and codes at random, most of them malformed."""
    made, generator = layout(*ratio), torch.Generator().manual_seed(0)
    alphabet = torch.tensor([40, 40, 40, 41, made.begin_audio, made.end_audio, 100, 163, made.end_turn, made.end_text])
    rows, shared = Buffers(), Buffers()
    rows["finished"] = torch.zeros(300, dtype=torch.bool)
    looked_up, said, table = WatchTable(made, 168, rows, shared), watch_of(made, 300), made.role_table(168)
    for _ in range(60):
        ids = alphabet[torch.randint(len(alphabet), (300,), generator=generator)]
        assert torch.equal(looked_up.append(ids), said.append(ids, table[ids]))
        assert torch.equal(looked_up.over, said.over)
    assert int(said.over.sum()) > 0


@pytest.mark.parametrize("schedule", [(8192, 0), (1, 10, 4, 10), (2, 3, 2, 1), (3, 2, 1, 5), (1, 5, 1, 0)])
@pytest.mark.parametrize("modules", [0, 1, 3, 10])
def test_a_turn_is_known_without_those_before_it(schedule: tuple[int, ...], modules: int) -> None:
    known, turns = HeadSchedule(schedule, modules), list(islice(head_schedule(schedule, modules), 60))
    assert [known.head(turn) for turn in range(60)] == turns
    for head in range(modules + 1):
        for turn in range(30):
            assert known.comes(head, turn) or head not in turns[turn:]
            assert known.comes(head, turn) or not known.comes(head, turn + 1)
