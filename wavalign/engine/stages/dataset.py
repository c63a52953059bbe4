"""The part of a data set that one rank writes, in chunks that are safe on the disk one after the other.

`data/part-R-of-N.jsonl` holds the records of rank R of N in the format of `{type: jsonl}`; `data` as a whole is the
data set. Beside `data` every rank remembers what of its part is whole: a run that is killed cuts off the rest and
repeats the chunk it was in.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import read_json, storage_errors, write_json
from wavalign.redaction import REDACTOR

DATA = "data"
"""Folder of a stage that holds what it wrote."""
SUMMARY = "dataset.json"
"""Beside it: the files, and how many records they have and lack."""


@final
class DatasetPart:
    """One rank's share of a data set, and how much of it is whole."""

    def __init__(self, folder: Path, world: World, about: Mapping[str, Any], counted: Sequence[str]) -> None:
        """Go on with what an interrupted run wrote, if `about` was the same; `counted` are names of counts."""
        self.about = dict(about)
        self.name = f"part-{world.rank:05d}-of-{world.size:05d}"
        self.path, self.sounds = folder / DATA / f"{self.name}.jsonl", folder / DATA / self.name
        self._mark = folder / f"{self.name}.json"
        self.chunks = self._bytes = 0
        """Chunks that are whole on the disk."""
        self.counts = Counter(dict.fromkeys(counted, 0))
        with storage_errors(str(folder)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._take_up()

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write one more chunk, and the counts as they are now."""
        text = "".join(json.dumps(REDACTOR.tree(each), ensure_ascii=False, allow_nan=False) + "\n" for each in records)
        if records:
            with storage_errors(str(self.path)), self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        self.chunks, self._bytes = self.chunks + 1, self._bytes + len(text.encode())
        mark = {"chunks": self.chunks, "bytes": self._bytes, "counts": dict(self.counts), "about": self.about}
        write_json(self._mark, mark)

    def _take_up(self) -> None:
        mark = read_json(self._mark) if self._mark.exists() else {}
        there = self.path.stat().st_size if self.path.exists() else 0
        if mark.get("about") == REDACTOR.tree(self.about) and there >= int(mark["bytes"]):
            self.chunks, self._bytes, self.counts = mark["chunks"], mark["bytes"], Counter(mark["counts"])
        else:
            self._mark.unlink(missing_ok=True)
            shutil.rmtree(self.sounds, ignore_errors=True)
        if self._bytes:
            os.truncate(self.path, self._bytes)
        else:
            self.path.unlink(missing_ok=True)
