"""Find the files of a source: one, several, a pattern or a folder, anywhere fsspec reaches."""

import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import fsspec

from wavalign.errors import DataError
from wavalign.plugins.audio import as_written

_MAGIC = frozenset("*?[")


@final
@dataclass(frozen=True, slots=True)
class Shard:
    """One file."""

    url: str
    size: int
    """Bytes, -1 where the file system does not say."""
    name: str = ""
    """What tells it from its neighbours; empty when it is alone."""

    @property
    def label(self) -> str:
        """Changes when the file is another."""
        return f"{self.name or posixpath.basename(self.url)}:{self.size}"

    def row_name(self, row: str) -> str:
        """A name for a row that no row of a neighbour has."""
        return f"{self.name}:{row}" if self.name else row


def find_files(path: str | Sequence[str], suffixes: Sequence[str]) -> list[Shard]:
    """Files in the order they are listed, those of a pattern or folder by name; raises DataError where there are none.

    A folder stands for every file below it with one of `suffixes`; names that begin with `.` or `_` are left out.
    """
    paths = [path] if isinstance(path, str) else path
    found = [shard for each in paths for shard in _found(each, suffixes)]
    return named(found)


def named(found: Sequence[Shard]) -> list[Shard]:
    """Files with names that tell them apart; raises DataError where one comes twice."""
    if len(found) == 1:
        return list(found)
    url, times = Counter(shard.url for shard in found).most_common(1)[0] if found else ("", 0)
    if times > 1:
        message = f"{url} is named more than once"
        raise DataError(message, hint="list it once; `weight` shows a source more often")
    shared = posixpath.commonpath([posixpath.dirname(shard.url) for shard in found])
    return [replace(shard, name=posixpath.relpath(shard.url, shared)) for shard in found]


def _found(path: str, suffixes: Sequence[str]) -> list[Shard]:
    try:
        path = as_written(path) if "://" not in path else path
        system, root = fsspec.core.url_to_fs(path)
        if "::" in path or system.isfile(root):
            return [Shard(path, _size(system.info(root)))]
        folder = bool(system.isdir(root))
        listed = system.find(root, detail=True) if folder else _matching(system, root)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path}: the data file cannot be opened: {error}", hint="check the path") from error
    prefix = len(root.rstrip("/")) if folder else 0
    wanted = sorted(name for name in listed if not folder or _is_data(name[prefix:], suffixes))
    if wanted:
        local = "://" not in path
        return [Shard(each if local else system.unstrip_protocol(each), _size(listed[each])) for each in wanted]
    if folder or _MAGIC & set(root):
        hint = f"looked for {', '.join(suffixes)}" if folder else "check the pattern"
        raise DataError(f"{path}: no data file there", hint=hint)
    raise DataError(f"{path}: the data file cannot be opened: no such file", hint="check the path")


def _is_data(path: str, suffixes: Sequence[str]) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.split("/") if part)
    return not hidden and path.endswith(tuple(suffixes))


def _matching(system: Any, pattern: str) -> Mapping[str, Any]:
    """Files that match, with what the file system knows of each."""
    found: Mapping[str, Any] = system.glob(pattern, detail=True) if _MAGIC & set(pattern) else {}
    return {name: info for name, info in found.items() if info.get("type") != "directory"}


def _size(info: Mapping[str, Any]) -> int:
    size = info.get("size")
    return size if isinstance(size, int) else -1
