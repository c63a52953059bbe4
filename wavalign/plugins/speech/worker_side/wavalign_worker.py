"""What a worker script imports to serve WavAlign: `from wavalign_worker import Contract, serve`.

A worker is a Python script that WavAlign runs under an interpreter of your choice, to encode, decode or complete with
code that does not live in WavAlign's environment. This module is all that the two share: standard library alone, Python
3.9 or newer, found on the worker's search path. Codes travel frame-major and count from 0 in every code book.

A message is a little-endian uint32 with the length of a JSON object, one with the length of a payload, the object,
the payload: float32 samples or int32 codes, little-endian. The worker speaks first, `{"contract": {...}}`; then it
answers each `{"op": "encode"}`, `{"op": "decode"}` and `{"op": "complete", "given": N}` (the payload's first N codes
are to be completed, the others are the prompt) with `{}` and a payload, or with `{"error": "..."}`. It ends when the
requests end.
"""

from __future__ import annotations

import array
import hashlib
import json
import os
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

PROTOCOL = 1
PIPES = "WAVALIGN_WORKER_PIPES"
"""Environment variable: the descriptors requests come from and answers go to, so that a print harms neither."""
HEADER = struct.Struct("<II")
Object = dict[str, object]


@dataclass(frozen=True)
class Contract:
    """What a worker declares before it serves."""

    codebook_sizes: tuple[int, ...]
    """Codes in each code book; a frame holds one of each. What completes gives as many codes a frame as there are."""
    encode_rate: int | None = None
    """Hertz of the sound `encode` takes; None where there is no `encode`."""
    decode_rate: int | None = None
    """Hertz of the sound `decode` gives; None where there is no `decode`."""
    frame_rate: float | None = None
    """Frames a second; only what encodes must say it."""
    fingerprint: str = ""
    """Changes whenever `encode` would give other codes, see `fingerprint_of`; only what encodes must say it."""
    codes_given: int | None = None
    """Codes a frame that `complete` takes, the first of each frame; None where there is no `complete`."""
    protocol: int = PROTOCOL


Encode = Callable[["array.array[float]"], Sequence[int]]
"""Samples in -1..1 -> codes, frame-major."""
Decode = Callable[[list[int]], Sequence[float]]
"""Codes, frame-major -> samples in -1..1."""

Complete = Callable[[list[int], list[int]], Sequence[int]]
"""The first `codes_given` codes of every frame, and all codes of every frame of sound in the voice to be imitated
(empty for none) -> all codes of every frame; each of the three frame-major."""


def serve(
    load: Callable[
        [],
        tuple[Contract, Encode | None, Decode | None] | tuple[Contract, Encode | None, Decode | None, Complete | None],
    ],
) -> None:
    """Run `load` (import, read weights), declare the contract it gives, and answer until the requests end.

    What is printed is kept, and its last lines are shown when the worker fails. An exception of one of the
    functions is an answer, and the worker goes on. Run by hand, it loads, prints its contract and ends.
    """
    contract, *functions = load()
    served: dict[str, Any] = dict(zip(("encode", "decode", "complete"), functions))  # noqa: B905 - not in Python 3.9
    if PIPES not in os.environ:
        print(f"It loads and declares {contract}; WavAlign starts it when it is needed.")  # noqa: T201 - for a person
        return
    reading, writing = (int(number) for number in os.environ[PIPES].split(","))
    source, sink = os.fdopen(reading, "rb"), os.fdopen(writing, "wb")
    send(sink, {"contract": asdict(contract)})
    while True:
        message = receive(source)
        if message is None:
            return
        request, payload = message
        try:
            answer, content = _answer(request, payload, served)
        except Exception as error:  # somebody else's code: what it raises is the answer
            traceback.print_exc()
            answer, content = {"error": f"{type(error).__name__}: {error}"}, b""
        send(sink, answer, content)


def send(sink: BinaryIO, message: Object, payload: bytes = b"") -> None:
    """Write one message."""
    sink.write(packed(message, payload))
    sink.flush()


def packed(message: Object, payload: bytes = b"") -> bytes:
    """One message as it travels."""
    text = json.dumps(message).encode("utf-8")
    return HEADER.pack(len(text), len(payload)) + text + payload


def receive(source: BinaryIO) -> tuple[Object, bytes] | None:
    """Read one message; None where there are no more."""
    header = source.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    lengths = HEADER.unpack(header)
    text, payload = source.read(lengths[0]), source.read(lengths[1])
    if len(text) < lengths[0] or len(payload) < lengths[1]:
        return None
    message: Object = json.loads(text.decode("utf-8"))
    return message, payload


def fingerprint_of(*paths: str) -> str:
    """Digest of the content of files, for `Contract.fingerprint`."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:16]


def to_bytes(values: Sequence[float], kind: str) -> bytes:
    """`values` as little-endian float32 (kind `f`) or int32 (kind `i`)."""
    packed_values = array.array(kind, values)
    if sys.byteorder == "big":
        packed_values.byteswap()
    return packed_values.tobytes()


def from_bytes(content: bytes, kind: str) -> array.array[float]:
    """The inverse of `to_bytes`."""
    values: array.array[float] = array.array(kind)
    values.frombytes(content)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _answer(request: Object, payload: bytes, served: dict[str, Any]) -> tuple[Object, bytes]:
    operation = request.get("op")
    function = served.get(str(operation))
    if function is None:
        return {"error": f"this worker cannot {operation}"}, b""
    if operation == "encode":
        return {}, to_bytes(function(from_bytes(payload, "f")), "i")
    codes = [int(code) for code in from_bytes(payload, "i")]
    if operation == "decode":
        return {}, to_bytes(function(codes), "f")
    given = int(str(request["given"]))
    return {}, to_bytes(function(codes[:given], codes[given:]), "i")
