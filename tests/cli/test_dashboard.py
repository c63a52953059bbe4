"""The dashboard as text, at the widths terminals have.

The sparklines are counted by hand: twelve values in equal steps fall on bars 0 0 1 2 2 3 4 5 5 6 7 7.
"""

import io
import json
import math
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions

from wavalign.engine.run.observers import RunInfo
from wavalign_cli.dashboard import BARS, Board, printable, span, sparkline
from wavalign_cli.held_out import Measure, measures


def shown(board: Board, *, width: int, height: int = 40) -> list[str]:
    """The lines of the picture."""
    console = Console(file=io.StringIO(), record=True, width=width, height=height, _environ={})
    console.print(board.view())
    return console.export_text().splitlines()


@pytest.fixture
def board() -> Board:
    """Twelve of a hundred steps into a stage; the clock stands still."""
    made = Board(lambda: 0.0)
    made.start(RunInfo("hybrid", "runs/hybrid/1", 100, seed=7, hardware="2 x H200, bf16"))
    made.stage("align", 100)
    held_out = {"accuracy": 0.25, "accuracy/low": 0.19, "accuracy/high": 0.31, "accuracy/ceiling": 0.97}
    made.evaluation("heldout", held_out, "start")
    for step in range(1, 13):
        made.step(
            {
                "loss": 3.0 - step / 8, "loss/rl": -0.02, "loss/sft": 1.5, "gate": 0.1 * step / 2, "gate/raw": 0.7,
                "gate/direction": 0.9, "gate/information": 0.5, "reward": 2.0 + step / 8, "reward/answer": 3.5,
                "reward/answer/failed": 0.0, "kl/text": 0.02, "kl/audio": 0.005, "tokens_per_second": 3129.0,
                "step_seconds": 1.5, "truncated": 0.125, "rollout_length": 59.4,
            },
            step,
        )  # fmt: skip
    made.rollout("How many legs does a spider (蜘蛛) have?", "It has eight. " * 20, 4.5)
    return made


def test_speed_by_kind(board: Board) -> None:
    """Beside the tokens' curve: kinds that there are, rows, and the share of the peak where it is known."""
    rates = {"learned/text_tokens_per_second": 120.0, "learned/audio_tokens_per_second": 900.0}
    more = {"learned/marks_tokens_per_second": 0.0, "samples_per_second": 12.5, "mfu": 0.384}
    board.step({"loss": 1.0, "tokens_per_second": 1100.0, **rates, **more}, 13)
    (line,) = [line for line in shown(board, width=120) if line.startswith("tokens/s")]
    assert [part.strip() for part in line.split("  ")][-4:] == ["text 120", "audio 900", "rows/s 12.5", "MFU 38%"]


def test_picture_at_80_columns(board: Board) -> None:
    lines = [line.rstrip() for line in shown(board, width=80)]
    assert lines == [
        "hybrid  seed 7  2 x H200, bf16  runs/hybrid/1",
        lines[1],
        "",
        "loss        1.50  ██▇▆▆▅▄▃▃▂▁▁  rl −0.0200  sft 1.50",
        "reward      3.50  ▁▁▂▃▃▄▅▆▆▇██  answer 3.50",
        "gate λ     0.600  ▁▁▂▃▃▄▅▆▆▇██  raw 0.700  direction 0.900  information 0.500",
        "KL                              text 0.0200  audio 0.00500",
        "tokens/s   3,129  ▄▄▄▄▄▄▄▄▄▄▄▄  length 59.4  cut off 12%",
        "",
        "heldout                 before  now   gold",
        "accuracy  0.250 [0.190, 0.310]       0.970",
        "",
        "asked  How many legs does a spider (蜘蛛) have?",
        "said (4.50)  It has eight. It has eight. It has eight. It has eight. It has eig…",
    ]
    assert lines[1].startswith("align  ━━━──")
    assert " ".join(lines[1].split()).endswith("12/100 1.50 s a step, 2 min 12 s left")


@pytest.mark.parametrize("width", [20, 40, 80, 120, 240])
def test_no_line_is_wider_than_the_terminal(board: Board, width: int) -> None:
    assert max(cell_len(line) for line in shown(board, width=width)) <= width


def test_wide_terminal_draws_parts_and_names_the_folder(board: Board) -> None:
    lines = shown(board, width=120)
    assert "runs/hybrid/1" in lines[0]
    assert any("answer 3.50 ▄▄▄▄▄▄▄▄" in line for line in lines)


@pytest.mark.parametrize("height", [1, 4, 8, 12, 40])
def test_picture_fits_low_terminals(board: Board, height: int) -> None:
    lines = shown(board, width=80, height=height)
    assert len(lines) <= max(4, height)
    assert lines[0].startswith("hybrid")


def test_later_evaluation_stands_beside_the_first(board: Board) -> None:
    board.evaluation("heldout", {"accuracy": 0.75, "accuracy/low": 0.7, "accuracy/high": 0.8}, "end")
    row = next(line for line in shown(board, width=80) if line.startswith("accuracy"))
    assert "0.250 [0.190, 0.310]  0.750 [0.700, 0.800]" in row


MANY = (
    "text_accuracy",
    "heard_own_text",
    "heard_answer",
    "style_accuracy",
    "style_accuracy/style=sad",
    "speech_quality",
)


def three_splits(board: Board, when: str, value: float) -> None:
    """The quickstart's evaluation: three splits, more values than lines."""
    for split in ("heldout", "unseen_voices", "unseen_facts"):
        values: dict[str, float] = {}
        for name in MANY:
            values |= {name: value, f"{name}/low": value - 0.05, f"{name}/high": value + 0.05, f"{name}/ceiling": 1.0}
        board.evaluation(split, values, when)


@pytest.mark.parametrize(("width", "height", "rows"), [(80, 24, 8), (100, 30, 13), (40, 15, 4), (80, 8, 2)])
def test_table_shrinks_to_its_headlines(board: Board, width: int, height: int, rows: int) -> None:
    three_splits(board, "start", 0.4)
    lines = shown(board, width=width, height=height)
    assert len(lines) < height
    begin = next(index for index, line in enumerate(lines) if line.startswith("heldout"))
    assert "before" in lines[begin] and "now" in lines[begin]
    table = [line for line in lines[begin + 1 :] if "0.400" in line]
    headlines = ("text_accuracy", "heard_answer", "style_accuracy", "speech_quality")
    assert [line.split()[0] for line in table[: len(headlines)]] == list(headlines[: len(table)])
    assert len(table) >= rows
    assert ("0.400 [0.350, 0.450]" in table[0]) is (width >= 60), "intervals give way to narrow terminals"


def test_result_is_whole_whatever_the_terminal(board: Board) -> None:
    three_splits(board, "start", 0.4)
    three_splits(board, "end", 0.8)
    for width in (30, 80, 200):
        console = Console(file=io.StringIO(), record=True, width=width, height=5, _environ={})
        console.print(board.result(width), soft_wrap=True)
        text = console.export_text()
        assert "…" not in text
        assert [text.count(name) for name in ("heard_own_text", "style_accuracy/style=sad")] == [3, 3]
        assert text.count("0.800") >= 3 * len(MANY)


@pytest.mark.parametrize("width", [24, 60, 80, 100, 110, 130, 200])
def test_curves_and_parts_are_whole_at_every_width(board: Board, width: int) -> None:
    board.step({"loss": 1.0, "gate": 0.5, "gate/raw": -0.00123, "gate/best": 3.5, "gate/variance": 1234.0}, 13)
    lines = shown(board, width=width)
    start = next(index for index, line in enumerate(lines) if line.startswith("loss"))
    rows = lines[start : next(index for index in range(start, len(lines)) if not lines[index].strip())]
    assert not any("…" in line for line in rows)
    for part in ("raw −0.00123", "best 3.50", "variance 1,234"):
        assert sum(part in line for line in rows) == 1


def test_parts_are_drawn_where_all_of_them_can_be(board: Board) -> None:
    (row,) = [line for line in shown(board, width=150) if line.startswith("gate")]
    assert row.split("direction")[0].rstrip().endswith("▄▄▄▄▄▄▄▄")


def test_equal_values_are_level_though_their_means_differ_in_the_last_bit() -> None:
    assert sparkline([0.7] * 29, 8) == BARS[3] * 8


def test_end_of_an_interval_that_is_a_rounding_is_zero() -> None:
    assert Measure(0.02, 3.47e-18, 0.04, None, 9).interval == "[0, 0.0400]"
    assert Measure(3e-12, 1e-12, 5e-12, None, 9).interval == "[1.00e-12, 5.00e-12]"
    assert Measure(math.nan, 0.0, 1.0, None, 0).interval == ""


def test_what_takes_long_is_named_with_its_seconds() -> None:
    now = [0.0]
    board = Board(lambda: now[0])
    board.stage("align", 10)
    board.waiting("reward judge", 3, 64)
    assert not any("judge" in line for line in shown(board, width=80)), "what is quick does not flicker"
    now[0] = 90.0
    board.waiting("reward judge", 12, 64)
    assert "reward judge 12/64, 1 min 30 s" in shown(board, width=80)
    board.waiting("", 0, 0)
    assert not any("judge" in line for line in shown(board, width=80))


def test_run_that_goes_on_keeps_what_was_measured_before(tmp_path: Path) -> None:
    lines = [
        {"stage": "align", "step": 0, "split": "heldout", "accuracy": 0.25, "accuracy/low": 0.2, "accuracy/high": 0.3},
        {"stage": "align", "step": 1, "split": "train", "loss": 2.0},
        {"stage": "align", "step": 1, "split": "heldout", "accuracy": 0.5, "accuracy/low": 0.4, "accuracy/high": 0.6},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"stage": "al', encoding="utf-8")
    board = Board(lambda: 0.0)
    board.start(RunInfo("hybrid", str(tmp_path), 100))
    (row,) = [line for line in shown(board, width=80) if line.startswith("accuracy")]
    assert row.split() == ["accuracy", "0.250", "[0.200,", "0.300]", "0.500", "[0.400,", "0.600]"]


def test_terminal_of_another_size_is_drawn_afresh(board: Board) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=30, color_system="256", _environ={})
    console.print(board.view())
    console.print(board.view())
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[2J" not in console.file.getvalue()
    console.size = ConsoleDimensions(60, 30)
    console.print(board.view())
    assert "\x1b[2J\x1b[H" in console.file.getvalue()


def test_progress_takes_the_bar_until_it_is_through(board: Board) -> None:
    board.progress("sampling", 12, 64)
    assert "sampling" in shown(board, width=80)[1]
    assert "12/64" in shown(board, width=80)[1]
    board.progress("sampling", 64, 64)
    assert shown(board, width=80)[1].startswith("align")


def test_value_that_is_no_number_is_shown_and_not_drawn(board: Board) -> None:
    board.step({"loss": math.nan, "reward": math.inf}, 13)
    lines = shown(board, width=80)
    assert any(line.startswith("loss") and "nan" in line for line in lines)


def test_nothing_known_yet_is_a_picture_too() -> None:
    assert shown(Board(lambda: 0.0), width=80)[0] == "starting"


def test_estimate_counts_down_between_steps() -> None:
    now = [0.0]
    board = Board(lambda: now[0])
    board.start(RunInfo("hybrid", "runs/hybrid/1", 10))
    board.stage("align", 10)
    board.step({"loss": 1.0, "step_seconds": 10.0}, 1)
    assert "1 min 30 s left" in shown(board, width=80)[1]
    now[0] = 4.0
    assert "1 min 26 s left" in shown(board, width=80)[1]


def test_pace_is_measured_where_it_is_not_logged() -> None:
    now = [0.0]
    board = Board(lambda: now[0])
    board.stage("align", 3)
    now[0] = 5.0
    board.step({"loss": 1.0}, 1)
    assert "5.00 s a step, 10 s left" in shown(board, width=80)[1]


def test_sparkline_is_the_shape_of_the_values() -> None:
    assert sparkline([], 5) == ""
    assert sparkline([2.0, 2.0], 5) == BARS[3] * 2
    assert sparkline([0.0, 1.0], 5) == "▁█"
    assert sparkline([0.0, 0.0, 1.0, 1.0, 0.0, 0.0], 3) == "▁█▁"


def test_measures_take_values_with_intervals_or_ceilings() -> None:
    found = measures(
        {"a": 1.0, "a/low": 0.5, "a/high": 1.5, "a/count": 9.0, "b": 2.0, "b/ceiling": 3.0, "seconds": 4.0}
    )
    assert found == {"a": Measure(1.0, 0.5, 1.5, None, 9), "b": Measure(2.0, 2.0, 2.0, 3.0, None)}


@pytest.mark.parametrize(("seconds", "text"), [(9.4, "9 s"), (94, "1 min 34 s"), (3725, "1 h 02 min")])
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\tc", "a b c"), ("\x1b[1;31mred\x1b[0m", "red"), ("\x1b]0;title\x07x", "x"), ("\u202eright", "right"),
        ("蜘蛛", "蜘蛛"), ("\ud800x", "x"), ("\x1b", ""),
    ],
)  # fmt: skip
def test_printable_leaves_letters_only(text: str, line: str) -> None:
    assert printable(text) == line
