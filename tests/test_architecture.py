"""The shape of the code: sizes, borders, and what `--help` may cost. An exception stands in a table with its reason."""

import ast
import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("wavalign", "cli") for path in (ROOT / folder).rglob("*.py"))
MOST_FUNCTION_LINES, MOST_PARAMETERS, MOST_FILE_LINES, MOST_CLASS_LINES = 50, 6, 400, 250

LONG_FUNCTIONS: dict[str, str] = {}
"""`path::Class.function` -> why it may be longer."""
MANY_PARAMETERS: dict[str, str] = {
    "cli/data.py::check": "the options of a command, each with its own help",
    "cli/data.py::show": "each is an option of the command",
    "cli/evaluate.py::evaluate": "each is an option of the command",
    "cli/export.py::export": "each is an option of the command",
    "cli/judge.py::calibrate": "each is an option of the command",
    "cli/listen.py::listen": "each is an option of the command",
    "cli/pairs.py::pairs": "each is an option of the command",
    "cli/run.py::run": "each is an option of the command",
    "wavalign/engine/compile/operators.py::_one": "the fields of an operator and of its line in the table",
    "wavalign/engine/contracts/rollouts.py::_sample": "the contract's own",
    "wavalign/engine/compile/lowering.py::deepspeed_config": "each is a number or name of the plan; it reads no plan",
}
LONG_FILES: dict[str, str] = {}
LONG_CLASSES: dict[str, str] = {}
BROAD_HANDLERS: dict[str, str] = {
    "cli/app.py": "the one place where an unexpected error becomes a message, a log file and exit code 1",
    "wavalign/engine/state/background.py": "what is raised in its thread is raised where the next piece begins",
    "wavalign/engine/step/reward_pool.py": "a reward is somebody else's code: its failure is a counted missing value",
    "wavalign/engine/step/values.py": "what an operator raises in its thread is raised where its value is needed",
    "wavalign/engine/worker.py": "a crash is shown as Python would, and the process ends without finalising it",
    "wavalign/plugins/audio.py": "a file system of fsspec raises whatever its own library does",
    "wavalign/plugins/speech/worker_side/wavalign_worker.py": "a worker's failure is an answer",
    "wavalign/plugins/architectures/tokenizers.py": "the tokenizers library raises bare Exceptions on a torn file",
}
KEYWORD_TUNNELS: dict[str, str] = {
    "wavalign/engine/contracts/construct.py::_method.call": "a method keeps the signature of its contract",
    "wavalign/engine/contracts/model.py::_policy": "the same for the two ways to make a network",
    "wavalign/engine/run/parts.py::Parts.plugin": "what a plugin gets beside its Params differs by kind",
}
INNER_IMPORTS: dict[str, str] = {
    "wavalign/engine/models/stage_backend.py::wavalign.engine.backends.deepspeed": "who does not ask need not wait",
    "wavalign/engine/models/stage_backend.py::wavalign.engine.backends.partitioned": "as above",
    "wavalign/plugins/architectures/codec_lm.py::wavalign.plugins.architectures.codec_language_model.policy": (
        "it brings the layers of transformers, which take seconds; `validate` and `plan` want the options alone"
    ),
    "wavalign/plugins/architectures/kimi.py::wavalign.plugins.architectures.kimi_audio.policy": "as above",
    "wavalign/plugins/architectures/kimi_audio/whisper_front_end.py::wavalign.plugins.speech.whisper_features": (
        "as above"
    ),
    "wavalign/plugins/architectures/vita.py::wavalign.plugins.architectures.vita_audio.policy": "as above",
}
"""`path::module` -> why a module of ours is imported in a function (outside cli/, where it keeps `--help` quick)."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function and where it stands."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef
    method: bool
    text: str

    @property
    def code_lines(self) -> int:
        """Lines without docstring, blank and comment lines."""
        return code_lines(self.node, self.text)

    @property
    def parameters(self) -> list[ast.arg]:
        """All of them but self and cls."""
        given = self.node.args
        named = [*given.posonlyargs, *given.args]
        if self.method and named and not is_static(self.node):
            named = named[1:]
        return [*named, *given.kwonlyargs]


SHAPE = re.compile(r"\[(?:\.\.\.|[A-Z*][^\]`]*|groups)?\]")
"""A tensor's shape in a docstring: `[B, S, T]`, `[...]` for any, `[]` for a scalar."""
WITHOUT_SHAPES: dict[str, str] = {}
"""`path::Class.function` -> why it states no shape of its tensors."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def is_static(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list)


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef, text: str) -> int:
    lines = text.splitlines()
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    docstring = set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)) if body != node.body else set()
    numbers = [number for number in range(node.lineno, (node.end_lineno or 0) + 1) if number not in docstring]
    return sum(1 for number in numbers if (line := lines[number - 1].strip()) and not line.startswith("#"))


def functions(path: Path) -> Iterator[Function]:
    """Every function of a file, also inner ones."""
    text = path.read_text(encoding="utf-8")

    def walk(node: ast.AST, prefix: str, in_class: bool) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Function(f"{name_of(path)}::{prefix}{child.name}", child, in_class, text)
                yield from walk(child, f"{prefix}{child.name}.", in_class=False)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.", in_class=True)
            else:
                yield from walk(child, prefix, in_class)

    yield from walk(ast.parse(text), "", in_class=False)


def names_a_tensor(node: ast.expr | None) -> bool:
    """Whether an annotation holds `Tensor`, also as text."""
    if node is None:
        return False
    text = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))
    names = (each.id for each in ast.walk(node) if isinstance(each, ast.Name))
    attributes = (each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute))
    return "Tensor" in (*names, *attributes) or any(re.search(r"\bTensor\b", each) for each in text)


def has_tensors(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function takes or gives tensors."""
    given = node.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return any(names_a_tensor(each) for each in (node.returns, *(arg.annotation for arg in named if arg is not None)))


FUNCTIONS = [function for path in SOURCES for function in functions(path)]


def over(found: dict[str, int], most: int, allowed: dict[str, str]) -> list[str]:
    """What is over a budget without a reason, and reasons that nothing needs any more."""
    breaches = [f"{name}: {count} > {most}" for name, count in found.items() if count > most and name not in allowed]
    idle = [f"{name}: within {most}, strike it from the table" for name in allowed if found.get(name, 0) <= most]
    return breaches + idle


def test_functions_are_short() -> None:
    assert over({each.name: each.code_lines for each in FUNCTIONS}, MOST_FUNCTION_LINES, LONG_FUNCTIONS) == []


def test_functions_take_few_parameters() -> None:
    assert over({each.name: len(each.parameters) for each in FUNCTIONS}, MOST_PARAMETERS, MANY_PARAMETERS) == []


def test_files_are_short() -> None:
    counted = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert over(counted, MOST_FILE_LINES, LONG_FILES) == []


def test_classes_are_short() -> None:
    counted = {
        f"{name_of(path)}::{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
    }
    assert over(counted, MOST_CLASS_LINES, LONG_CLASSES) == []


def test_the_budgets_count_what_they_say() -> None:
    text = 'class A:\n    def f(self, a, *, b):\n        """One.\n\n        Two."""\n        # x\n\n        return a\n'
    node = ast.parse(text).body[0].body[0]  # type: ignore[attr-defined]  # a class, then its method
    function = Function("x::A.f", node, method=True, text=text)
    assert function.code_lines == 2
    assert [each.arg for each in function.parameters] == ["a", "b"]


def test_no_keyword_tunnels() -> None:
    tunnels = {each.name for each in FUNCTIONS if each.node.args.kwarg is not None}
    assert tunnels == set(KEYWORD_TUNNELS)


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Catches everything and does not pass it on."""
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(
        each is None or (isinstance(each, ast.Name) and each.id in ("Exception", "BaseException")) for each in caught
    )
    last = handler.body[-1]
    return broad and not (isinstance(last, ast.Raise) and last.exc is None)


def test_nothing_catches_everything() -> None:
    found = {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    }
    assert found == set(BROAD_HANDLERS)


def test_no_getattr_on_configuration() -> None:
    """`getattr(params, ...)` with a default would be a default outside the field."""
    pattern = re.compile(
        r"\b(getattr|hasattr|setattr)\(\s*(self\.)?(params|config|recipe|plan|stage|section|runtime|options)\b"
    )
    found = [
        f"{name_of(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def inner_imports(path: Path) -> Iterator[tuple[str, int]]:
    """Modules imported inside functions, with their lines."""
    for function in functions(path):
        for node in ast.walk(function.node):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                yield node.module, node.lineno
            elif isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)


def test_no_import_of_ours_hides_in_a_function() -> None:
    found = {
        f"{name_of(path)}::{module}"
        for path in SOURCES
        if path.parent.name != "cli"
        for module, _ in inner_imports(path)
        if module.split(".")[0] in ("wavalign", "wavalign_cli")
    }
    assert found == set(INNER_IMPORTS)


def test_an_import_in_a_function_says_why() -> None:
    silent = []
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").splitlines()
        for module, number in inner_imports(path):
            block = number  # a comment on the first of several imports in a row speaks for all
            while "#" not in lines[block - 1] and re.match(r"\s*(from|import)\s", lines[block - 2]):
                block -= 1
            if "#" not in lines[block - 1] and not lines[block - 2].strip().startswith("#"):
                silent.append(f"{name_of(path)}:{number} {module}")
    assert silent == []


def test_import_contracts_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts of pyproject.toml, in a process of their own."""
    monkeypatch.chdir(ROOT)
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_package_is_installed() -> None:
    """The list in pyproject.toml is the tree."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("wavalign/**/__init__.py")
    }
    assert set(settings["packages"]) == packages | {"wavalign_cli", "wavalign_recipes"}
    folders = {path.parent for path in SOURCES if path.is_relative_to(ROOT / "wavalign")}
    assert [name_of(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_every_file_beside_the_code_is_installed() -> None:
    """Templates, word lists, recipes and their models: what no pattern in pyproject.toml takes along is missing."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    renamed = settings["package-dir"]
    taken: set[Path] = set()
    for package, patterns in settings["package-data"].items():
        for name in settings["packages"] if package == "*" else [package]:
            folder = ROOT / renamed.get(name, name.replace(".", "/"))
            taken.update(path for pattern in patterns for path in folder.glob(pattern))
    beside = {
        path
        for folder in ("wavalign", "cli", "recipes")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert ROOT / "recipes/base/spoken-world/codec.safetensors" in beside
    assert sorted(map(name_of, beside - taken)) == []


HEAVY = ("torch", "transformers", "deepspeed", "numpy", "pydantic", "rich.console")


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import wavalign.schema.loading", ("torch", "transformers", "deepspeed", "numpy")),
        ("from wavalign_cli.app import app", HEAVY),
        (
            "from wavalign_cli.options import compiled\ncompiled('quickstart', None)",
            ("transformers.modeling_utils", "wavalign.engine.run.builder", "deepspeed", "scipy.optimize"),
        ),
    ],
)
def test_light_imports_stay_light(code: str, unwanted: tuple[str, ...]) -> None:
    program = f"{code}\nimport sys\nprint([name for name in {unwanted!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_waits_for_nothing() -> None:
    """`wavalign --help` imports neither torch nor pydantic; its time is printed, not asserted: machines differ."""
    code = (
        "import sys\nfrom wavalign_cli.app import main\ncode = main(['--help'])\n"
        "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=sys.stderr)\n"
        f"sys.exit(code or any(name in sys.modules for name in {HEAVY[:-1]!r}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert result.returncode == 0, result.stderr
    assert "validate" in result.stdout
    print(f"--help took {float(result.stderr.strip().splitlines()[-1]):.2f} s of user time")  # see it with -rP


def test_the_public_names_exist() -> None:
    """The small Python surface that does what the command line does."""
    api = importlib.import_module("wavalign.engine.api")
    assert {"load_recipe", "compile_recipe", "preflight", "run"} <= set(vars(api))


def test_functions_of_the_engine_state_the_shapes_of_their_tensors() -> None:
    """In the docstring, with the letters of `plugins/batch.py`; what does not hold to it stands in the table.

    A method without a docstring does what the contract that it implements says.
    """
    takers = [each for each in FUNCTIONS if each.name.startswith("wavalign/engine/") and has_tensors(each.node)]
    stated = {each.node.name for each in takers if SHAPE.search(ast.get_docstring(each.node) or "")}
    silent = {
        each.name
        for each in takers
        if not SHAPE.search(ast.get_docstring(each.node) or "")
        and not (each.method and ast.get_docstring(each.node) is None and each.node.name in stated)
    }
    assert silent == set(WITHOUT_SHAPES)


@pytest.mark.parametrize(
    ("text", "takes", "states"),
    [
        ('def f(x: Tensor) -> None:\n    """Of `x` [B, S, T]."""', True, True),
        ('def f(x: "dict[str, Tensor] | None") -> None:\n    """Of every name."""', True, False),
        ('def f(x: int) -> list[torch.Tensor]:\n    """Scalars []."""', True, True),
        ('def f(x: TensorLike) -> None:\n    """See `x[i]`."""', False, False),
    ],
)
def test_how_shapes_are_found(text: str, takes: bool, states: bool) -> None:
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.FunctionDef)
    assert has_tensors(node) == takes
    assert bool(SHAPE.search(ast.get_docstring(node) or "")) == states


def test_tests_mirror_the_tree() -> None:
    """A folder of tests stands where the package that it is about stands."""
    packages = {path.relative_to(ROOT / "wavalign") for path in (ROOT / "wavalign").rglob("*") if path.is_dir()}
    mirrored = [
        path for part in ("plugins", "engine", "schema", "storage") for path in (ROOT / "tests" / part).rglob("*")
    ]
    folders = {path.parent.relative_to(ROOT / "tests") for path in mirrored if path.suffix == ".py"}
    assert Path("plugins/architectures/vita_audio") in folders
    assert sorted(map(str, folders - packages)) == []
