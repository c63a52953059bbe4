"""Checkpoints on the Hugging Face Hub, through its own library and cache.

`hf://org/name[@revision][/folder]`; a slash in a revision is written `%2F`. `HF_ENDPOINT` names another server,
`HF_TOKEN` says who you are, `HF_HUB_OFFLINE=1` keeps to the cache.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final
from urllib.parse import unquote

from huggingface_hub import HfApi, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    build_hf_headers,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
    hf_raise_for_status,
)

from wavalign.errors import CheckpointError
from wavalign.storage.stores import RemoteFile, Store, UnreachableError

ADDRESS = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<folder>.+?))?/?")
_NO_ANSWER: type[BaseException] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
"""Base of what the library's HTTP client raises; which client that is depends on the library's version."""


@final
class HubStore(Store):
    """A repository, or a folder of one, at one revision."""

    def __init__(self, address: str) -> None:
        match = ADDRESS.fullmatch(address)
        if match is None or match["repo"].split("/")[0] in ("datasets", "spaces"):
            raise CheckpointError(f"{address} names no model", hint="hf://org/name, hf://org/name@revision/folder")
        self.shown = address.rstrip("/")
        self._repo, self._revision = match["repo"], unquote(match["revision"]) if match["revision"] else None
        self._prefix = f"{match['folder']}/" if match["folder"] else ""
        self._endpoint = os.environ.get("HF_ENDPOINT")
        self._commit: str | None = None

    def list(self) -> dict[str, RemoteFile]:
        with self._failures():
            info = HfApi(endpoint=self._endpoint).model_info(self._repo, revision=self._revision, files_metadata=True)
        self._commit = info.sha
        files = {}
        for each in info.siblings or ():
            if each.rfilename.startswith(self._prefix):
                name = each.rfilename.removeprefix(self._prefix)
                files[name] = RemoteFile(name, each.size or 0, each.blob_id or "")
        return files

    def read(self, name: str, start: int, end: int) -> bytes:
        path, revision = self._prefix + name, self._commit or self._revision
        with self._failures():
            address = hf_hub_url(self._repo, path, revision=revision, endpoint=self._endpoint)
            headers = {**build_hf_headers(), "Range": f"bytes={start}-{end - 1}"}
            response = get_session().get(address, headers=headers, follow_redirects=True)
            hf_raise_for_status(response)
            content = bytes(response.content)
        return content if response.status_code == 206 else content[start:end]

    def pieces(self, name: str, start: int) -> Iterator[bytes]:
        raise NotImplementedError("the hub's library fetches its files itself")

    def fetch(self, names: Sequence[str]) -> str:
        """Bring `names` into the hub's cache; gives the local folder."""
        patterns = [_literal(self._prefix + name) for name in names]
        with self._failures(), _quiet():
            root = snapshot_download(
                self._repo, revision=self._revision, allow_patterns=patterns, endpoint=self._endpoint
            )
        return str(Path(root) / self._prefix)

    def cached(self, patterns: Sequence[str]) -> str | None:
        """The local folder, when the hub's cache holds everything that matches; nothing is asked of the network."""
        wanted = [self._prefix + pattern for pattern in patterns]
        try:
            with _quiet():
                root = snapshot_download(
                    self._repo, revision=self._revision, allow_patterns=wanted, local_files_only=True
                )
        except LocalEntryNotFoundError:
            return None
        return str(Path(root) / self._prefix)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What the library raises, in our words; theirs may repeat requests."""
        try:
            yield
        except HFValidationError:
            raise CheckpointError(f"{self.shown} names no model", hint="hf://org/name[@revision][/folder]") from None
        except GatedRepoError:
            hint = f"accept its terms at https://huggingface.co/{self._repo}, then set HF_TOKEN"
            raise CheckpointError(f"{self.shown} is open to those who accepted its terms", hint=hint) from None
        except RepositoryNotFoundError:
            hint = "look at org and name; a private one needs HF_TOKEN"
            raise CheckpointError(f"the hub has no model {self._repo} that you may see", hint=hint) from None
        except RevisionNotFoundError:
            raise CheckpointError(
                f"{self._repo} has no revision {self._revision}", hint="a branch, tag or commit"
            ) from None
        except LocalEntryNotFoundError as error:
            raise UnreachableError(self.shown, "its files are not in the cache") from error
        except OfflineModeIsEnabled as error:
            raise UnreachableError(self.shown, "HF_HUB_OFFLINE is set") from error
        except HfHubHTTPError as error:
            raise UnreachableError(self.shown, f"the hub answers {error.response.status_code}") from error
        except (_NO_ANSWER, OSError) as error:
            raise UnreachableError(self.shown, type(error).__name__) from error


def _literal(name: str) -> str:
    """A pattern that matches `name` alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own bars, which would write over ours."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
