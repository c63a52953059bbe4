"""What CONTRIBUTING.md says is so."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

from tests.loss_inputs import loss_inputs
from wavalign.plugins.registry import KINDS, Registry
from wavalign_cli import app as application

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def distribution(requirement: str) -> str:
    """Name of a requirement as the table may write it."""
    return re.split(r"[<>=\[ ]", requirement)[0].lower()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    told = {name.lower() for row in rows for name in re.findall(r"[\w-]+", row.split("|")[1])}
    assert {distribution(each) for each in wanted} - told == set()


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), "a pin is a name and a public version"
    others = {distribution(each) for each in wanted} - {project["name"]}  # an extra may ask for another of ours
    assert others - {pin.split("==")[0].lower() for pin in pins} == set()


def test_every_file_it_names_is_there() -> None:
    """Rooms, and the files of frequent tasks; `table.py` and its like stand in the folder named before them."""
    named = re.findall(r"`((?:wavalign|cli|tests)(?:/[\w.]+)*)`", TEXT)
    assert "wavalign/engine/step/executor.py" in named
    lacking = [path for path in named if not (ROOT / path).exists()]
    assert lacking == ["wavalign/plugins/losses/focal.py"], "the example of the five steps alone"
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("wavalign/engine/*/__init__.py")}
    assert rooms - set(named) == set()


@pytest.mark.parametrize("method", ["dialogue_needs", "instrument", "check_words", "fit_lacks"])
def test_the_optional_methods_are_those_of_the_contracts(method: str) -> None:
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{method}(")]
    kinds = {kind for kind, base in KINDS.items() if method in vars(base)}
    assert {each.strip() for each in row.split("|")[2].split(",")} == kinds
    assert not any(method in base.__abstractmethods__ for base in KINDS.values())


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The plugin of the five steps, as a file."""
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "focal.py"
    path.write_text(re.sub(r"^   ", "", block, flags=re.MULTILINE), encoding="utf-8")
    return path


def test_the_plugin_of_the_five_steps_is_shown(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["plugins", "show", "focal", "--file", str(example)]) == 0
    assert "focus: number >= 0  (default 2.0)" in capsys.readouterr().out


def test_the_plugin_of_the_five_steps_computes(example: Path) -> None:
    plugin = Registry([str(example)]).get("loss", "focal")
    loss = plugin(plugin.Params(focus=2.0))  # type: ignore[call-arg]  # the registry's type knows no Params
    logprobs = torch.tensor([[[0.5, 1.0]]]).log()
    # (1 - 0.5)^2 * ln 2 = 0.1733; a certain token costs nothing
    assert loss.compute(loss_inputs(logprobs)).values.tolist() == [[[pytest.approx(0.173287, abs=1e-6), 0.0]]]  # type: ignore[attr-defined]
