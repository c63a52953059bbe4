"""Weights that come inside a package of the index: found without importing it, used only where they are the known ones.

The packages named here are each by a single author. Their pinned version says which release is installed, the digest
that its weights are those that were looked at and measured.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

from wavalign.errors import PluginError

INSTALL = 'pip install "wavalign[natural]"'


@final
@dataclass(frozen=True, slots=True)
class Shipped:
    """A file of an installed package."""

    package: str
    """Name on the index, with the version that was looked at."""
    module: str
    """Name that Python finds it by."""
    path: str
    """Below the module's folder."""
    sha256: str
    what: str
    """What a user misses without it."""
    install: str = INSTALL
    """Command that installs it."""

    def file(self) -> Path:
        """The file, its content checked once a process; raises PluginError where it is absent or another."""
        return _checked(self)


@cache
def _checked(shipped: Shipped) -> Path:
    folder = module_folder(shipped.module)
    if folder is None:
        raise PluginError(f"{shipped.what} needs the package {shipped.package}", hint=shipped.install)
    path = folder / shipped.path
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PluginError(
            f"{shipped.what}: the package {shipped.package} lacks {path}: {error}", hint=shipped.install
        ) from error
    if found != shipped.sha256:
        raise PluginError(
            f"{path} is not the file that {shipped.package} ships: sha256 {found}, expected {shipped.sha256}",
            hint=f"install exactly that version again: pip install --force-reinstall --no-deps {shipped.package}",
        )
    return path


def module_folder(name: str) -> Path | None:
    """Folder of the installed module `name`; None where there is none."""
    found = importlib.util.find_spec(name)
    return None if found is None or found.origin is None else Path(found.origin).parent
