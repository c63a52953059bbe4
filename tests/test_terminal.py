"""Foreign text is shown, and does nothing; tracebacks are kept where nobody else reads or steers them."""

import io
import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.runs import here
from tests.e2e.test_bad_input import SUPERVISED, written
from tests.toy.compiled import put
from wavalign import crash_log
from wavalign.errors import UsageError
from wavalign.redaction import REDACTOR
from wavalign.terminal import redacted_streams, visible
from wavalign_cli.console import Format, output_format
from wavalign_cli.failures import show_crash, show_error

HOSTILE = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202egpj\u2066\r\x08[bold]b[/bold] ::warning::x\ud800"
HARMLESS = "héllo 你好 \u200d🙂\tb\n"


def test_controls_are_written_out() -> None:
    shown = visible(HOSTILE)
    assert shown.isprintable()
    assert "\\x1b]0;title\\x07\\x1b[31mred\\x9b2J\\u202egpj\\u2066\\x0d\\x08[bold]b[/bold]" in shown
    assert visible(HARMLESS) == HARMLESS
    assert visible("a\nb", keep="") == "a\\x0ab"


@pytest.mark.parametrize("form", list(Format))
def test_errors_do_not_steer_a_terminal(form: Format, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as an error with a name nor as a crash; rich markup is text; GitHub's lines stay one line each."""
    output_format.set(form)
    show_error(UsageError(f"no file {HOSTILE}\nsecond", hint=HOSTILE))
    show_crash(RuntimeError(f"{HOSTILE}\nsecond"))
    output = "".join(capsys.readouterr())
    assert all(letter.isprintable() or letter == "\n" for letter in output)
    assert "[bold]b[/bold]" in output
    if form is Format.GITHUB:
        assert [line[:8] for line in output.splitlines()] == ["::error ", "::error "]
        assert "%0Asecond" in output


def test_a_plugins_exception_on_the_way_to_the_terminal(tmp_path: Path) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text('raise RuntimeError("\\x1b]0;owned\\x07\\x1b[2J\\u202e")\n', encoding="utf-8")
    ended = here("run", written(tmp_path, *SUPERVISED, put("plugins", [str(plugin)])))
    assert ended.code == 4, ended.output
    assert "\\x1b]0;owned" in ended.output
    assert "\x1b" not in ended.output
    assert "\u202e" not in ended.output


# --- crash logs -------------------------------------------------------------------------------------------------------


def test_a_traceback_is_private_and_unguessable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    REDACTOR.learn("s3cr3t-value", "${env:KEY}")
    before = os.umask(0)
    try:
        first, second = (crash_log.keep_traceback(RuntimeError("s3cr3t-value \x1b[2J")) for _ in range(2))
    finally:
        os.umask(before)
    assert first is not None
    assert second is not None
    assert first != second
    assert first.parent == tmp_path
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    text = first.read_text(encoding="utf-8")
    assert "RuntimeError: ${env:KEY} \\x1b[2J" in text


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where somebody knew the name."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("wavalign.crash_log.secrets.token_hex", lambda _: "0" * 16)
    monkeypatch.setattr("wavalign.crash_log.time.strftime", lambda _: "20260101-000000")
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (tmp_path / "crash-20260101-000000-0000000000000000.log").symlink_to(victim)
    assert crash_log.keep_traceback(RuntimeError("x")) is None
    assert victim.read_text(encoding="utf-8") == "precious"


def test_it_lies_in_the_runs_folder(tmp_path: Path) -> None:
    token = crash_log.run_folder.set(tmp_path)
    try:
        kept = crash_log.keep_traceback(RuntimeError("x"))
    finally:
        crash_log.run_folder.reset(token)
    assert kept is not None
    assert kept.parent == tmp_path


def test_what_is_printed_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    REDACTOR.learn("s3cr3t-value", "${env:KEY}")
    with redacted_streams():
        print("it is s3cr3t-value")
        sys.stdout.writelines(["s3cr3t-value", "\n"])
    assert out.getvalue() == "it is ${env:KEY}\n${env:KEY}\n"
    assert sys.stdout is out
