"""Errors of a plugin's code: one guard for every kind and every moment.

Whatever comes out of a guarded block, `sys.exit(0)` and a `KeyboardInterrupt` of the plugin's own among it, becomes a
PluginError that names the plugin, the moment, and the file and line. Three things pass as they are: errors that speak
for themselves (a DataError names its file and record), a person's Ctrl-C, and memory that ran out in WavAlign's own
plugins, which is not their fault. Code that leaves the process's settings changed (`settings`) has failed as well.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import final

import torch

from wavalign.errors import (
    Interrupted,
    NonFiniteError,
    OutOfMemoryError,
    PluginError,
    PreflightError,
    RankLostError,
    ResumeError,
    RewardStopped,
    StorageError,
    quoted,
)
from wavalign.plugins.settings import Settings

SPEAKING = (
    PreflightError, NonFiniteError, OutOfMemoryError, RankLostError, ResumeError, RewardStopped, StorageError,
)  # fmt: skip
"""Errors with a meaning and an exit code of their own."""
LONGEST_TEXT = 1000
"""Characters of an exception's text in a message; the whole stands in the traceback's file."""
IMPORT = "import"
"""The moment of a file or package that is executed for the first time."""
OURS = "wavalign"
_HERE = Path(__file__).parent
_DEEPEST = 10
"""Of exceptions that caused one another, how many are looked at."""


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """Whose code runs."""

    kind: str
    type: str
    file: str
    """Of the class; empty where there is none."""
    name: str = ""
    """What the recipe calls it, e.g. `rewards.answer`."""
    own: bool = False
    """Whether it came with WavAlign."""

    def __str__(self) -> str:
        if not self.type:  # a file whose plugins are not known yet
            return self.file
        return f"{self.kind} '{self.type}'" + (f" ({self.name})" if self.name else "")

    def owns(self, file: str) -> bool:
        """Whether `file` is the plugin's, or belongs to it: a module beside it, or in its package."""
        if not self.file:
            return False
        if self.own:
            return Path(file).is_relative_to(_own_folder(self.file))
        beside = os.path.dirname(self.file)
        inside = file.startswith(beside + os.sep) and "site-packages" not in file[len(beside) :]
        # A single file in site-packages stands beside everybody else's.
        return file == self.file or (inside and os.path.basename(beside) != "site-packages")


def origin_of(plugin: type, kind: str, type_: str, name: str = "") -> Origin:
    """Where a plugin's class comes from."""
    module = sys.modules.get(plugin.__module__)
    file = str(vars(module).get("__file__") or "") if module is not None else ""
    return Origin(kind, type_, file, name, own=plugin.__module__.partition(".")[0] == OURS)


@final
class Broken(Exception):  # noqa: N818  # a word of the contract, not an error of its own
    """Raised inside a guard: what the plugin gave breaks its kind's contract; the text goes on from its name."""

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.text, self.hint = text, hint


@final
class Guard:
    """A block in which a plugin's code runs.

    `only` blames the plugin only where the traceback goes through its files: for blocks in which much else runs too.
    """

    __slots__ = ("_code", "_listens", "_moment", "_only", "_origin", "_passes", "_settings")

    def __init__(
        self,
        origin: Origin,
        moment: str,
        *,
        passes: tuple[type[BaseException], ...] = (),
        only: bool = False,
        code: CodeType | None = None,
    ) -> None:
        """`passes` leave the block as they are; `code` is what runs, to point at where nothing was raised."""
        self._origin, self._moment, self._passes, self._only, self._code = origin, moment, passes, only, code
        self._listens = False
        self._settings: Settings | None = None

    def __enter__(self) -> None:
        self._settings = None if self._origin.own else Settings()
        self._listens = _ctrl_c.listen()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pressed = _ctrl_c.pressed
        if self._listens:
            _ctrl_c.stop()
        changed = self._settings.put_back() if self._settings is not None else ""
        if changed and error is None:
            raise left_changed(self._origin, self._moment, changed, code=self._code)
        if error is None or isinstance(error, (Interrupted, *SPEAKING, *self._passes)):
            return
        if isinstance(error, KeyboardInterrupt) and pressed:
            return
        if isinstance(error, PluginError) and error.placed:
            return
        if self._origin.own and is_out_of_memory(error):
            return
        if self._only and not self._was_in_it(error):
            return
        raise fault(self._origin, self._moment, error, code=self._code) from error

    def _was_in_it(self, error: BaseException) -> bool:
        """Whether the traceback goes through the plugin's files.

        Of WavAlign's own only where it ends there: a device or a network that fails does so deeper down.
        """
        files = [file for file, _ in places(error)]
        return any(self._origin.owns(file) for file in (files[:1] if self._origin.own else files))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether a device or the host refused memory, be it that a plugin's fault was made of it."""
    if isinstance(error, PluginError):
        return is_out_of_memory(error.__cause__)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # The allocator of the CPU has no exception of its own.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def fault(origin: Origin, moment: str, error: BaseException, *, code: CodeType | None = None) -> PluginError:
    """The PluginError of an exception that came out of `origin`'s code."""
    shown = traceback.TracebackException.from_exception(error)  # also of exceptions whose own text raises
    place = _place(origin, error, code)
    if isinstance(error, Broken):
        message, hint = f"{origin}: {moment} {error.text}{place}", error.hint
    elif isinstance(error, PluginError):
        message, hint = f"{origin}: {error.message}{place}", error.hint
    else:
        raised = _words(error, shown)
        verb = f" failed to {IMPORT}:" if moment == IMPORT else f": {moment} raised"
        message, hint = f"{origin}{verb} {raised}{place}", ""
    if not hint:
        hint = f"this is a fault in WavAlign's {origin.kind} '{origin.type}'" if origin.own else "mend the plugin"
    return PluginError(message, hint=hint, placed=True)


def left_changed(origin: Origin, moment: str, changed: str, *, code: CodeType | None = None) -> PluginError:
    """The PluginError of code that has left settings of the process changed."""
    hint = "set it for a block only (`with torch.no_grad():`), or hand dtype and device to what makes a tensor"
    return fault(origin, moment, Broken(f"changed {changed}, for everybody", hint=hint), code=code)


def words(error: BaseException) -> str:
    """Type and text of an exception, cut short; also of one whose own text raises."""
    return _words(error, traceback.TracebackException.from_exception(error))


def places(error: BaseException) -> Iterator[tuple[str, int]]:
    """File and line of every frame an exception came through, the innermost first."""
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        lines.append((error.filename, error.lineno or 1))
    yield from reversed(lines)


def _place(origin: Origin, error: BaseException, code: CodeType | None) -> str:
    """` (file:line)` where the plugin's own code was left, else where it begins, else its file."""
    cause: BaseException | None = error
    for _ in range(_DEEPEST):
        if cause is None:
            break
        for file, line in places(cause):
            if origin.owns(file):
                return f" ({file}:{line})"
        cause = cause.__cause__  # of a Broken what led to it; of a generator's RuntimeError the StopIteration
    if code is not None:
        return f" ({code.co_filename}:{code.co_firstlineno})"
    return f" ({origin.file})" if origin.file else ""


def _own_folder(file: str) -> Path:
    """Folder of a kind's built-in plugins: some of them are more than one file."""
    path = Path(file)
    return _HERE / path.relative_to(_HERE).parts[0] if path.is_relative_to(_HERE) else path


def _words(error: BaseException, shown: traceback.TracebackException) -> str:
    text = str(shown)
    return f"{type(error).__name__}: {_shortened(text)}" if text else type(error).__name__


def _shortened(text: str) -> str:
    return quoted(text, LONGEST_TEXT)


@final
class _CtrlC:
    """Tells a person's Ctrl-C from a KeyboardInterrupt that a plugin raises.

    During a run signals have a handler that raises no KeyboardInterrupt. Elsewhere Python's own is replaced while a
    plugin runs by one that notes the press and then does the same.
    """

    def __init__(self) -> None:
        self.pressed = False

    def listen(self) -> bool:
        """Take the place of Python's handler; False where it is not there, or this is not the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return False
        self.pressed = False
        signal.signal(signal.SIGINT, self._take)
        return True

    def stop(self) -> None:
        """Give Python's handler its place back."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.pressed = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        signal.default_int_handler(number, frame)


_ctrl_c = _CtrlC()
