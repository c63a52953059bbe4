"""A speech recogniser for a closed set of sentences.

What it hears is always made of the given words, so an agreement with the text is evidence only where another answer
would have been heard as that other answer: score the word that carries the answer, not the template around it.
Each utterance is heard alone, so the order of calls changes nothing. PocketSphinx keeps Python's lock while it
searches (two threads: 57 ms a clip, one: 55 ms), so the listening is done by a few processes.
"""

import atexit
import contextlib
import os
import queue
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

import numpy as np
import soxr

from wavalign.errors import DataError, PluginError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.recognizer_process import FRAMES_PER_SECOND, SAMPLE_RATE, TIMED, write_model

MAX_SECONDS = 8.0
"""Only so much of a waveform is listened to: bounds the time of a call."""
_MINIMUM_SECONDS = 0.1
"""Below this there is nothing to look at."""


@final
@dataclass(frozen=True, slots=True)
class HeardWord:
    """A word and where it is."""

    word: str
    start: float
    """Seconds from the beginning of the sound."""
    end: float


@final
class Recognizer:
    """Recognises words of the given sentences; any number of threads may call it, `processes` of them at a time."""

    def __init__(self, sentences: Sequence[str], *, processes: int = 2) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="wavalign-hearing-")
        try:
            write_model(tuple(dict.fromkeys(sentences)), Path(self._folder.name))
        except DataError:
            self._folder.cleanup()
            raise
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._workers: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._processes = processes

    def recognize(self, waveform: Waveform) -> str:
        """Words of the first `MAX_SECONDS` of `waveform`, separated by spaces; empty where there is no sound."""
        return self._listen(waveform, timed=False)

    def words(self, waveform: Waveform) -> list[HeardWord]:
        """The same words with the place of each."""
        found = []
        for each in self._listen(waveform, timed=True).split():
            word, first, last = each.rsplit(":", 2)
            found.append(HeardWord(word, int(first) / FRAMES_PER_SECOND, (int(last) + 1) / FRAMES_PER_SECOND))
        return found

    def _listen(self, waveform: Waveform, *, timed: bool) -> str:
        """A worker's line."""
        if waveform.seconds < _MINIMUM_SECONDS:
            return ""
        samples = waveform.samples[: int(MAX_SECONDS * waveform.sample_rate)]
        if waveform.sample_rate != SAMPLE_RATE:
            samples = soxr.resample(samples, waveform.sample_rate, SAMPLE_RATE)
        data = (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
        worker = self._take()
        try:
            words = _ask(worker, data, timed=timed)
        except PluginError:
            worker = self._replace(worker)  # else the callers that wait for it would wait for ever
            raise
        finally:
            self._idle.put(worker)
        return words

    def recognize_all(self, waveforms: Sequence[Waveform]) -> list[str]:
        """Words recognised in each of `waveforms`, all processes at work."""
        with ThreadPoolExecutor(self._processes) as pool:
            return list(pool.map(self.recognize, waveforms))

    def close(self) -> None:
        """End the recogniser processes; it must not be called again afterwards."""
        for worker in self._workers:
            _end(worker)
        self._folder.cleanup()

    def _take(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._idle.empty() and len(self._workers) < self._processes:
                self._workers.append(_start(Path(self._folder.name)))
                self._idle.put(self._workers[-1])
        return self._idle.get()

    def _replace(self, worker: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
        _end(worker)
        with self._lock:
            self._workers.remove(worker)
            self._workers.append(_start(Path(self._folder.name)))
            return self._workers[-1]


@cache
def recognizer(sentences: tuple[str, ...], processes: int) -> Recognizer:
    """The one recogniser of this process for `sentences`, shared by rewards and metrics; closed when it exits."""
    made = Recognizer(sentences, processes=processes)
    atexit.register(made.close)
    return made


def _start(folder: Path) -> "subprocess.Popen[bytes]":
    """A recogniser process; it ends with this one, when its standard input closes."""
    command = [sys.executable, "-m", "wavalign.plugins.speech.recognizer_process", str(folder)]
    # Search paths of this process, so that the child finds the same packages.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    # A session of its own: Ctrl-C is for this process, which may still want to listen before it ends.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )


def _end(worker: "subprocess.Popen[bytes]") -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        with contextlib.suppress(BrokenPipeError):  # what was still to be sent has nobody left to read it
            if pipe is not None:
                pipe.close()


def _ask(worker: "subprocess.Popen[bytes]", samples: bytes, *, timed: bool) -> str:
    stdin, stdout = worker.stdin, worker.stdout
    if stdin is None or stdout is None:
        raise PluginError("the listening process has no pipes")
    try:
        stdin.write(struct.pack("<I", len(samples) | (TIMED if timed else 0)) + samples)
        stdin.flush()
        line = stdout.readline()
    except BrokenPipeError:
        line = b""
    if not line.endswith(b"\n"):
        raise PluginError(
            f"the listening process ended with status {worker.wait()}",
            hint="is the package pocketsphinx whole, and is there memory left?",
        )
    return line.decode().strip()
