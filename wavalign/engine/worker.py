"""One of several processes of a run: `python -m wavalign.engine.worker FOLDER [--resume]`, started by `launch.py`."""

import sys
from pathlib import Path

from wavalign.engine.rank import run_rank
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import Interrupted, WavAlignError
from wavalign.terminal import presentable, redacted_streams


def main(arguments: list[str]) -> int:
    """Run this rank's part; the exit code is the error's."""
    with redacted_streams():
        return _run(RunFolder(Path(arguments[0])), resume="--resume" in arguments)


def _run(folder: RunFolder, *, resume: bool) -> int:
    try:
        run_rank(folder, resume=resume)
    except WavAlignError as error:
        sys.stderr.write(presentable(f"{error.code}: {error.message}\n{error.hint}") + "\n")
        return error.exit_code
    except Interrupted as interrupted:
        return interrupted.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
