"""Plugin files of a recipe: each executed once per process, whoever asks, with the modules beside it to import.

A module beside the file is imported under its plain name while the file is executed (`import scales` finds `scales.py`
in the same folder); what is installed comes first. Python knows one module by one name, so two plugins may not bring
different ones of the same: that is an error which names both files, as is a name that something installed has taken.
A file is executed again once it, or a module beside it that it brought, has been edited.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import final

from wavalign.errors import PluginError
from wavalign.plugins.guard import IMPORT, Guard, Origin

PREFIX = "wavalign_user_"
"""Of the names of modules that plugin files become."""


@final
@dataclass(frozen=True, slots=True)
class _Loaded:
    """A plugin file that was executed."""

    module: ModuleType
    helpers: dict[Path, str]
    """Files of the modules beside it that it uses, with the digests of their content."""

    def is_current(self) -> bool:
        """Whether executing it again would run the same code."""
        return all(_digest_of(file) == known for file, known in self.helpers.items())


_loaded: dict[tuple[Path, str], _Loaded] = {}
"""By resolved path and digest of the content: an edited file is another module, an equal one the same."""
_imported: dict[Path, str] = {}
"""Files of modules beside plugin files, as they were when they were imported."""


def load_file(path: Path) -> ModuleType:
    """The module of a Python file; a failure to execute it is a PluginError with file and line."""
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist", hint="`plugins:` takes paths relative to the recipe")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PluginError(f"plugin file {path} cannot be read: {error}", hint="check its permissions") from error
    key = (path.resolve(), hashlib.sha256(content).hexdigest())
    if key not in _loaded or not _loaded[key].is_current():
        _forget_edited(key[0].parent)
        _loaded[key] = _Loaded(_executed(path, key, content), _brought(key[0], content))
    return _loaded[key].module


def helpers_of(path: Path) -> list[Path]:
    """Files of the modules beside `path` that are loaded, in order."""
    return _files_beside(path.resolve(), set(sys.modules))


def digest(path: str) -> str:
    """SHA-256 of a plugin file and of the modules beside it that it brought along."""
    total = hashlib.sha256(Path(path).read_bytes())
    for file in helpers_of(Path(path)):
        total.update(file.read_bytes())
    return total.hexdigest()


def _executed(path: Path, key: tuple[Path, str], content: bytes) -> ModuleType:
    """Run the file as a module of its own."""
    resolved, content_digest = key
    known = sys.modules.get(path.stem)
    if known is not None and _file_of(known) == resolved:  # another file beside it has imported it
        return known
    place = hashlib.sha256(f"{resolved}\0{content_digest}".encode()).hexdigest()[:16]
    name = f"{PREFIX}{path.stem}_{place}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise PluginError(f"{path} is not a Python file", hint="name it something.py")
    module, before = importlib.util.module_from_spec(spec), set(sys.modules)
    sys.modules[name] = module  # pydantic and pickling look classes up by module name
    try:
        with Guard(Origin("plugin", "", str(path)), IMPORT), _importable(resolved.parent):
            _refuse_other_modules(path, resolved, content)
            # What was hashed is what runs: the loader would take bytecode of an edit in the same second for current.
            exec(compile(content, str(spec.origin), "exec", dont_inherit=True), vars(module))
            for helper in helpers_of(resolved):
                _refuse_other_modules(helper, helper, helper.read_bytes())
            _imported.update((file, _digest_of(file)) for file in _files_beside(resolved, set(sys.modules) - before))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _brought(path: Path, content: bytes) -> dict[Path, str]:
    """Files beside `path` that were imported for plugins, and plugin files that it imports itself, with digests."""
    wanted = {name for name, _ in _imports(content, path)}
    near = [(file, seen) for file, seen in _loaded if file.parent == path.parent and file.stem in wanted]
    shared = {file: seen for file, seen in near if seen == _digest_of(file)}
    return {file: _imported[file] for file in helpers_of(path) if file in _imported} | shared


def _forget_edited(folder: Path) -> None:
    """Let the modules in `folder` be imported anew where one of them was edited; they may import one another."""
    known = {file: seen for file, seen in _imported.items() if file.is_relative_to(folder)}
    if all(_digest_of(file) == seen for file, seen in known.items()):
        return
    for name, module in list(sys.modules.items()):
        if _file_of(module) in known and not name.startswith(PREFIX):  # what a plugin file became stays its own
            del sys.modules[name]
    for file in known:
        del _imported[file]
        with contextlib.suppress(OSError):  # where it cannot be deleted, it could not be written either
            Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
    importlib.invalidate_caches()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Inside, modules of `folder` are found, after everything installed; plugin files that ran are not run again."""
    sys.path.append(str(folder))
    here = {key: loaded.module for key, loaded in _loaded.items() if key[0].parent == folder}
    ran = {path.stem: module for (path, seen), module in here.items() if seen == _digest_of(path)}
    lent = {name: module for name, module in ran.items() if name not in sys.modules}
    sys.modules.update(lent)
    try:
        yield
    finally:
        for name in lent:
            sys.modules.pop(name, None)
        sys.path.reverse()
        sys.path.remove(str(folder))  # the one from above, should it stand there twice
        sys.path.reverse()


def _refuse_other_modules(path: Path, resolved: Path, content: bytes) -> None:
    """Raise PluginError where a name `path` imports lies beside it and is, or would be, another module."""
    folder = resolved.parent
    for name, line in _imports(content, path):
        if name not in _beside(folder) or name in sys.stdlib_module_names:
            continue
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        found = _file_of(sys.modules[name]) if name in sys.modules else spec and spec.origin and Path(spec.origin)
        if found and not Path(found).resolve().is_relative_to(folder):
            raise PluginError(
                f"{path}:{line}: `import {name}` would give {found}, not the module beside the file",
                hint=f"rename {name}: Python knows one module by one name, also where two plugins bring one each",
                placed=True,
            )


def _imports(content: bytes, path: Path) -> Iterator[tuple[str, int]]:
    """First names of what a file imports, with their lines."""
    for node in ast.walk(ast.parse(content, str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            yield node.module.partition(".")[0], node.lineno


def _files_beside(path: Path, names: Iterable[str]) -> list[Path]:
    """Files of those modules, by their names, that lie beside `path`, in order."""
    beside = _beside(path.parent)
    files = {_file_of(sys.modules[name]) for name in names if name.partition(".")[0] in beside}
    return sorted(file for file in files if file is not None and file.is_relative_to(path.parent))


def _beside(folder: Path) -> set[str]:
    """Names of the modules and packages in a folder."""
    modules = {path.stem for path in folder.glob("*.py")}
    return modules | {path.parent.name for path in folder.glob("*/__init__.py")}


def _file_of(module: ModuleType) -> Path | None:
    file = vars(module).get("__file__")
    return Path(file).resolve() if isinstance(file, str) else None


def _digest_of(file: Path) -> str:
    """SHA-256 of a file's content; empty where it is gone."""
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
