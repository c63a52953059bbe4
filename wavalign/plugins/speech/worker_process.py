"""A worker of a codec or a NAR: a script under an interpreter of the user's choice, asked over two pipes.

What the two say to each other stands in `worker_side/wavalign_worker.py`. A worker that dies, hangs or speaks out of
turn is an error with the last lines it printed; it is not started again.
"""

import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wavalign.errors import PluginError, PreflightError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech import worker_side
from wavalign.plugins.speech.worker_side.wavalign_worker import HEADER, PIPES, PROTOCOL, packed
from wavalign.schema.base import Params, RecipePath
from wavalign.schema.bounds import DAY

_LAST_BYTES = 4096
"""Of what it printed, to be shown when the worker fails."""
_LAST_LINES = 20
_PATIENCE = 5.0
"""Seconds a worker has to end once nothing can be asked any more."""
_BLOCK = 1 << 16
_MOST_BYTES = 1 << 30
"""No answer is longer: a worker that writes to the pipe itself is found out at once."""


class WorkerOptions(Params):
    """How a worker is started."""

    python: RecipePath | None = None
    """Interpreter of the environment the worker needs; null is the one that runs WavAlign."""
    arguments: tuple[str, ...] = Field(default=(), max_length=1000)
    """What the script is given on its command line, as it stands here: write paths in full."""
    start_timeout: float = Field(default=900.0, gt=0, le=7 * DAY)
    """Seconds until it must have loaded its weights."""
    timeout: float = Field(default=120.0, gt=0, le=7 * DAY)
    """Seconds until it must have answered."""


class ScriptOptions(WorkerOptions):
    """Which script is run, and how."""

    script: RecipePath
    """Python file of the worker."""


@final
@dataclass(frozen=True, slots=True)
class WorkerContract:
    """What a worker declared, checked."""

    codebook_sizes: tuple[int, ...]
    encode_rate: int
    """Hertz; 0 where it does not encode."""
    decode_rate: int
    """Hertz; 0 where it does not decode."""
    frame_rate: float
    fingerprint: str
    codes_given: int
    """Codes a frame it completes to one of each code book; 0 where it does not complete."""

    @property
    def encodes(self) -> bool:
        return self.encode_rate > 0

    @property
    def decodes(self) -> bool:
        return self.decode_rate > 0

    @property
    def completes(self) -> bool:
        return self.codes_given > 0


@final
class WorkerProcess:
    """One running worker; any number of threads may ask, one is answered at a time."""

    def __init__(self, script: str, options: WorkerOptions) -> None:
        """Start `script` and wait for its contract; PreflightError where it cannot be started, PluginError after."""
        self.name = f"the worker {Path(script).name}"
        self._options = options
        self._lock = threading.Lock()
        self._failure: PluginError | None = None
        self._process, self._pipes = _start(script, options)
        self._close = weakref.finalize(self, _end, self._process, self._pipes)  # also when the interpreter exits
        self._last = _Tail(self._process)
        message, _ = self._receive(b"", options.start_timeout, "load")
        self.contract = self._checked(message)

    def encode(self, waveform: Waveform) -> list[int]:
        """Codes of `waveform`, frame-major, counting from 0 in every code book."""
        samples = waveform.samples.astype("<f4", copy=False).tobytes()
        _, payload = self._ask(packed({"op": "encode"}, samples), "encode")
        return self._frames(payload).reshape(-1).tolist()

    def decode(self, codes: Sequence[int]) -> Waveform:
        """Sound of `codes`, at the worker's rate."""
        _, payload = self._ask(packed({"op": "decode"}, np.array(codes, dtype="<i4").tobytes()), "decode")
        samples = np.frombuffer(payload, dtype="<f4").astype(np.float32)
        if not np.isfinite(samples).all():
            raise PluginError(f"{self.name} gave sound that is not finite")
        return Waveform(samples, self.contract.decode_rate)

    def complete(self, given: Sequence[int], prompt: Sequence[int]) -> list[int]:
        """All codes of the frames of which `given` are the first; `prompt` holds whole frames. Frame-major all."""
        codes = np.array([*given, *prompt], dtype="<i4").tobytes()
        _, payload = self._ask(packed({"op": "complete", "given": len(given)}, codes), "complete")
        found, first = self._frames(payload), self.contract.codes_given
        wanted = np.array(given, dtype="<i4").reshape(-1, first)
        if len(found) != len(wanted):
            raise PluginError(f"{self.name} completed {len(wanted)} frames to {len(found)}")
        if (found[:, :first] != wanted).any():
            raise PluginError(f"{self.name} changed codes that it was to complete")
        return found.reshape(-1).tolist()

    def close(self) -> None:
        """End the worker; asking it again is an error."""
        self._close()
        if self._failure is None:
            self._failure = PluginError(f"{self.name} was ended")

    def _frames(self, payload: bytes) -> npt.NDArray[np.int32]:
        """Codes [T, K] of an answer; PluginError where they are not of the worker's code books."""
        sizes = np.array(self.contract.codebook_sizes)
        if len(payload) % (4 * len(sizes)) == 0:
            table = np.frombuffer(payload, dtype="<i4").reshape(-1, len(sizes))
            if (table >= 0).all() and (table < sizes).all():
                return table.astype(np.int32)
        raise PluginError(f"{self.name} gave codes that are not of its code books {sizes.tolist()}")

    def _ask(self, request: bytes, what: str) -> tuple[Mapping[str, Any], bytes]:
        with self._lock:
            if self._failure is not None:
                raise self._failure
            message, payload = self._receive(request, self._options.timeout, what)
        if "error" in message:
            raise PluginError(f"{self.name} could not {what}: {message['error']}{self._last.text()}")
        return message, payload

    def _receive(self, request: bytes, seconds: float, what: str) -> tuple[Mapping[str, Any], bytes]:
        """Send `request` and read the next message; whatever goes wrong ends the worker."""
        try:
            return _exchange(self._pipes, request, time.monotonic() + seconds)
        except TimeoutError:
            self._process.kill()
            self.close()
            problem, hint = f"did not {what} within {seconds:g} seconds", "raise its timeout, or look at what it does"
        except (OSError, ValueError) as error:
            self.close()
            hint = "its last lines above say why, where it wrote any"
            problem = f"was to {what} and failed: {error} (exit status {self._process.returncode})"
        self._last.wait()
        self._failure = PluginError(f"{self.name} {problem}{self._last.text()}", hint=hint)
        raise self._failure

    def _checked(self, message: Mapping[str, Any]) -> WorkerContract:
        given = message.get("contract")
        if not isinstance(given, dict) or given.get("protocol") != PROTOCOL:
            self.close()
            raise PluginError(
                f"{self.name} speaks another protocol than {PROTOCOL}",
                hint="it must import the wavalign_worker of this WavAlign",
            )
        try:
            return _contract(given)
        except (KeyError, TypeError, ValueError) as error:
            self.close()
            raise PluginError(f"{self.name} declares a contract that is none: {error}") from error


@final
class _Tail:
    """The last that a process printed, read by a thread so that it never has to wait."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._content = b""
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until all has been read that an ended process wrote."""
        self._thread.join(_PATIENCE)

    def text(self) -> str:
        """Its last lines, indented, behind a line break; empty where there are none."""
        lines = self._content.decode(errors="replace").strip().splitlines()[-_LAST_LINES:]
        return "".join(f"\n  | {line}" for line in lines)

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as pipe:
            while block := os.read(pipe.fileno(), _LAST_BYTES):
                self._content = (self._content + block)[-_LAST_BYTES:]


def check_startable(script: str, options: WorkerOptions) -> None:
    """Raise PreflightError where the script or its interpreter is not there; starts nothing."""
    if not Path(script).is_file():
        raise PreflightError(f"the worker {script} does not exist", hint="give the path of a Python file")
    if options.python is not None and not os.access(options.python, os.X_OK):
        hint = "give the python of the environment that holds the codec"
        raise PreflightError(f"the interpreter {options.python} is not there or cannot be run", hint=hint)


@final
@dataclass(frozen=True, slots=True)
class _Pipes:
    """This side's ends, both non-blocking."""

    requests: int
    answers: int


def _start(script: str, options: WorkerOptions) -> tuple["subprocess.Popen[bytes]", _Pipes]:
    check_startable(script, options)
    python = options.python or sys.executable
    theirs_in, requests = os.pipe()
    answers, theirs_out = os.pipe()
    # Its search path is its own: packages of this environment are not for another interpreter.
    own = {"PYTHONPATH": str(Path(worker_side.__file__).parent), "PYTHONUNBUFFERED": "1"}
    try:
        process = subprocess.Popen(
            [python, script, *options.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env={**os.environ, **own, PIPES: f"{theirs_in},{theirs_out}"},
            pass_fds=(theirs_in, theirs_out),
            start_new_session=True,  # Ctrl-C is for this process, which may still want to listen before it ends
        )
    except OSError as error:
        os.close(requests)
        os.close(answers)
        hint = "is it a Python interpreter?"
        raise PreflightError(f"the interpreter {python} cannot be started: {error}", hint=hint) from error
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    os.set_blocking(requests, False)
    os.set_blocking(answers, False)
    return process, _Pipes(requests, answers)


def _exchange(pipes: _Pipes, request: bytes, deadline: float) -> tuple[Mapping[str, Any], bytes]:
    """Write `request` while reading one message; OSError, ValueError or TimeoutError where that fails."""
    unsent, found, wanted, text = memoryview(request), bytearray(), HEADER.size, 0
    with selectors.DefaultSelector() as selector:
        selector.register(pipes.answers, selectors.EVENT_READ)
        if unsent:
            selector.register(pipes.requests, selectors.EVENT_WRITE)
        while len(found) < wanted:
            ready = selector.select(max(deadline - time.monotonic(), 0.0))
            if not ready:
                raise TimeoutError
            for key, events in ready:
                if events & selectors.EVENT_WRITE:
                    unsent = unsent[os.write(key.fd, unsent[:_BLOCK]) :]
                    if not unsent:
                        selector.unregister(pipes.requests)
                    continue
                block = os.read(key.fd, min(wanted - len(found), _BLOCK))
                if not block:
                    raise BrokenPipeError("it ended")
                found += block
            if wanted == HEADER.size == len(found):
                text, payload = HEADER.unpack(found)
                wanted += text + payload
                if wanted > _MOST_BYTES:
                    raise ValueError("no message")
    message = json.loads(found[HEADER.size : HEADER.size + text])
    if not isinstance(message, dict):
        raise ValueError("no message")
    return message, bytes(found[HEADER.size + text :])


def _contract(given: Mapping[str, Any]) -> WorkerContract:
    """What a worker says of itself; ValueError and the like where that is not enough."""
    sizes = tuple(int(size) for size in given["codebook_sizes"])
    encode_rate, decode_rate = given["encode_rate"] or 0, given["decode_rate"] or 0
    found = WorkerContract(
        codebook_sizes=sizes,
        encode_rate=int(encode_rate),
        decode_rate=int(decode_rate),
        frame_rate=float(given["frame_rate"] or 0),
        fingerprint=given["fingerprint"],
        codes_given=int(given["codes_given"] or 0),
    )
    if not sizes or min(sizes) < 1:
        raise ValueError("codebook_sizes must be at least one positive number")
    if not found.encodes and not found.decodes and not found.completes:
        raise ValueError("it has neither encode_rate nor decode_rate nor codes_given")
    if not 0 <= found.codes_given < len(sizes):
        raise ValueError(f"codes_given must be at least 1 and less than its {len(sizes)} code books")
    if found.encodes and (found.frame_rate <= 0 or not found.fingerprint):
        raise ValueError("what encodes must declare frame_rate and fingerprint")
    return found


def _end(process: "subprocess.Popen[bytes]", pipes: _Pipes) -> None:
    """Let the process end by itself once nobody can ask it any more, and end it where it does not."""
    os.close(pipes.requests)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    os.close(pipes.answers)
