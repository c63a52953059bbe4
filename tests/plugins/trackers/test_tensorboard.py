"""What TensorBoard reads back is what was logged."""

import sys
from pathlib import Path

import pytest

from wavalign.errors import PluginError
from wavalign.plugins.trackers.tensorboard import TensorBoard, TensorBoardParams

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), as TensorBoard itself reads `folder`."""
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_values_come_back_by_split(tmp_path: Path) -> None:
    tracker = TensorBoard(TensorBoardParams(), folder=str(tmp_path))
    tracker.log({"loss": 2.5, "kl/text": 0.125}, step=1, split="train")
    tracker.log({"loss": 1.5}, step=2, split="train")
    tracker.log({"answer_accuracy": 0.75}, step=2, split="heldout")
    tracker.close()
    assert scalars(tmp_path / "tensorboard/train") == {"loss": [(1, 2.5), (2, 1.5)], "kl/text": [(1, 0.125)]}
    assert scalars(tmp_path / "tensorboard/heldout") == {"answer_accuracy": [(2, 0.75)]}


def test_nothing_logged_leaves_nothing_behind(tmp_path: Path) -> None:
    TensorBoard(TensorBoardParams(), folder=str(tmp_path)).close()
    assert list(tmp_path.iterdir()) == []


def test_missing_package_is_a_plugin_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(PluginError, match="needs the package tensorboard") as caught:
        TensorBoard(TensorBoardParams(), folder=str(tmp_path))
    assert "pip install" in caught.value.hint


def test_a_resumed_run_shows_every_step_once(tmp_path: Path) -> None:
    """Values logged behind the checkpoint, and of a split that had none before it, are hidden."""
    first = TensorBoard(TensorBoardParams(), folder=str(tmp_path))
    for step in range(1, 7):
        first.log({"loss": float(step)}, step=step, split="train")
    first.log({"accuracy": 0.1}, step=5, split="heldout")
    first.close()
    second = TensorBoard(TensorBoardParams(), folder=str(tmp_path))
    second.resume({"train": 4})
    for step in range(5, 9):
        second.log({"loss": 10.0 * step}, step=step, split="train")
    second.log({"accuracy": 0.5}, step=5, split="heldout")
    second.close()
    loss = [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 50.0), (6, 60.0), (7, 70.0), (8, 80.0)]
    assert scalars(tmp_path / "tensorboard/train") == {"loss": loss}
    assert scalars(tmp_path / "tensorboard/heldout") == {"accuracy": [(5, 0.5)]}
