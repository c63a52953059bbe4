"""One of several processes of a run, started by `launch.py`.

`python -m wavalign.engine.worker FOLDER [--resume | --replay PLACE]`
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from wavalign.engine.rank import replay_rank, run_rank
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import Interrupted, WavAlignError
from wavalign.leaving import leave
from wavalign.terminal import presentable, redacted_streams


def main(arguments: list[str]) -> int:
    """Run this rank's part; the exit code is the error's."""
    with redacted_streams():
        folder = RunFolder(Path(arguments[0]))
        if "--replay" in arguments:
            place = Path(arguments[arguments.index("--replay") + 1])
            return _ends(partial(replay_rank, place, say=_say))
        return _ends(partial(run_rank, folder, resume="--resume" in arguments))


def _say(line: str) -> None:
    sys.stdout.write(presentable(line) + "\n")


def _ends(work: Callable[[], None]) -> int:
    try:
        work()
    except WavAlignError as error:
        sys.stderr.write(presentable(f"{error.code}: {error.message}\n{error.hint}") + "\n")
        return error.exit_code
    except Interrupted as interrupted:
        return interrupted.exit_code
    return 0


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except Exception:  # noqa: BLE001 - as Python itself would, which would then be finalised
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)
