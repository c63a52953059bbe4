"""A chat completions server on this machine that does what a test tells it, bad things above all."""

import contextlib
import functools
import gzip
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

WHY = "<justification>it is so</justification>"
USAGE: dict[str, Any] = {"prompt_tokens": 100, "completion_tokens": 10}


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    number: int
    """Counted from 0 over all connections."""
    line: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def key(self) -> str:
        """What the header of the key holds."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def user(self) -> str:
        """The text of the user's message."""
        content = self.body["messages"][1]["content"]
        return content if isinstance(content, str) else content[0]["text"]

    @property
    def sounds(self) -> list[str]:
        """Base64 of the WAV files."""
        content = self.body["messages"][1]["content"]
        return [part["input_audio"]["data"] for part in content[1:]] if isinstance(content, list) else []


Answer = Callable[[Asked, socket.socket], None]
"""Writes an answer to a request."""


def completion(text: Any, *, finish: Any = "stop", usage: Any = USAGE, **message: Any) -> dict[str, Any]:
    """The JSON of a chat completion."""
    said = {"role": "assistant", "content": text, **message}
    return {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": said, "finish_reason": finish}],
        "usage": usage,
    }


def http(status: int, content: bytes, *headers: str, kind: str = "application/json") -> bytes:
    """A whole answer."""
    lines = [
        f"HTTP/1.1 {status} X",
        f"content-type: {kind}",
        f"content-length: {len(content)}",
        "connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def says(text: Any, **more: Any) -> Answer:
    """Answers every request with a completion."""
    return gives(200, completion(text, **more))


def scores(number: Any = 4, **more: Any) -> Answer:
    """A reply in the form of a rubric with one score."""
    return says(f"{WHY}<score>{number}</score>", **more)


def gives(status: int, body: Any, *headers: str, kind: str = "application/json") -> Answer:
    """Answers with a status and a body, JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda asked, sock: sock.sendall(http(status, content, *headers, kind=kind))


def refuses(status: int, message: str = "no", *headers: str, code: str = "") -> Answer:
    """An error as such servers word it."""
    return gives(status, {"error": {"message": message, "code": code}}, *headers)


def echoes_key(status: int) -> Answer:
    """An error that repeats the key, plainly, backwards and with blanks."""

    def answer(asked: Asked, sock: socket.socket) -> None:
        text = f"bad header Authorization: Bearer {asked.key} / {asked.key[::-1]} / {' '.join(asked.key)}"
        refuses(status, text)(asked, sock)

    return answer


def stalls(asked: Asked, sock: socket.socket) -> None:
    """Says nothing until the other side hangs up."""
    with contextlib.suppress(OSError):
        sock.settimeout(20)
        sock.recv(1)


def drips(asked: Asked, sock: socket.socket) -> None:
    """A byte of header every now and then, for ever."""
    with contextlib.suppress(OSError):
        sock.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        for _ in range(400):
            sock.sendall(b"a")
            time.sleep(0.05)


def breaks(asked: Asked, sock: socket.socket) -> None:
    """Hangs up in the middle of the body."""
    whole = http(200, json.dumps(completion(f"{WHY}<score>5</score>")).encode())
    sock.sendall(whole[: len(whole) - 40])


def hangs_up(asked: Asked, sock: socket.socket) -> None:
    """Hangs up at once."""


def floods(asked: Asked, sock: socket.socket) -> None:
    """Sends 100 MB."""
    with contextlib.suppress(OSError):
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000000\r\n\r\n")
        for _ in range(1600):
            sock.sendall(b" " * 62_500)


@functools.cache
def packed() -> bytes:
    """64 MB of blanks, packed."""
    return gzip.compress(b" " * (64 << 20), compresslevel=1)


def bomb(asked: Asked, sock: socket.socket) -> None:
    """A few hundred kilobytes that unpack to 64 MB."""
    sock.sendall(http(200, packed(), "content-encoding: gzip"))


def in_turn(*answers: Answer) -> Answer:
    """One after another; the last for all that follow."""
    return lambda asked, sock: answers[min(asked.number, len(answers) - 1)](asked, sock)


@final
class Server:
    """Listens on loopback; `answer` may be changed at any time."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.asked = answer, list[Asked]()
        self._lock = threading.Lock()
        owner = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    owner._serve(self.request)

        class Listening(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        self._server = Listening(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, sock: socket.socket) -> None:
        content = b""
        while b"\r\n\r\n" not in content:
            more = sock.recv(65_536)
            if not more:
                return
            content += more
        head, _, body = content.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += sock.recv(65_536)
        with self._lock:
            asked = Asked(len(self.asked), line, headers, json.loads(body), time.time())
            self.asked.append(asked)
        self.answer(asked, sock)


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """A server for a while."""
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()
