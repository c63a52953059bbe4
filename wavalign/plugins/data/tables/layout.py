"""What turns a row into a dialogue, and what it says of a row that is none."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, final

from pydantic import ValidationError

from wavalign.errors import DataError
from wavalign.plugins.batch import AudioClip, Dialogue


@final
@dataclass(frozen=True, slots=True)
class Complaints:
    """Why a row is no dialogue: everything found, and one remedy."""

    messages: tuple[str, ...]
    hint: str

    def first(self, where: str) -> DataError:
        """One error for the row."""
        more = f" (and {len(self.messages) - 1} more)" if len(self.messages) > 1 else ""
        return DataError(f"{where}: {self.messages[0]}{more}", hint=self.hint)

    def each(self, where: str) -> list[DataError]:
        """An error for every complaint."""
        return [DataError(f"{where}: {message}", hint=self.hint) for message in self.messages]


class Layout(ABC):
    """How rows are to be read."""

    columns: Sequence[str] | None = None
    """Columns of a table that are wanted; None for all. A JSON object always comes whole."""
    structure: Sequence[str] | None = None
    """Columns a table may have, where rows are read by their names; the first is needed."""

    drops_bad: bool = False
    """Whether its Params say to leave bad records out."""

    @abstractmethod
    def dialogue(self, tree: Any, *, name: str, url: str) -> Dialogue | Complaints | None:
        """The dialogue of a row, or what is wrong with it, or None where its Params say to leave it out.

        `name` is its id where it has none; audio paths count from the folder of `url`.
        """


def clip_of(audio: str | None, codes: Sequence[int] | None, url: str, root: str | None = None) -> AudioClip | None:
    """Sound by its path, by its codes, or by both; `audio` as in `clip`."""
    found = clip(audio, url, root)
    return found if codes is None else AudioClip.of_codes(codes, None if found is None else found.url)


def clip(audio: str | None, url: str, root: str | None = None) -> AudioClip | None:
    """`audio` counted from the folder `root`, or else from the folder of `url`."""
    if audio is None:
        return None
    if "://" in audio or audio.startswith("/"):
        return AudioClip(audio)
    if root is not None:
        return AudioClip(f"{root.rstrip('/')}/{audio}")
    scheme, mark, path = url.rpartition("://")
    return AudioClip(f"{scheme}{mark}{PurePosixPath(path).parent / audio}")


def complaints(error: ValidationError, hint: str) -> Complaints:
    """Every complaint as `messages.0.role: ...`."""
    found = []
    for each in error.errors(include_url=False, include_context=False):
        place = ".".join(str(part) for part in each["loc"])
        found.append(f"{place}: {each['msg']}" if place else each["msg"])
    return Complaints(tuple(found), hint)
