"""A report of a folder whose files are not what the run wrote: what can be used is shown, the rest is named."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.run.test_trainer import run
from tests.toy.compiled import put
from wavalign.engine.report.data import read_run
from wavalign.engine.report.page import write_report
from wavalign.engine.run.choosing import from_run
from wavalign.errors import DataError

ODD = (None, True, 10**400, "word", [3], {"a": 1})
FILES = ("plan.json", "metrics.jsonl", "rollouts.jsonl", "evaluation.jsonl", "measures.json", "environment.json")
RAW = {
    "empty": b"",
    "cut": b'{"stages": [{"na',
    "letters": b"\xff\xfe\x00 not text",
    "list": b"[1, 2]\n",
    "deep": b"[" * 100_000 + b"\n",
    "many_digits": b'{"step": ' + b"9" * 5000 + b"}\n",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step with everything a report reads."""
    return run(tmp_path_factory.mktemp("whole"), put("steps", 1), put("runtime.log_rollouts_every", 1))


@pytest.mark.parametrize("raw", RAW)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none(whole: Path, tmp_path: Path, name: str, raw: str) -> None:
    """The page is there, and says which file could not be used."""
    folder = shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("model", "checkpoints", "stages"))
    (folder / name).write_bytes(RAW[raw])
    write_report(folder)
    notes = read_run(folder).notes
    if raw != "empty" or name.endswith(".json"):
        assert any(name in note for note in notes), notes


@pytest.mark.parametrize("name", FILES)
def test_any_value_may_be_odd(whole: Path, tmp_path: Path, name: str) -> None:
    """Every value of the first object of a file, one after the other."""
    folder = shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("model", "checkpoints", "stages"))
    text = (whole / name).read_text(encoding="utf-8")
    first, rest = (text, "") if name.endswith(".json") else text.split("\n", 1)
    content, count = json.loads(first), 0
    for path in _read(content, ()):
        for odd in ODD:
            changed = _with(content, path, odd)
            (folder / name).write_text(json.dumps(changed) + "\n" + rest, encoding="utf-8")
            assert read_run(folder).folder == folder
            count += 1
    write_report(folder)
    assert count >= 2 * len(ODD)


def _read(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Places that a report looks at: of a plan not all its sections."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, each in value.items():
            if len(path) < 3 and key not in (
                "runtime",
                "rewards",
                "objective",
                "model",
                "nodes",
                "deepspeed",
                "memory",
            ):
                yield from _read(each, (*path, key))
    elif isinstance(value, list):
        for index, each in enumerate(value[:1]):
            yield from _read(each, (*path, index))


def _with(content: Any, path: tuple[str | int, ...], value: object) -> Any:
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize("raw", [*RAW, "changed"])
def test_an_export_needs_the_plan(whole: Path, tmp_path: Path, raw: str) -> None:
    """A damaged plan is named, and nothing is guessed."""
    content = json.loads((whole / "plan.json").read_text(encoding="utf-8"))
    content["stages"][0]["stage"]["steps"] = "many"
    (tmp_path / "plan.json").write_bytes(RAW.get(raw, json.dumps(content).encode()))
    with pytest.raises(DataError, match=r"plan\.json is damaged") as caught:
        from_run(tmp_path)
    assert "from a copy" in caught.value.hint
    if raw == "changed":
        assert "stages.0.stage.steps" in caught.value.message
