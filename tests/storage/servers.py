"""Small servers of a folder in this process: a plain web server with ranges, and a model hub."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Served:
    """A folder behind an address, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""
        self.asked: list[tuple[str, str]] = []
        """Path and range of every request, in order."""
        self.sent = 0
        """Bytes of content."""
        self.cut: dict[str, int] = {}
        """File -> bytes after which its first answer breaks off."""
        self.password = ""
        self.ranges = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        wanted = self.headers.get("Range", "")
        self.served.asked.append((path, wanted))
        if self.served.password and self.headers.get("Authorization") != self.served.password:
            self._say(401, b"", {})
            return
        self._serve(path, wanted, body)

    def _serve(self, path: str, wanted: str, body: bool) -> None:
        file = self.served.folder / path
        if not file.is_file():
            self._say(404, b"", {})
            return
        self._file(file, wanted, body, {})

    def _file(self, file: Path, wanted: str, body: bool, headers: dict[str, str]) -> None:
        content = file.read_bytes()
        headers = {"ETag": f'"{sha1(content).hexdigest()}"', "Accept-Ranges": "bytes", **headers}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted) if self.served.ranges else None
        if match is None:
            self._say(200, content, headers, body=body, name=file.name)
            return
        start, end = int(match[1]), min(int(match[2] or len(content)) + 1, len(content))
        if start >= len(content):
            self._say(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        part = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        self._say(206, content[start:end], part, body=body, name=file.name)

    def _say(self, status: int, content: bytes, headers: dict[str, str], body: bool = True, name: str = "") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and len(content) > 1 and name in self.served.cut:
            content = content[: self.served.cut.pop(name)]
            self.close_connection = True
        if body:
            self.wfile.write(content)
            self.served.sent += len(content)


class _Hub(_Handler):
    """As much of the hub as its library asks for: one model `org/name` with one revision."""

    def _serve(self, path: str, wanted: str, body: bool) -> None:
        files = sorted(
            str(each.relative_to(self.served.folder)) for each in self.served.folder.rglob("*") if each.is_file()
        )
        if match := re.fullmatch(r"api/models/org/name(/revision/(.+))?", path):
            if match[2] not in (None, "main", COMMIT):
                self._say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            siblings = [
                {"rfilename": name, "size": (self.served.folder / name).stat().st_size, "blobId": "b"} for name in files
            ]
            self._json({"id": "org/name", "sha": COMMIT, "siblings": siblings})
        elif re.fullmatch(rf"api/models/org/name/tree/{COMMIT}/?", path):
            self._json(
                [
                    {"type": "file", "path": name, "size": (self.served.folder / name).stat().st_size, "oid": "0" * 40}
                    for name in files
                ]
            )
        elif (match := re.fullmatch(r"org/name/resolve/[^/]+/(.+)", path)) and match[1] in files:
            self._file(self.served.folder / match[1], wanted, body, {"X-Repo-Commit": COMMIT})
        elif path.startswith("api/models/org/gated"):
            self._say(403, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            self._say(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _json(self, value: Any) -> None:
        self._say(200, json.dumps(value).encode(), {"Content-Type": "application/json"})


@contextmanager
def serving(folder: Path, *, hub: bool = False) -> Iterator[Served]:
    """Serve `folder` on a free port of this machine."""
    served = Served(folder)
    handler = type("Handler", (_Hub if hub else _Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
