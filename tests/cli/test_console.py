"""What a terminal gets and what a pipe gets."""

import io
import re

import pytest

from wavalign_cli.console import aligned, is_coloured, say_table


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("name", "what"), [("a", "[x] one"), ("long", "two " * 40)])
    assert capsys.readouterr().out == f"a     [x] one\nlong  {('two ' * 40).rstrip()}\n"
    assert aligned([]) == []


def test_a_terminal_gets_a_table_of_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    say_table(("name", "what"), [("a", "[x] one"), ("long", "two " * 40)])
    assert "\x1b[3" not in screen.getvalue(), "a colour"
    lines = re.sub(r"\x1b\[\d*m", "", screen.getvalue()).splitlines()
    assert "name" in "".join(lines[:2])
    assert any("[x] one" in line for line in lines)
    assert max(map(len, lines)) <= 40


@pytest.mark.parametrize(("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert is_coloured(Terminal()) is coloured
    assert not is_coloured(io.StringIO())
