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
