"""Answers to a benchmark on disk, in chunks that are whole one after the other: what is there is not answered again.

`answers.jsonl` has a line for each question in its order, `audio/` the sound. `answers.json` says what the answers are
(model, data, sampling, seed) and how much of the file is whole; a process that is killed loses the chunk it was in.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavalign.engine.state.files import storage_errors, write_json
from wavalign.errors import DataError, UsageError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip, Waveform
from wavalign.redaction import REDACTOR

AUDIO = "audio"
LOCK = "lock.json"
"""Of the folder; see `RunFolder.lock`."""
REWARDS = "rewards"
"""What rewards keep of their own: what a judge has spent is spent, whatever becomes of the answers."""
_LONGEST_NAME = 80


@final
@dataclass(frozen=True, slots=True)
class Given:
    """One answer."""

    place: int
    """Of its question in the data."""
    dialogue: str
    """The question's id."""
    text: str
    finished: bool
    seconds: float | None
    """Of its sound; None where it has none."""
    audio: str | None
    """Path of its sound from the folder."""

    def sound(self, folder: Path) -> Waveform | None:
        """Its sound as it was written."""
        return None if self.audio is None else audio.read(AudioClip(str(folder / self.audio)), sample_rate=None)


@final
class AnswerFile:
    """The answers of one model to one benchmark."""

    def __init__(self, folder: Path, about: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Go on with what is there; UsageError where that is of something else than `about`, unless `overwrite`."""
        self.folder, self.about = folder, json.loads(json.dumps(REDACTOR.tree(dict(about))))
        self.path, self._mark = folder / "answers.jsonl", folder / "answers.json"
        self.given: list[Given] = []
        self._bytes = 0
        if (
            not self._mark.is_file()
            and folder.is_dir()
            and any(each.name not in (LOCK, REWARDS) for each in folder.iterdir())
        ):
            raise UsageError(f"{folder} holds something else than answers", hint="--out names another folder")
        if self._mark.is_file() and not overwrite:
            self._take_up(_mark_in(self._mark))
        with storage_errors(str(folder)):
            if not self._bytes:
                _clear(folder)
            (folder / AUDIO).mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                os.truncate(self.path, self._bytes)
        self._write_mark()

    def append(self, given: Sequence[Given]) -> None:
        """Write one more chunk."""
        text = "".join(json.dumps(REDACTOR.tree(_line(each)), ensure_ascii=False) + "\n" for each in given).encode()
        with storage_errors(str(self.path)), self.path.open("ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.given += given
        self._bytes += len(text)
        self._write_mark()

    def write_sound(self, waveform: Waveform | None, name: str) -> tuple[str | None, float | None]:
        """Write the sound of an answer; gives its path from the folder, and its length."""
        if waveform is None or not len(waveform.samples):
            return None, None
        path = f"{AUDIO}/{file_name(name)}.wav"
        with storage_errors(str(self.folder / path)):
            audio.write(waveform, str(self.folder / path))
        return path, waveform.seconds

    def _take_up(self, mark: Mapping[str, Any]) -> None:
        theirs = mark.get("about")
        if theirs != self.about:
            raise UsageError(
                f"{self.folder} holds other answers: {_difference(theirs, self.about)}",
                hint="--out names another folder, --overwrite replaces what is there",
            )
        self._bytes = int(mark.get("bytes", 0))
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < self._bytes:
            raise DataError(
                f"{self.path} has {there} bytes and had {self._bytes}: it was cut by something else",
                hint="--overwrite answers anew",
            )
        if self._bytes:
            self.given = read_answers(self.path, self._bytes)

    def _write_mark(self) -> None:
        write_json(self._mark, {"answers": len(self.given), "bytes": self._bytes, "about": self.about})


def read_answers(path: Path, size: int | None = None) -> list[Given]:
    """The answers in a file, or in its first `size` bytes; raises DataError naming the line."""
    found = []
    with path.open("rb") as file:
        content = file.read() if size is None else file.read(size)
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            record = json.loads(line)
            found.append(
                Given(
                    place=int(record["place"]),
                    dialogue=str(record["dialogue"]),
                    text=str(record["text"]),
                    finished=bool(record["finished"]),
                    seconds=record["seconds"],
                    audio=record["audio"],
                )
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: no answer: {error!r}", hint="--overwrite answers anew") from error
    return found


def file_name(name: str) -> str:
    """`name` as that of a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", REDACTOR.text(name))[:_LONGEST_NAME].strip("._") or "answer"


def _line(given: Given) -> dict[str, Any]:
    return {
        "place": given.place,
        "dialogue": given.dialogue,
        "text": given.text,
        "finished": given.finished,
        "seconds": given.seconds,
        "audio": given.audio,
    }


def _clear(folder: Path) -> None:
    """Remove what earlier answers left, and what was made of them."""
    for each in folder.iterdir() if folder.is_dir() else ():
        if each.name in (LOCK, REWARDS):
            continue
        if each.is_dir():
            shutil.rmtree(each)
        else:
            each.unlink()


def _mark_in(path: Path) -> dict[str, Any]:
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
        return dict(mark)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}", hint="--overwrite answers anew") from error


def _difference(theirs: Any, ours: Mapping[str, Any]) -> str:
    """The first thing that differs, in words."""
    if not isinstance(theirs, dict):
        return "nobody knows by what model"
    keys = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    return ", ".join(f"{key} was {_short(theirs.get(key))} and is {_short(ours.get(key))}" for key in keys[:3])


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
