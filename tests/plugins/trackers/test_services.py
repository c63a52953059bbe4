"""Trackers of services: what they hand over, and that a resumed run goes on under its id without a step twice.

The packages are optional: stand-ins that remember what they are told take their place, and the real ones are tried
where they are installed.
"""

import json
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from wavalign.errors import PluginError
from wavalign.plugins.api import Tracker
from wavalign.plugins.registry import Registry
from wavalign.plugins.tracking import TrackedRun

KINDS = ("wandb", "mlflow", "trackio")
TRAIN = {"loss": 0.5, "loss/rl": 0.25, "reward": float("nan")}


def made(kind: str, folder: Path, **options: Any) -> Tracker:
    plugin = Registry().get("tracker", kind)
    assert issubclass(plugin, Tracker)
    return plugin(plugin.Params.model_validate(options), folder=str(folder))


class FakeRun:
    """A run at W&B or Trackio."""

    def __init__(self, told: list[Any]) -> None:
        self._told = told

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._told.append((step, dict(values)))

    def finish(self) -> None:
        self._told.append("finish")


def fake_runs(name: str, told: list[Any]) -> ModuleType:
    """W&B or Trackio."""
    module = ModuleType(name)

    def init(**options: Any) -> FakeRun:
        told.append(
            {key: options[key] for key in ("project", "name", "id", "resume", "mode", "config") if key in options}
        )
        return FakeRun(told)

    vars(module).update(init=init, Settings=lambda **options: options)
    return module


class FakeMlflowClient:
    """The client of MLflow."""

    def __init__(self, told: list[Any], uri: str) -> None:
        self._told = told
        told.append(uri)

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        return "7"

    def create_run(self, experiment: str, run_name: str) -> Any:
        self._told.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def update_run(self, run: str, status: str) -> None:
        self._told.append((run, status))

    def log_artifact(self, run: str, path: str) -> None:
        self._told.append(Path(path).name)

    def log_batch(self, run: str, metrics: Any) -> None:
        (step,) = {metric.step for metric in metrics}
        self._told.append((step, {metric.key: metric.value for metric in metrics}))

    def set_terminated(self, run: str) -> None:
        self._told.append("finish")


def fake_mlflow(told: list[Any]) -> ModuleType:
    module = ModuleType("mlflow")

    def metric(key: str, value: float, timestamp: int, step: int) -> Any:
        return SimpleNamespace(key=key, value=value, step=step)

    vars(module).update(
        entities=SimpleNamespace(Metric=metric), MlflowClient=lambda tracking_uri: FakeMlflowClient(told, tracking_uri)
    )
    return module


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the stand-ins are told, with nobody logged in anywhere."""
    told: list[Any] = []
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, fake_runs(name, told))
    monkeypatch.setitem(sys.modules, "mlflow", fake_mlflow(told))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return told


def folder_of(tmp_path: Path) -> Path:
    folder = tmp_path / "toy" / "20260101-1"
    folder.mkdir(parents=True)
    (folder / "recipe.resolved.yaml").write_text("name: toy\nseed: 3\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_steps(told: list[Any], tmp_path: Path, kind: str) -> None:
    tracker = made(kind, folder_of(tmp_path))
    assert told == [], "nothing is opened before the first value"
    tracker.log({"accuracy/style=sad": 0.2}, step=0, split="heldout")
    tracker.log(TRAIN, step=1, split="train")
    tracker.close()
    tracker.close()
    key = "heldout/accuracy/style_sad" if kind == "mlflow" else "heldout/accuracy/style=sad"
    assert told[-3:] == [(0, {key: 0.2}), (1, {"train/loss": 0.5, "train/loss/rl": 0.25}), "finish"]


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_goes_on_under_its_id(told: list[Any], tmp_path: Path, kind: str) -> None:
    folder = folder_of(tmp_path)
    first = made(kind, folder)
    first.log({"accuracy": 0.2}, step=0, split="heldout")
    for step in (1, 2, 3):
        first.log(TRAIN, step=step, split="train")
    first.close()
    known = json.loads((folder / "trackers" / f"{kind}.json").read_text(encoding="utf-8"))["id"]

    del told[:]
    second = made(kind, folder)
    second.resume({"heldout": 0, "train": 2})  # the checkpoint was of step 2: step 3 comes again
    for step in (3, 4):
        second.log(TRAIN, step=step, split="train")
    second.log({"accuracy": 0.4}, step=4, split="heldout")
    second.close()
    assert [each[0] for each in told if isinstance(each, tuple) and isinstance(each[0], int)] == [4, 4]
    if kind == "mlflow":
        assert (known, "RUNNING") in told
    else:
        opened = told[0]
        assert (opened["id"] if kind == "wandb" else opened["name"]) == known
        assert opened["resume"] == "allow"
    assert json.loads((folder / "trackers" / f"{kind}.json").read_text(encoding="utf-8"))["id"] == known


def test_wandb_is_offline_where_there_is_no_key(
    told: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path)

    def mode(**options: Any) -> Any:
        del told[:]
        tracker = made("wandb", folder, **options)
        tracker.log({"loss": 1.0}, step=1, split="train")
        tracker.close()
        return told[0]["mode"]

    assert mode() == "offline"
    assert told[0]["config"] == {"name": "toy", "seed": 3}
    assert told[0]["name"] == "toy-20260101-1"
    assert mode(mode="online") == "online"
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n", encoding="utf-8")
    (tmp_path / "netrc").chmod(0o600)
    assert mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode() is None, "what the environment says is wandb's to read"


def test_mlflow_keeps_a_local_run_in_its_folder(
    told: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(tmp_path)
    made("mlflow", folder).log(TRAIN, step=1, split="train")
    assert told[:3] == [f"sqlite:///{folder}/mlflow/runs.db", "toy-20260101-1", "recipe.resolved.yaml"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    del told[:]
    made("mlflow", tmp_path / "other").log(TRAIN, step=1, split="train")
    assert told[0] == "http://tracking:5000"


@pytest.mark.parametrize("kind", KINDS)
def test_package_that_is_missing_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(PluginError, match=f"needs the package {kind}") as caught:
        made(kind, tmp_path)
    assert f"wavalign[{kind}]" in caught.value.hint


def test_what_is_remembered_is_there_or_not(tmp_path: Path) -> None:
    first = TrackedRun(str(tmp_path), "x")
    assert not first.is_kept
    first.logged("train", 5)
    assert not first.is_there("train", 5), "before a resume nothing comes again"
    second = TrackedRun(str(tmp_path), "x")
    assert second.is_kept and second.run_id == first.run_id
    second.resume()
    assert [second.is_there("train", step) for step in (4, 5, 6)] == [True, True, False]
    assert not second.is_there("heldout", 0)


@pytest.mark.filterwarnings("ignore")  # theirs
def test_real_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = folder_of(tmp_path)
    tracker = made("mlflow", folder)
    tracker.log(TRAIN, step=1, split="train")
    tracker.close()
    database = sqlite3.connect(folder / "mlflow" / "runs.db")
    found = database.execute("select key, value, step from metrics order by key").fetchall()
    database.close()
    assert found == [("train/loss", 0.5, 1), ("train/loss/rl", 0.25, 1)]


@pytest.mark.filterwarnings("ignore")  # theirs
def test_real_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = folder_of(tmp_path)
    tracker = made("wandb", folder)
    tracker.log(TRAIN, step=1, split="train")
    tracker.close()
    assert list((folder / "wandb").glob("offline-run-*/run-*.wandb")) != []
