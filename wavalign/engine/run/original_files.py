"""The files of a checkpoint's folder, as an export may take them along: nothing from outside, nothing twice round.

A link may lead to a file or folder of the same checkpoint; one to a folder is gone through once. The hub's cache keeps
contents in `blobs` beside its snapshots and is one place with them. A link that leads elsewhere, nowhere or back to a
folder it lies in is refused, and so is what is neither file nor folder.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavalign.errors import CheckpointError

HIDDEN = (".cache", ".git")
"""Folders of tools inside a checkpoint."""
_WHY = "an export takes along what lies in the checkpoint's folder; put the file itself there, or remove the link"


@final
@dataclass(frozen=True, slots=True)
class OriginalFile:
    """A file of a checkpoint."""

    name: str
    """Relative path in the checkpoint, with slashes."""
    path: Path
    """Where its content lies; no link."""
    size: int


def original_files(folder: Path) -> list[OriginalFile]:
    """Every file under `folder` in the order of names; raises CheckpointError naming what may not be taken along."""
    root = folder.resolve()
    return sorted(_Walk(folder, root).files(folder, root, ()), key=lambda file: file.name)


@final
class _Walk:
    """One way through a checkpoint's folder."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder, self._inside, self._seen = folder, _inside(root), set[Path]()

    def files(self, folder: Path, real: Path, above: tuple[Path, ...]) -> Iterator[OriginalFile]:
        """Files of `folder`, whose content is that of `real`; `above` holds the real folders that lead here."""
        for entry in _entries(folder):
            path = Path(entry.path)
            place = self._followed(path) if entry.is_symlink() else real / entry.name
            kind = place.lstat()
            if stat.S_ISREG(kind.st_mode):
                yield OriginalFile(path.relative_to(self._folder).as_posix(), place, kind.st_size)
            elif stat.S_ISDIR(kind.st_mode):
                if entry.is_symlink():
                    self._check_way(path, place, (*above, real))
                yield from self.files(path, place, (*above, real))
            else:
                raise CheckpointError(f"{path} is neither a file nor a folder", hint="take it out of the checkpoint")

    def _followed(self, path: Path) -> Path:
        """Where a link leads."""
        try:
            place = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, until Python 3.13
            raise CheckpointError(f"{path} is a link that leads nowhere", hint=_WHY) from error
        if not any(place.is_relative_to(each) for each in self._inside):
            raise CheckpointError(f"{path} is a link out of the checkpoint, to {place}", hint=_WHY)
        return place

    def _check_way(self, path: Path, place: Path, above: tuple[Path, ...]) -> None:
        """Refuse a link to a folder that leads round, or that another link has led to already."""
        if any(each.is_relative_to(place) for each in above) or place in self._seen:
            raise CheckpointError(f"{path} is a link that leads to {place} again", hint=_WHY)
        self._seen.add(place)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if entry.name not in HIDDEN), key=lambda entry: entry.name)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error


def _inside(root: Path) -> tuple[Path, ...]:
    """Where content may lie: the folder itself and, of a snapshot in the hub's cache, the blobs of its repository."""
    for parent in root.parents:
        if parent.name == "snapshots" and (parent.parent / "blobs").is_dir():
            return (root, parent.parent / "blobs")
    return (root,)
