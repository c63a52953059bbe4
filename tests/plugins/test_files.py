"""A plugin file is executed once per process, and finds the modules beside it."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.e2e.runs import here
from tests.toy.compiled import compiled, put
from tests.toy.live import live_stage
from tests.toy.world import PLUGINS, toy_recipe, write_recipe
from wavalign.engine.compile.plan import Plan
from wavalign.errors import PluginError
from wavalign.plugins.files import digest, load_file
from wavalign.plugins.registry import Registry

GATE = '''
from wavalign.plugins.api import Gate, GateReading
{imports}

TIMES = []


class Own(Gate):
    """A gate."""

    type = "{type}"

    def update(self, rewards, *, progress):
        return GateReading({value})

    def state_dict(self):
        return {{}}

    def load_state_dict(self, state):
        return
'''


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Modules that a test loads are gone after it."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def gate(path: Path, imports: str = "", value: str = "0.5", type_: str = "own") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(GATE.format(imports=imports, value=value, type=type_), encoding="utf-8")
    return str(path)


def given(plugin: type) -> float:
    """What the gate of `gate` gives."""
    return float(plugin(None).update(None, progress=0.0).value)


def value_of(module: ModuleType) -> float:
    return given(vars(module)["Own"])


def tally(path: Path) -> str:
    """Code that leaves a mark each time it runs."""
    return (
        f"import os\nos.write(fd := os.open({str(path)!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY), b'x')\nos.close(fd)"
    )


def test_compiler_builder_and_export_see_one_class(tmp_path: Path) -> None:
    """Whoever asks, by whatever path: one module, and so one state of it."""
    counted = tmp_path / "count.txt"
    file = gate(tmp_path / "mine.py", tally(counted))
    plan = compiled(tmp_path, put("plugins", [str(PLUGINS), file]), put("objective.gate", {"type": "own"}))
    live = live_stage(plan)
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    other = Registry([str(tmp_path / "link" / "mine.py")]).get("gate", "own")
    assert live.gate is not None
    assert isinstance(live.gate, other)
    live.close()
    assert Registry(Plan.from_json(plan.to_json()).plugins).get("gate", "own") is other
    assert counted.read_text() == "x"


def test_the_commands_of_one_process_execute_a_file_once(tmp_path: Path) -> None:
    """Validating, planning, running, resuming, reporting and exporting."""
    counted, helped = tmp_path / "count.txt", tmp_path / "helped.txt"
    (tmp_path / "helper_of_commands.py").write_text(f"{tally(helped)}\nHALF = 0.5\n", encoding="utf-8")
    file = gate(tmp_path / "mine.py", f"from helper_of_commands import HALF\n{tally(counted)}", "HALF")
    recipe = toy_recipe(tmp_path)
    put("plugins", [str(PLUGINS), file])(recipe)
    put("objective.gate", {"type": "own"})(recipe)
    put("steps", 1)(recipe)
    written, folder = write_recipe(tmp_path, recipe), str(tmp_path / "run")
    for command in (
        ("validate", written),
        ("plan", written),
        ("run", written, "--dry-run"),
        ("run", written),
        ("run", written, "--resume", "--set", "steps=2"),
        ("report", folder),
        ("export", folder, "--to", str(tmp_path / "exported")),
    ):
        ended = here(*command)
        assert ended.code == 0, (command, ended.output)
    assert (counted.read_text(), helped.read_text()) == ("x", "x")


def test_an_edited_file_is_another_plugin(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    first, again = load_file(Path(gate(path))), load_file(path)
    assert again is first
    second = load_file(Path(gate(path, value="0.7")))  # of the same length, in the same second
    assert second is not first
    assert value_of(second) == 0.7
    assert load_file(Path(gate(path))) is first


def test_a_module_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "half_of_it.py").write_text("HALF = 0.5\n", encoding="utf-8")
    (tmp_path / "package_of_it").mkdir()
    (tmp_path / "package_of_it" / "__init__.py").write_text("from package_of_it.inner import QUARTER\n")
    (tmp_path / "package_of_it" / "inner.py").write_text("QUARTER = 0.25\n")
    file = gate(tmp_path / "mine.py", "from half_of_it import HALF\nimport package_of_it", "HALF")
    before = list(sys.path)
    recipe = toy_recipe(tmp_path)
    put("plugins", [str(PLUGINS), file])(recipe)
    put("objective.gate", {"type": "own"})(recipe)
    put("steps", 1)(recipe)
    ended = here("run", write_recipe(tmp_path, recipe))
    assert ended.code == 0, ended.output
    assert sys.path == before


def test_an_edited_helper_is_another_plan(tmp_path: Path) -> None:
    helper = tmp_path / "helper_that_changes.py"
    helper.write_text("HALF = 0.5\n", encoding="utf-8")
    file = gate(tmp_path / "mine.py", "from helper_that_changes import HALF")
    load_file(Path(file))
    before = digest(file)
    helper.write_text("HALF = 0.75\n", encoding="utf-8")
    assert digest(file) != before


def test_an_edited_helper_is_another_plugin(tmp_path: Path) -> None:
    """What is executed is what the plan's fingerprint covers."""
    helper, inner = tmp_path / "outer_helper.py", tmp_path / "inner_helper.py"
    inner.write_text("HALF = 0.5\n", encoding="utf-8")
    helper.write_text("from inner_helper import HALF\n", encoding="utf-8")
    path = Path(gate(tmp_path / "mine.py", "from outer_helper import HALF", "HALF"))
    first = load_file(path)
    assert value_of(first) == 0.5
    inner.write_text("HALF = 0.7\n", encoding="utf-8")
    second = load_file(path)
    assert value_of(second) == 0.7
    assert value_of(first) == 0.5  # what runs already goes on as it is
    assert load_file(path) is second


@pytest.mark.parametrize("order", [("base.py", "mine.py"), ("mine.py", "base.py")])
def test_an_edited_file_that_another_imports(tmp_path: Path, order: tuple[str, str]) -> None:
    stem = f"first_{order[0].removesuffix('.py')}"
    files = [str(tmp_path / name.replace("base", stem)) for name in order]
    for value in ("0.5", "0.7"):
        gate(tmp_path / f"{stem}.py", value=value, type_="base")
        gate(tmp_path / "mine.py", f"import {stem}", f"{stem}.Own(None).update(None, progress=0).value", type_="mine")
        found = Registry(files)
        for type_ in ("base", "mine"):
            assert given(found.get("gate", type_)) == float(value), type_
        again = Registry(files)
        assert again.get("gate", "mine") is found.get("gate", "mine")
        assert again.get("gate", "base") is found.get("gate", "base")


def test_a_module_that_no_plugin_brought_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who works in the folder has imported it: it is theirs."""
    own = tmp_path / "module_of_a_notebook.py"
    own.write_text("HALF = 0.5\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    theirs = importlib.import_module("module_of_a_notebook")
    path = Path(gate(tmp_path / "mine.py", "from module_of_a_notebook import HALF", "HALF"))
    first = load_file(path)
    own.write_text("HALF = 0.7\n", encoding="utf-8")
    assert load_file(path) is first
    assert sys.modules["module_of_a_notebook"] is theirs


def test_two_helpers_of_one_name_do_not_meet_in_silence(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same_name.py").write_text(f"VALUE = {name!r}\n", encoding="utf-8")
        gate(tmp_path / name / "mine.py", "import same_name", type_=f"own_{name}")
    load_file(tmp_path / "a" / "mine.py")
    with pytest.raises(PluginError) as caught:
        load_file(tmp_path / "b" / "mine.py")
    assert f"{tmp_path / 'b' / 'mine.py'}:3: `import same_name` would give {tmp_path / 'a' / 'same_name.py'}" in str(
        caught.value
    )
    assert "rename same_name" in caught.value.hint


def test_a_name_that_something_installed_has(tmp_path: Path) -> None:
    (tmp_path / "soxr.py").write_text("VALUE = 1\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"`import soxr` would give .*site-packages"):
        load_file(Path(gate(tmp_path / "mine.py", "import soxr")))


def test_a_file_that_another_imports_is_executed_once(tmp_path: Path) -> None:
    """In either order."""
    for folder, order in (("one", ("base.py", "mine.py")), ("two", ("mine.py", "base.py"))):
        counted = tmp_path / f"{folder}.txt"
        base = f"base_{folder}"
        gate(tmp_path / folder / f"{base}.py", tally(counted), type_="base")
        gate(tmp_path / folder / "mine.py", f"import {base}", type_="mine")
        files = [str(tmp_path / folder / name.replace("base", base)) for name in order]
        registry = Registry(files)
        assert {"base", "mine"} <= set(registry.types("gate"))
        assert counted.read_text() == "x"


def test_a_failure_in_a_helper_names_its_line(tmp_path: Path) -> None:
    helper = tmp_path / "broken_helper.py"
    helper.write_text("x = 1\ny = x / 0\n", encoding="utf-8")
    file = gate(tmp_path / "mine.py", "import broken_helper")
    with pytest.raises(PluginError) as caught:
        load_file(Path(file))
    assert caught.value.message == (f"{file} failed to import: ZeroDivisionError: division by zero ({helper}:2)")
    helper.write_text("x = 1\n", encoding="utf-8")
    assert load_file(Path(file)).TIMES == []  # a failure is not remembered
