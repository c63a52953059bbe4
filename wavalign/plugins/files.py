"""Plugin files of a recipe: each executed once per process, whoever asks, with the modules beside it to import.

A module beside the file is imported under its plain name while the file is executed (`import scales` finds `scales.py`
in the same folder); what is installed comes first. Python knows one module by one name, so two plugins may not bring
different ones of the same: that is an error which names both files, as is a name that something installed has taken.
"""

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from wavalign.errors import PluginError
from wavalign.plugins.guard import IMPORT, Guard, Origin

_loaded: dict[tuple[Path, str], ModuleType] = {}
"""By resolved path and digest of the content: an edited file is another module, an equal one the same."""


def load_file(path: Path) -> ModuleType:
    """The module of a Python file; a failure to execute it is a PluginError with file and line."""
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist", hint="`plugins:` takes paths relative to the recipe")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PluginError(f"plugin file {path} cannot be read: {error}", hint="check its permissions") from error
    key = (path.resolve(), hashlib.sha256(content).hexdigest())
    if key not in _loaded:
        _loaded[key] = _executed(path, key, content)
    return _loaded[key]


def helpers_of(path: Path) -> list[Path]:
    """Files of the modules beside `path` that are loaded, in order."""
    folder = path.resolve().parent
    beside = _beside(folder)
    files = {_file_of(module) for name, module in list(sys.modules.items()) if name.partition(".")[0] in beside}
    return sorted(file for file in files if file is not None and file.is_relative_to(folder))


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
    name = f"wavalign_user_{path.stem}_{place}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file", hint="name it something.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic and pickling look classes up by module name
    try:
        with Guard(Origin("plugin", "", str(path)), IMPORT), _importable(resolved.parent):
            _refuse_other_modules(path, resolved, content)
            spec.loader.exec_module(module)
            for helper in helpers_of(resolved):
                _refuse_other_modules(helper, helper, helper.read_bytes())
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Inside, modules of `folder` are found, after everything installed; plugin files that ran are not run again."""
    sys.path.append(str(folder))
    ran = {path.stem: module for (path, _), module in _loaded.items() if path.parent == folder}
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


def _beside(folder: Path) -> set[str]:
    """Names of the modules and packages in a folder."""
    modules = {path.stem for path in folder.glob("*.py")}
    return modules | {path.parent.name for path in folder.glob("*/__init__.py")}


def _file_of(module: ModuleType) -> Path | None:
    file = vars(module).get("__file__")
    return Path(file).resolve() if isinstance(file, str) else None
