"""Speaking a split into a cache folder: ordinary JSONL and WAV, complete or absent.

The folder's name is a digest of everything that determines the content, so another setting never meets another's
sound. Everything is made next to it under a private name and renamed when whole.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from wavalign.errors import DataError, StorageError
from wavalign.plugins.speech.world.script import Clip, Line, Scene, lines
from wavalign.plugins.speech.world.speakers import Speakers, SpeakersName, speakers
from wavalign.storage.cache import cache_folder

RECORDS = "records.jsonl"
_FORMAT = 1
_PROCESSES = 2
_POLL_SECONDS = 0.1


def world_cache(given: str | None, name: SpeakersName = "espeak") -> Path:
    """Where splits are kept: under `given`, else under the common cache."""
    return (Path(given) if given else cache_folder()) / speakers(name).folder


def prepared(scene: Scene, root: Path, progress: Callable[[str, int, int], None]) -> Path:
    """The records file of `scene` under `root`, spoken now unless it is there already. Raises StorageError."""
    cast = list(lines(scene))
    folder = root / _digest(scene, cast)
    if not (folder / RECORDS).is_file():
        _build(cast, folder, progress, scene.voiced_by)
    return folder / RECORDS


def record(line: Line) -> dict[str, object]:
    """`line` as an object of the JSONL format."""
    return {
        "id": line.id,
        "messages": [{"role": "user", "text": line.question.text, "audio": f"audio/{line.question.name}"}],
        "target": {"text": line.answer.text, "audio": f"audio/{line.answer.name}"},
        "metadata": line.metadata,
    }


def _digest(scene: Scene, cast: Sequence[Line]) -> str:
    digest = hashlib.sha256(f"{_FORMAT} {scene.voiced_by.version()}".encode())
    for line in cast:
        digest.update(json.dumps(record(line), sort_keys=True).encode())
    return f"{scene.split}-{digest.hexdigest()[:20]}"


def _build(cast: Sequence[Line], folder: Path, progress: Callable[[str, int, int], None], voices: Speakers) -> None:
    clips = {clip.name: clip for line in cast for clip in (line.question, line.answer)}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        private = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        private.mkdir()
    except OSError as error:
        raise StorageError(f"{folder.parent}: cannot be written: {error}", hint="set WAVALIGN_CACHE") from error
    try:
        (private / "audio").mkdir()
        _speak(list(clips.values()), private, progress, voices.worker)
        content = "".join(json.dumps(record(line), sort_keys=True) + "\n" for line in cast)
        (private / RECORDS).write_text(content, encoding="utf-8")
        _publish(private, folder)
    except OSError as error:
        raise StorageError(f"{private}: cannot be written: {error}", hint="is there space on the disk?") from error
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _publish(private: Path, folder: Path) -> None:
    """Rename `private` to `folder`; where another process was first, its equal folder stays."""
    try:
        private.rename(folder)
    except OSError:
        if not (folder / RECORDS).is_file():
            raise


def _speak(clips: Sequence[Clip], folder: Path, progress: Callable[[str, int, int], None], worker: str) -> None:
    """Speak `clips` into `folder`/audio in processes of the module `worker`, one sentence at a time in each."""
    workers = []
    try:
        for number in range(_PROCESSES):
            job = folder / f"job-{number}.json"
            job.write_text(json.dumps([asdict(clip) | {"name": clip.name} for clip in clips[number::_PROCESSES]]))
            workers.append(_start(worker, job, folder / "audio"))
        while any(each.poll() is None for each in workers):
            progress("speaking the embedded world", sum(1 for _ in os.scandir(folder / "audio")), len(clips))
            time.sleep(_POLL_SECONDS)
    finally:
        for each in workers:
            each.kill()
            each.wait()
    for number in range(_PROCESSES):
        (folder / f"job-{number}.json").unlink()
    missing = [clip for clip in clips if not (folder / "audio" / clip.name).is_file()]
    if missing or any(each.returncode != 0 for each in workers):
        raise DataError(
            f"{len(missing)} of {len(clips)} sentences could not be spoken, the first: {missing[:1]}",
            hint="what the speaking processes wrote to standard error says why; is there space on the disk?",
        )
    progress("speaking the embedded world", len(clips), len(clips))


def _start(worker: str, job: Path, folder: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", worker, str(job), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
