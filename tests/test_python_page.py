"""docs/python.md: its example runs, and what it names exists."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.toy.world import toy_recipe
from wavalign.engine import api

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(toy_recipe(tmp_path)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/python.md", "exec"), {"__name__": "example"})
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[-2:]] == ["1", "2"]
    assert any(line.startswith("ok ") for line in told)


def test_what_the_table_names_exists() -> None:
    rows = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", PAGE, flags=re.MULTILINE))
    assert {"load_recipe", "compile_recipe", "preflight", "run"} <= set(rows)
    assert set(rows) <= set(api.__all__)
    for name, arguments in rows.items():
        said = [each.split("=")[0].strip() for each in arguments.split(",") if each.strip()]
        assert set(said) <= set(inspect.signature(vars(api)[name]).parameters), name


def test_the_package_itself_brings_no_torch() -> None:
    code = "import sys, wavalign, wavalign.schema.loading\nprint('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
