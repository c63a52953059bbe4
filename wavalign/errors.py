"""What can go wrong, as a tree, and how each kind leaves the process.

WavAlignError                        exit 1   run failed
├── UsageError                       exit 2   the command line is wrong
├── RecipeError                      exit 3   the recipe is wrong; carries every Problem at once
├── PluginError                      exit 4   a plugin is missing, broken or breaks its contract
├── PreflightError                   exit 5   the recipe is right, the world around it is not
│   ├── DataError                             a file or record that cannot be read
│   └── CheckpointError                       weights that do not fit, are torn or are refused
├── RewardBudgetError                exit 6   more rewards failed than the recipe allows
├── RewardStopped                    exit 6   a reward cannot go on: its budget is spent, its service refuses to serve
├── ResumeError                      exit 7   the checkpoint belongs to another plan
├── NonFiniteError                   exit 1   a loss or gradient is NaN or infinite
├── OutOfMemoryError                 exit 1   a micro-batch does not fit into memory
├── StorageError                     exit 1   the disk is full or refuses to be written
├── FolderBusyError                  exit 1   another run holds the folder
├── UnfinishedError                  exit 1   the run ended and something of it is missing
├── RankLostError                    exit 75  a process of the run stopped answering; the run ends as that one does
├── WorkersError                     exit as the process that failed first
└── Interrupted                      exit 128 + signal, after a checkpoint was written

`cli/app.py` is the only place that turns one of these into an exit code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from wavalign.crash_log import keep_traceback
from wavalign.redaction import REDACTOR

MOST_QUOTED, MOST_SAID = 80, 2000
"""Letters of foreign text that a message repeats, and of a whole message."""


def quoted(text: object, most: int = MOST_QUOTED) -> str:
    """Text of somebody else as part of a message: of a long one the beginning, the end and how long it is."""
    said = REDACTOR.text(str(text))  # before it is cut: half a secret is not recognised
    if len(said) <= most:
        return said
    return f"{said[: most * 2 // 3]}... ({len(said):,} characters) ...{said[-(most // 4) :]}"


@final
@dataclass(frozen=True, slots=True)
class Where:
    """A place in a recipe file; line and column count from 1."""

    file: str
    line: int
    column: int
    text: str = ""
    """The offending line, as written, for the excerpt."""
    via: str = ""
    """How the value came here when not written in the recipe itself, e.g. `from base.yaml:9`, `--set`."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a recipe, with where it stands and what to do about it."""

    code: str
    """Stable, greppable: `unknown_key`, `wrong_type`, `bad_value`, `geometry`, ..."""
    path: str
    """Dotted path in the recipe, e.g. `objective.terms.rl.loss.clip`."""
    message: str
    hint: str = ""
    where: Where | None = None

    def __post_init__(self) -> None:
        """Cut what is foreign and long, whoever wrote the problem."""
        object.__setattr__(self, "path", quoted(self.path, 4 * MOST_QUOTED))
        object.__setattr__(self, "message", quoted(self.message, MOST_SAID))
        object.__setattr__(self, "hint", quoted(self.hint, MOST_SAID))


class WavAlignError(Exception):
    """Base of every error a person can cause or must see; `hint` says what to do next."""

    exit_code: int = 1
    code: ClassVar[str] = "run_failed"

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message, self.hint = quoted(message, MOST_SAID), quoted(hint, MOST_SAID)
        super().__init__(self.message)


@final
class UsageError(WavAlignError):
    """The command line asks for something that does not exist or contradicts itself."""

    exit_code = 2
    code = "usage"


@final
class RecipeError(WavAlignError):
    """The recipe is invalid; `problems` holds everything found, in file order."""

    exit_code = 3
    code = "recipe_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the recipe")
        self.problems = tuple(problems)


class PluginError(WavAlignError):
    """A plugin could not be imported, is registered twice or breaks its kind's contract."""

    exit_code = 4
    code = "plugin_failed"

    def __init__(self, message: str, *, hint: str = "", placed: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.placed = placed
        """Whether the message names the plugin already."""
        self.kept_in = ""
        """The file that holds the traceback, once it is written."""

    def keep_traceback(self) -> None:
        """Write where the failure came from, once, and let the hint name the file."""
        path = keep_traceback(self) if self.__cause__ is not None and not self.kept_in else None
        if path is not None:
            self.kept_in = str(path)
            self.hint = f"{self.hint}; the traceback is in {path}".removeprefix("; ")


class PreflightError(WavAlignError):
    """The recipe is valid but what it points to (data, weights, disk, devices) is not ready."""

    exit_code = 5
    code = "preflight_failed"


@final
class DataError(PreflightError):
    """A data file or record cannot be read; names the file and, where there is one, the line."""

    code = "data_unreadable"


@final
class CheckpointError(PreflightError):
    """Weights are missing, torn, of another shape, or in a format that is refused."""

    code = "checkpoint_unreadable"


@final
class RewardBudgetError(WavAlignError):
    """More reward calls failed than `runtime.reward_failure_budget` allows."""

    exit_code = 6
    code = "reward_budget"


@final
class RewardStopped(WavAlignError):  # noqa: N818  # as Interrupted: the run ends with its last step kept
    """A reward cannot score anything more in this run: its budget is spent, or its service refuses to serve.

    Raised in `Reward.score`; nothing more is asked, the last complete step is kept, and every rank ends.
    """

    exit_code = 6
    code = "reward_stopped"


@final
class ResumeError(WavAlignError):
    """The run to resume was made by another plan."""

    exit_code = 7
    code = "resume_mismatch"


@final
class NonFiniteError(WavAlignError):
    """A loss or gradient stopped being a number; the message names the term and the step."""

    code = "non_finite"


@final
class OutOfMemoryError(WavAlignError):
    """A micro-batch does not fit into the memory of its device."""

    code = "out_of_memory"

    def __init__(self, message: str, *, hint: str = "", stage: str = "", rows: int = 0, peak_bytes: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.stage, self.rows, self.peak_bytes = stage, rows, peak_bytes


@final
class StorageError(WavAlignError):
    """A file could not be written; what was complete before is still complete."""

    code = "storage"


@final
class FolderBusyError(WavAlignError):
    """Another live process writes to this run's folder."""

    code = "folder_busy"


@final
class UnfinishedError(WavAlignError):
    """The run came to its end, and a stage or a file that belongs to a finished one is missing."""

    code = "unfinished"


LOST = 75
"""Exit code of a process that merely lost another: the launcher blames that one."""


@final
class RankLostError(WavAlignError):
    """Another process of this run died or stopped answering; its own error says why."""

    exit_code = LOST
    code = "rank_lost"


@final
class WorkersError(WavAlignError):
    """One of several processes failed; carries its exit code."""

    code = "worker_failed"

    def __init__(self, exit_code: int, message: str = "", *, hint: str = "") -> None:
        super().__init__(message or f"a process of this run ended with exit code {exit_code}", hint=hint)
        self.exit_code = exit_code


@final
@dataclass
class Interrupted(BaseException):
    """Ctrl-C, SIGTERM or a hang-up was honoured: a checkpoint was written, then the run stopped."""

    signal: int
    checkpoint: str = ""
    """Folder of the newest checkpoint, empty when there is none."""
    lost: int = 0
    """Steps that were done and are in no checkpoint."""
    at_once: bool = False
    """Asked a second time: nothing more is written."""
    code: ClassVar[str] = "interrupted"
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return 128 + self.signal
