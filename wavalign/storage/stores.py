"""Places that hold a checkpoint's files: object stores through fsspec, and plain web servers.

No message repeats what a library says of a request, for that may carry keys; it says what kind of failure it was.
"""

import base64
import http.client
import netrc
import sys
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import quote, urlsplit

import fsspec
from fsspec.registry import known_implementations

from wavalign.errors import CheckpointError
from wavalign.storage.tensors import INDEX_FILE, PICKLE_FILE, PICKLE_INDEX, SINGLE_FILE, index_files

PIECE = 8 << 20
"""Bytes asked for at once."""
PATIENCE = 60.0
"""Seconds a web server may be silent."""
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""Protocol -> the package that speaks it."""
KNOWN_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "tiktoken.model", "chat_template.jinja",
    "preprocessor_config.json", "processor_config.json", INDEX_FILE, SINGLE_FILE, PICKLE_INDEX, PICKLE_FILE,
)  # fmt: skip
"""What is looked for where a folder cannot be listed."""


@final
@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a checkpoint that lies elsewhere."""

    name: str
    """Relative to the checkpoint's folder."""
    size: int
    """Bytes."""
    tag: str
    """Changes when the content does (ETag, checksum or time); empty where the place gives none."""


@final
class UnreachableError(Exception):
    """A place did not answer, so that nothing is known of what it holds."""

    def __init__(self, shown: str, reason: str) -> None:
        super().__init__(f"{shown} cannot be reached: {reason}")

    def as_checkpoint_error(self) -> CheckpointError:
        """For those who have no copy to go on with."""
        return CheckpointError(
            f"{self}, and it was not fetched before", hint="check the connection, or fetch it on a machine that has one"
        )


class Store(ABC):
    """The folder of one checkpoint."""

    shown: str
    """Its address, without a slash at the end."""

    @abstractmethod
    def list(self) -> dict[str, RemoteFile]:
        """Every file by name; raises CheckpointError, or UnreachableError."""

    @abstractmethod
    def read(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` (not included) of a file; raises CheckpointError, or UnreachableError."""

    @abstractmethod
    def pieces(self, name: str, start: int) -> Iterator[bytes]:
        """A file from byte `start` on; raises CheckpointError, or UnreachableError."""


@final
class FsspecStore(Store):
    """Whatever fsspec opens."""

    def __init__(self, address: str) -> None:
        self.shown = address.rstrip("/")
        scheme = urlsplit(address).scheme
        try:
            filesystem, root = fsspec.core.url_to_fs(self.shown)
        except ImportError:
            package = PACKAGES.get(scheme)
            told = known_implementations.get(scheme, {}).get("err", "")
            raise CheckpointError(
                f"{scheme}:// needs a package that is not installed",
                hint=f"pip install {package}" if package else str(told),
            ) from None
        except ValueError:
            raise CheckpointError(
                f"{self.shown}: nothing here knows {scheme}://", hint="a folder, hf://, s3://, gs:// or https://"
            ) from None
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/")

    @property
    def opened(self) -> tuple[Any, str]:
        """fsspec's file system, and the folder in it."""
        return self._fs, self._root

    def list(self) -> dict[str, RemoteFile]:
        with self._failures(self.shown):
            self._fs.invalidate_cache()
            details = self._fs.find(self._root, detail=True)
        prefix = self._root.lstrip("/") + "/"
        files = {}
        for path, detail in details.items():
            name = path.lstrip("/").removeprefix(prefix)
            files[name] = RemoteFile(name, int(detail["size"]), _tag(detail))
        return files

    def read(self, name: str, start: int, end: int) -> bytes:
        with self._failures(f"{self.shown}/{name}"):
            return bytes(self._fs.cat_file(f"{self._root}/{name}", start=start, end=end))

    def pieces(self, name: str, start: int) -> Iterator[bytes]:
        with self._failures(f"{self.shown}/{name}"), self._fs.open(f"{self._root}/{name}", "rb") as file:
            file.seek(start)
            while piece := file.read(PIECE):
                yield piece

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise CheckpointError(f"{what} does not exist") from None
        except PermissionError:
            raise CheckpointError(f"{what} may not be read", hint=WHO) from None
        except OSError as error:
            raise UnreachableError(what, type(error).__name__) from error
        except library_errors() as error:
            raise CheckpointError(f"{what} cannot be read: {type(error).__name__}", hint=WHO) from error


WHO = "does this machine have the store's credentials (AWS_..., GOOGLE_APPLICATION_CREDENTIALS)?"


def library_errors() -> tuple[type[Exception], ...]:
    """Errors of the libraries behind object stores, which are no OSError; only what is loaded can be raised."""
    places = {
        "botocore.exceptions": "BotoCoreError",
        "aiohttp.client_exceptions": "ClientError",
        "google.auth.exceptions": "GoogleAuthError",
    }
    found = []
    for module, name in places.items():
        kind = vars(sys.modules[module]).get(name) if module in sys.modules else None
        if isinstance(kind, type) and issubclass(kind, Exception):
            found.append(kind)
    return tuple(found)


def _tag(detail: dict[str, Any]) -> str:
    """What tells one version of a file from another."""
    for key in ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created"):
        if detail.get(key) is not None:
            return str(detail[key])
    return ""


@final
class HttpStore(Store):
    """A folder of a web server: it cannot be listed, so files are asked for by the names checkpoints have."""

    def __init__(self, address: str) -> None:
        self.shown = address.rstrip("/")
        self._authorization = _netrc_entry(urlsplit(address).hostname or "")

    def list(self) -> dict[str, RemoteFile]:
        found: dict[str, RemoteFile] = {}
        names = [*KNOWN_FILES]
        for name in names:
            file = self._look(name)
            if file is None:
                continue
            found[name] = file
            if name in (INDEX_FILE, PICKLE_INDEX):
                text = self.read(name, 0, file.size).decode("utf-8", "replace")
                names += [shard for shard in index_files(text, f"{self.shown}/{name}") if shard not in names]
        return found

    def read(self, name: str, start: int, end: int) -> bytes:
        with self._opened(name, start, end) as response:
            return bytes(response.read(end - start))

    def pieces(self, name: str, start: int) -> Iterator[bytes]:
        with self._opened(name, start, None) as response:
            while piece := response.read(PIECE):
                yield piece

    def _look(self, name: str) -> RemoteFile | None:
        """Size and tag of a file, by asking for its first byte; None where it is not there."""
        try:
            with self._requested(name, "bytes=0-0") as response:
                headers = response.headers
                whole = response.status != 206
                size = headers.get("Content-Length") if whole else headers.get("Content-Range", "").rpartition("/")[2]
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # a file without a first byte
                return RemoteFile(name, 0, "")
            if error.code in (403, 404, 410) and name != KNOWN_FILES[0]:
                return None
            raise self._refused(name, error) from None
        if not (size or "").isdigit():
            raise CheckpointError(f"{self.shown}/{name}: the server does not say how large it is")
        return RemoteFile(name, int(size or 0), headers.get("ETag") or headers.get("Last-Modified") or "")

    @contextmanager
    def _opened(self, name: str, start: int, end: int | None) -> Iterator[Any]:
        """A response that stands at byte `start`, also where the server knows no ranges."""
        wanted = f"bytes={start}-{'' if end is None else end - 1}"
        try:
            with self._requested(name, wanted) as response:
                if response.status != 206:
                    if end is not None and end > PIECE:
                        raise CheckpointError(
                            f"{self.shown}: the server cannot give a part of a file",
                            hint="run without --dry-run, which fetches whole files, or fetch the folder by hand",
                        )
                    response.read(start)
                yield response
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refused(name, error) from None

    @contextmanager
    def _requested(self, name: str, wanted: str) -> Iterator[Any]:
        request = urllib.request.Request(f"{self.shown}/{quote(name)}", headers={"Range": wanted})
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)  # not for another server's eyes
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                yield response
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as error:  # a URLError wraps what the network said
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise UnreachableError(self.shown, str(reason)) from error

    def _refused(self, name: str, error: urllib.error.HTTPError) -> CheckpointError:
        hint = "the address is that of the checkpoint's folder"
        if error.code in (401, 403):
            hint = "put name and password of the server into ~/.netrc"
        return CheckpointError(f"{self.shown}/{name}: the server answers {error.code} {error.reason}", hint=hint)


def _netrc_entry(host: str) -> str:
    """The header for a host that ~/.netrc knows, empty otherwise."""
    try:
        entry = netrc.netrc().authenticators(host)
    except (FileNotFoundError, netrc.NetrcParseError):
        return ""
    if entry is None:
        return ""
    return "Basic " + base64.b64encode(f"{entry[0]}:{entry[2]}".encode()).decode()
