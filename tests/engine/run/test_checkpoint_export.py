"""A checkpoint's weights, exported: what its stage would have left there."""

from pathlib import Path

import pytest

from tests.e2e.runs import here
from tests.engine.run.test_adapted_runs import LORA
from tests.engine.run.test_exporting import from_checkpoint, public_checkpoint, relative
from tests.engine.run.test_moved_runs import ZERO3, go, on
from tests.engine.run.test_trainer import run
from tests.toy.compiled import Change, drop, put
from wavalign.engine import api
from wavalign.engine.run.exporting import ExportOptions
from wavalign.errors import CheckpointError, UsageError

STEPS = (put("steps", 4), put("runtime.checkpoint_every", 2), put("runtime.keep_checkpoints", 3))


def exported(place: Path, to: Path, at: str | None = None) -> dict[str, bytes]:
    api.export(place, to, ExportOptions(at=at))
    return relative(to)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("changes", [(), (LORA,)], ids=["full", "lora"])
def test_the_last_checkpoint_is_the_model(tmp_path: Path, changes: tuple[Change, ...], precision: str) -> None:
    """Byte for byte, in its original's layout; an earlier one is not."""
    source = public_checkpoint(tmp_path / "public", sharded=True)
    folder = run(tmp_path, *from_checkpoint(source), *STEPS, put("runtime.precision", precision), *changes)
    left, last, before = (
        exported(folder, tmp_path / name, at) for name, at in (("a", None), ("b", "step-4"), ("c", "step-2"))
    )
    assert last == left
    assert before.keys() == left.keys() and before != left
    assert exported(folder / "checkpoints" / "step-2", tmp_path / "d") == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("changes", [(), (LORA,)], ids=["full", "lora"])
def test_a_checkpoint_of_two_processes(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    """Of which each wrote its part."""
    go(tmp_path, *on(2, ZERO3, 2), put("runtime.checkpoint_every", 1), *changes)
    assert exported(tmp_path / "run", tmp_path / "at", "step-2") == exported(tmp_path / "run", tmp_path / "left")


def test_a_stage_that_is_not_complete(tmp_path: Path) -> None:
    """The error names the checkpoint whose model can be had; the stage before gives what it starts from."""
    stages = put("stages", [{"name": "warm", "steps": 1}, {"name": "align", "steps": 2}])
    folder = run(tmp_path, drop("steps"), *STEPS[1:], put("runtime.checkpoint_every", 1), stages)
    left = exported(folder, tmp_path / "left")
    (folder / "stages" / "align" / "complete.json").unlink()
    with pytest.raises(UsageError, match="is not complete") as caught:
        api.export(folder, tmp_path / "x", ExportOptions(stage="align"))
    assert "--at step-3" in caught.value.hint
    assert exported(folder, tmp_path / "at", "step-3") == left
    assert exported(folder / "stages" / "warm", tmp_path / "warm") == exported(folder, tmp_path / "first", "step-1")


def test_as_a_person_does_it_and_what_cannot_be_done(tmp_path: Path) -> None:
    folder = run(tmp_path, *STEPS)
    told = here("export", str(folder), "--at", "step-2", "--to", str(tmp_path / "exported"))
    assert (told.code, "stage train, step-2: 1 weight file written" in told.output) == (0, True), told.output
    told = here("export", str(folder), "--at", "step-3", "--to", str(tmp_path / "x"))
    assert (told.code, "it has: step-2, step-4" in told.output) == (2, True), told.output
    told = here("export", str(folder), "--at", "step-2", "--stage", "train", "--to", str(tmp_path / "x"))
    assert (told.code, "--stage and --at exclude one another" in told.output) == (2, True), told.output
    checkpoint = folder / "checkpoints" / "step-2"
    for place, options in ((folder, ExportOptions(at="step-2")), (checkpoint, ExportOptions())):
        with pytest.raises(UsageError, match="part of what is read"):
            api.export(place, checkpoint / "x", options)
    with pytest.raises(UsageError, match="part of what is read"):
        api.export(folder / "model", folder / "stages" / "train" / "model" / "x", ExportOptions())
    for place in (folder / "nothing", folder / "checkpoints", folder / "stages"):
        with pytest.raises(UsageError, match="is no run's folder"):
            api.export(place, tmp_path / "x", ExportOptions())
    weights = next((folder / "checkpoints" / "step-2").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="step-2"):
        api.export(folder, tmp_path / "x", ExportOptions(at="step-2"))
    assert not (tmp_path / "x").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
