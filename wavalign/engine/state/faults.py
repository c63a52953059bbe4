"""Where the traceback of a failed plugin is kept."""

import re
import time
from pathlib import Path

from wavalign.engine.state.files import write_text
from wavalign.errors import PluginError, StorageError, WavAlignError

LONGEST_NAME = 60


def keep_trace(error: WavAlignError, folder: Path) -> str:
    """Write the traceback of a plugin's failure under `folder` once and give its path; empty where there is none.

    A disk that refuses leaves the error as it is: what failed first is what a person must hear of.
    """
    if not isinstance(error, PluginError) or not error.trace:
        return ""
    if not error.kept_in:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", error.message.partition(":")[0]).strip("-")[:LONGEST_NAME]
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}"
        path = folder / f"{stamp}-{name}.txt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, f"{error.message}\n\n{error.trace}")
        except (OSError, StorageError):
            return ""
        error.kept_in = str(path)
        error.hint = f"{error.hint}; the traceback is in {path}".removeprefix("; ")
    return error.kept_in
