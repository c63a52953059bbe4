"""What a person sees while a run goes: plain lines in a pipe, a dashboard that leaves the terminal whole."""

import io
from collections.abc import Mapping

import pytest
from rich.console import Console

from wavalign.engine.run.observers import Observer, RunInfo, Silent
from wavalign_cli.displays import PlainDisplay, RichDisplay, _Patience, make_display, step_keys

INFO = RunInfo("hybrid", "runs/hybrid/1", 120, seed=7, fingerprint="07ab", hardware="2 x H200, bf16")
STEP = {
    "loss": 1.25, "loss/rl": -0.0228, "gate": 0.385, "gate/raw": 0.4, "reward": 3.5, "reward/answer": 4.0,
    "reward/answer/failed": 0.0, "kl/text": 0.02, "tokens_per_second": 3129.0, "step_seconds": 1.5,
}  # fmt: skip
HELD_OUT = {
    "accuracy": 0.25, "accuracy/low": 0.19, "accuracy/high": 0.31, "accuracy/count": 64.0, "accuracy/ceiling": 0.97,
    "evaluation_seconds": 4.0,
}  # fmt: skip
XTERM: Mapping[str, str] = {"TERM": "xterm-256color"}


class Stream(io.StringIO):
    """Text that says whether it is a terminal and in what encoding."""

    def __init__(self, *, terminal: bool = False, encoding: str = "utf-8") -> None:
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in the stubs
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


def drive(display: Observer) -> None:
    """A short run."""
    display.start(INFO)
    display.stage("align", 100)
    display.evaluation("heldout", HELD_OUT, "start")
    display.step(STEP, 9)
    display.step(STEP | {"loss": 10.5}, 10)
    display.rollout("How many\nlegs?", "Eight \x1b[31m蜘蛛\x1b[0m\x07", 4.5)
    display.message("checkpoint written")


def test_plain_lines() -> None:
    stream = Stream()
    display = PlainDisplay(stream)
    display.progress("encoding clips", 0, 2)
    display.progress("encoding clips", 1, 2)
    display.progress("encoding clips", 2, 2)
    drive(display)
    display.finish("runs/hybrid/1")
    display.close()
    assert stream.getvalue().splitlines() == [
        "encoding clips: 0/2 ...",
        "encoding clips: 2/2",
        "run hybrid: seed 7, 2 x H200, bf16, 120 steps",
        "folder runs/hybrid/1",
        "stage align: 100 steps",
        "held-out heldout, start of the stage:",
        "  accuracy     0.250  [0.190, 0.310]        gold    0.970  n 64",
        "step   9/100  loss     1.25  loss/rl  -0.0228  gate    0.385  reward     3.50  reward/answer     4.00"
        "  kl/text   0.0200  tokens_per_second    3,129  step_seconds     1.50",
        "step  10/100  loss     10.5  loss/rl  -0.0228  gate    0.385  reward     3.50  reward/answer     4.00"
        "  kl/text   0.0200  tokens_per_second    3,129  step_seconds     1.50",
        "  asked: How many legs?",
        "  said:  Eight 蜘蛛  (reward 4.50)",
        "checkpoint written",
        "finished",
        "heldout                 before  now   gold",
        "accuracy  0.250 [0.190, 0.310]       0.970",
        "runs/hybrid/1",
    ]


def test_plain_lines_carry_no_control_codes() -> None:
    stream = Stream()
    drive(PlainDisplay(stream))
    assert all(letter == "\n" or letter.isprintable() for letter in stream.getvalue())


def test_letters_that_the_pipe_cannot_carry_are_replaced() -> None:
    stream = Stream(encoding="ascii")
    drive(PlainDisplay(stream))
    assert "said:  Eight ??" in stream.getvalue()
    assert stream.getvalue().isascii()


def test_reader_that_went_away_does_not_stop_the_run() -> None:
    class Gone(Stream):
        writes = 0

        def write(self, text: str) -> int:
            self.writes += 1
            raise BrokenPipeError

    stream = Gone()
    drive(PlainDisplay(stream))
    assert stream.writes == 1


def test_value_that_is_no_number_is_said() -> None:
    stream = Stream()
    display = PlainDisplay(stream)
    display.stage("align", 3)
    display.step({"loss": float("nan")}, 1)
    assert stream.getvalue().splitlines()[-1] == "step 1/3  loss      nan"


def test_step_keys_are_in_order_and_leave_counts_out() -> None:
    keys = step_keys({"step_seconds": 1.0, **STEP})
    assert keys == [
        "loss", "loss/rl", "gate", "reward", "reward/answer", "kl/text", "tokens_per_second", "step_seconds",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "environment", "kind"),
    [
        (Stream(terminal=True), XTERM, RichDisplay),
        (Stream(terminal=True), {"TERM": "dumb"}, PlainDisplay),
        (Stream(terminal=True), {}, PlainDisplay),
        (Stream(terminal=True, encoding="ascii"), XTERM, PlainDisplay),
        (Stream(terminal=False), XTERM, PlainDisplay),
    ],
)
def test_display_suits_the_stream(stream: Stream, environment: Mapping[str, str], kind: type[Observer]) -> None:
    assert type(make_display(quiet=False, stream=stream, environment=environment)) is kind


def test_quiet_says_nothing() -> None:
    stream = Stream(terminal=True)
    display = make_display(quiet=True, stream=stream, environment=XTERM)
    assert type(display) is Silent
    drive(display)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("environment", [XTERM, {**XTERM, "NO_COLOR": "1"}])
def test_dashboard_colours_unless_told_not_to(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", environment["TERM"])
    stream = Stream(terminal=True)
    display = make_display(quiet=False, stream=stream, environment=environment)
    drive(display)
    display.close()
    assert ("\x1b[38;5;" in stream.getvalue()) is ("NO_COLOR" not in environment)


def terminal(stream: io.StringIO, *, width: int = 80, height: int = 40) -> Console:
    return Console(
        file=stream, force_terminal=True, width=width, height=height, color_system="256", _environ={"TERM": "xterm"}
    )


def run_that_fails(stream: io.StringIO) -> None:
    with RichDisplay(terminal(stream)) as display:
        drive(display)
        raise KeyError("inside the run")


def test_cursor_comes_back_after_an_error() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError):
        run_that_fails(stream)
    written = stream.getvalue()
    assert "\x1b[?25l" in written, "the dashboard never took the cursor"
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_finish_leaves_the_picture_and_the_summary() -> None:
    stream = io.StringIO()
    display = RichDisplay(terminal(stream))
    drive(display)
    display.finish("report   runs/hybrid/1/report.html")
    display.close()
    display.close()
    assert stream.getvalue().rstrip().endswith("report   runs/hybrid/1/report.html")
    assert "checkpoint written" in stream.getvalue()


def test_end_of_a_run_in_a_small_terminal_is_the_whole_result() -> None:
    stream = io.StringIO()
    display = RichDisplay(terminal(stream, width=40, height=8))
    display.start(INFO)
    display.stage("align", 100)
    names = [f"value_{index}" for index in range(20)]
    for name in names:
        display.evaluation("heldout", {name: 0.25, f"{name}/low": 0.2, f"{name}/high": 0.3}, "start")
    display.close()
    last = stream.getvalue().rpartition("heldout")[2]
    assert [name for name in names if name not in last] == []


def test_pipe_is_told_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    said: list[str] = []
    patience = _Patience(said.append, clock=lambda: now[0])
    patience.wait_for("reward judge", 0, 64)
    for seconds in (10.0, 29.0, 31.0, 40.0, 61.0, 90.0, 121.0):
        now[0] = seconds
        patience.wait_for("reward judge", int(seconds) // 2, 64)
        patience.tell()
    assert said == ["reward judge 15/64, 31 s", "reward judge 30/64, 1 min 01 s", "reward judge 60/64, 2 min 01 s"]
    patience.restart()
    now[0] = 1000.0
    patience.tell()
    assert len(said) == 3
    patience.close()


def test_hostile_text_cannot_command_the_terminal() -> None:
    stream = io.StringIO()
    display = RichDisplay(terminal(stream))
    display.start(INFO)
    for text in ("\x1b]0;title\x07", "\x1b[2J", "[bold]not markup[/bold]", "\u202eturned"):
        display.rollout(text, text, None)
        display.message(text)
    display.close()
    written = stream.getvalue()
    for command in ("\x1b]0", "\x07", "\x1b[2J", "\u202e"):
        assert command not in written
    assert "[bold]not markup[/bold]" in written


def test_terminal_that_is_gone_does_not_stop_the_run() -> None:
    stream = io.StringIO()
    display = RichDisplay(terminal(stream))
    display.start(INFO)
    display.close()
    stream.close()
    display.message("nobody hears")
    display.finish("nobody sees")


def test_an_alarm_stands_until_the_split_is_measured_without_it() -> None:
    stream = Stream(terminal=True)
    display = RichDisplay(Console(file=stream, force_terminal=True, width=100, height=40, no_color=True))
    drive(display)
    display.alarm("heldout", ["drift: the reward rose while heard fell"])
    assert "drift: the reward rose" in "\n".join(str(line) for line in display.board._lines(100, 30))
    display.alarm("heldout", [])
    assert "drift" not in "\n".join(str(line) for line in display.board._lines(100, 30))
    display.close()
    assert "drift: the reward rose" in stream.getvalue(), "it also scrolls away above"
    plain = Stream()
    PlainDisplay(plain).alarm("heldout", ["drift: a", "drift: b"])
    assert plain.getvalue().splitlines() == ["drift: a", "drift: b"]


def test_what_changed_is_decided_on_the_same_items() -> None:
    """Two intervals that overlap by far are told apart by their items, and two that do not are not without them."""
    later = HELD_OUT | {"accuracy": 0.35, "accuracy/low": 0.24, "accuracy/high": 0.45}
    far = HELD_OUT | {"accuracy": 0.95, "accuracy/low": 0.9, "accuracy/high": 0.99}
    stream = Stream()
    plain = PlainDisplay(stream)
    drive(plain)
    plain.evaluation("heldout", later, "middle")
    plain.changed("heldout", {"accuracy": 0.003, "accuracy/style=sad": 0.001})
    assert stream.getvalue().splitlines()[-1] == "  since the start, on the same items: accuracy +0.100"
    plain.evaluation("heldout", far, "end")
    plain.changed("heldout", {"accuracy": 0.2})
    assert stream.getvalue().splitlines()[-1] == "  since the start, on the same items: no difference shown"
    rich = RichDisplay(Console(file=Stream(terminal=True), force_terminal=True, width=100, height=40))
    drive(rich)
    for values, p, bold in ((later, 0.003, True), (far, 0.2, False)):
        rich.evaluation("heldout", values, "middle")
        rich.changed("heldout", {"accuracy": p})
        row = next(line for line in rich.board._lines(100, None) if line.plain.startswith("accuracy"))
        now = f"{values['accuracy']:.3f}"
        spans = [row.plain[each.start : each.end] for each in row.spans if each.style == "bold"]
        assert (now in "".join(spans)) is bold, (now, row.spans)
    rich.close()
