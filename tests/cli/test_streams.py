"""Streams that are closed, full or know few letters, and Ctrl-C at a moment when a library swallows it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from wavalign_cli import app as application

COMMAND = [sys.executable, "-m", "wavalign_cli"]


def shell(line: str, **changes: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHON": sys.executable, **changes}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=settings)


@pytest.mark.parametrize("closed", [">&-", "<&-", "<&- >&-"])
def test_closed_streams(closed: str) -> None:
    ended = shell(f"$PYTHON -m wavalign_cli --version {closed}")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_full_device_is_no_fault_of_the_program() -> None:
    ended = shell("$PYTHON -m wavalign_cli recipes list > /dev/full")
    assert ended.returncode == 1
    assert "error: cannot be written: No space left on device" in ended.stderr
    assert "fault in WavAlign" not in ended.stderr


def test_letters_that_an_encoding_lacks_are_spelt() -> None:
    line = "$PYTHON -m wavalign_cli validate $'r\u00e9cipe-\u2192.yaml'"
    ended = shell(line, PYTHONIOENCODING="ascii", LC_ALL="C.UTF-8")
    assert ended.returncode == 3
    assert r"r\xe9cipe-\u2192.yaml" in ended.stderr


def failing(error: Exception, *, interrupt: bool) -> Callable[[object], None]:
    def command(_: object) -> None:
        if interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born ignoring it
            try:
                os.kill(os.getpid(), signal.SIGINT)
                while True:  # until it is delivered
                    pass
            except KeyboardInterrupt:
                pass  # as an import of C code does
        raise error

    return command


@pytest.mark.parametrize("interrupt", [True, False])
def test_an_interrupt_that_became_another_error(monkeypatch: pytest.MonkeyPatch, interrupt: bool) -> None:
    error = AttributeError("module 'numpy' has no attribute 'x'")
    monkeypatch.setattr(application, "app", failing(error, interrupt=interrupt))
    assert application.main([]) == (130 if interrupt else 1)


def test_an_interrupt_during_the_imports() -> None:
    code = (
        "import sys, signal, os\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT); [0 for _ in range(10**6)]\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from wavalign_cli.__main__ import main\n"
        "sys.exit(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "")
