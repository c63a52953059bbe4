"""Public checkpoint in, run, export: what did not change is the same to the last byte."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.distributed import run_ranks
from tests.e2e.runs import VARYING_ENDINGS, here, snapshot
from tests.toy.compiled import Change, compiled, drop, put
from tests.toy.live import live_stage
from wavalign.engine import api
from wavalign.engine.compile.plan import Plan
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.exporting import ExportOptions
from wavalign.engine.run.hand_over import leave_model
from wavalign.engine.state.distributed import World
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import UsageError

BUFFER = "model.layers.0.self_attn.rotary_emb.inv_freq"
SHARDS = {"model-1-of-2.safetensors": "model.layers", "model-36-of-36.safetensors": ""}
"""File -> beginning of the names of its tensors; the first that fits takes them."""


def silent(what: str, done: int, total: int) -> None:
    """Progress nobody watches."""


def public_checkpoint(folder: Path, *, sharded: bool, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A checkpoint as somebody else would have published it: odd shard names, extra tensors, files and folders."""
    folder.mkdir()
    stage = compiled(folder.parent).stages[0]
    builder = Builder(compiled(folder.parent), World.single("cpu"), silent)
    architecture = builder.architecture(stage, None)
    architecture.save_layout(str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16", "x": [1, 2]}, indent=4))
    weights = {name: x.to(dtype).clone() for name, x in architecture.build_policy(seed=5).state_dict().items()}
    weights[BUFFER] = torch.arange(4).to(dtype)
    save_public(weights, folder, sharded=sharded)
    (folder / "modeling_toy.py").write_text("# code of others\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / "vocoder").mkdir()
    (folder / "vocoder" / "model.pt").write_bytes(bytes(range(256)) * 64)
    (folder / "vocoder" / "config.json").write_text("{}")
    return folder


def save_public(weights: dict[str, Tensor], folder: Path, *, sharded: bool) -> None:
    if not sharded:
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt", "origin": "somebody"})
        return
    place = {name: next(file for file, start in SHARDS.items() if name.startswith(start)) for name in weights}
    for file in SHARDS:
        save_file({name: x for name, x in weights.items() if place[name] == file}, str(folder / file))
    index = {"metadata": {"total_size": 12345}, "weight_map": place}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))  # one line, unsorted: kept as it is


def from_checkpoint(folder: Path) -> tuple[Change, ...]:
    sizes = ("hidden_size", "num_layers", "num_heads", "num_key_value_heads", "intermediate_size", "num_codes")
    return (
        put("model.checkpoint", str(folder)),
        drop("model.preset"),
        drop("model.tokenizer"),
        *(drop(f"model.architecture.{name}") for name in sizes),
        drop("evaluation"),
        put("steps", 1),
        put("batch", {"demonstrations": 2}),
        put("objective", {"terms": {"sft": {"loss": "cross_entropy"}}}),
        drop("rewards"),
        put("optim", {"learning_rate": 0.01}),
    )


STILL = put("optim", {"learning_rate": 1e-60, "weight_decay": 0.0})
"""A step that changes no weight: every update is below the smallest float."""


def trained(folder: Path, source: Path, *changes: Change) -> Path:
    return api.run(compiled(folder, *from_checkpoint(source), *changes))


def relative(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): content for path, content in snapshot(folder).items()}


def headers(path: Path) -> dict[str, Any]:
    size = int.from_bytes(path.read_bytes()[:8], "little")
    found: dict[str, Any] = json.loads(path.read_bytes()[8 : 8 + size])
    return found


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
def test_what_did_not_change_is_the_same_to_the_last_byte(tmp_path: Path, sharded: bool) -> None:
    source = public_checkpoint(tmp_path / "public", sharded=sharded)
    run = trained(tmp_path, source, STILL)
    done = api.export(run, tmp_path / "exported")
    assert relative(tmp_path / "exported") == relative(source)
    assert done.carried == (BUFFER,)
    assert (tmp_path / "exported" / "vocoder").is_dir() and not (tmp_path / "exported" / "vocoder").is_symlink()


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A sharded bfloat16 checkpoint, and a run that trained it."""
    folder = tmp_path_factory.mktemp("moved")
    source = public_checkpoint(folder / "public", sharded=True)
    return source, trained(folder, source)


def test_training_changes_weights_and_nothing_else(moved: tuple[Path, Path], tmp_path: Path) -> None:
    source, run = moved
    api.export(run, tmp_path / "exported")
    before, after = relative(source), relative(tmp_path / "exported")
    assert {name for name in before if before[name] != after[name]} == set(SHARDS)
    assert set(before) == set(after)
    ours = load_file(run / "model" / "model.safetensors")
    for file in SHARDS:
        assert headers(source / file) == headers(tmp_path / "exported" / file)
        for name, value in load_file(tmp_path / "exported" / file).items():
            assert value.dtype == torch.bfloat16
            wanted = torch.arange(4).bfloat16() if name == BUFFER else ours[name].bfloat16()
            assert torch.equal(value, wanted), name


def test_a_stage_folder_links_and_another_precision(moved: tuple[Path, Path], tmp_path: Path) -> None:
    source, run = moved
    options = ExportOptions(link=True, precision="float32")
    done = api.export(run / "stages" / "train", tmp_path / "exported", options)
    assert done.linked == ("vocoder",)
    assert (tmp_path / "exported" / "vocoder").resolve() == (source / "vocoder").resolve()
    ours = load_file(run / "model" / "model.safetensors")
    index = json.loads((tmp_path / "exported" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(SHARDS)
    assert index["metadata"]["total_size"] == 4 * sum(x.numel() for x in ours.values()) + 2 * 4
    for file in SHARDS:
        for name, value in load_file(tmp_path / "exported" / file).items():
            if name == BUFFER:  # what is carried over stays as it is
                assert value.dtype == torch.bfloat16
            else:
                assert value.dtype == torch.float32 and torch.equal(value, ours[name])
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["torch_dtype"] == "float32"


def test_smaller_files(moved: tuple[Path, Path], tmp_path: Path) -> None:
    run = moved[1]
    done = api.export(run, tmp_path / "exported", ExportOptions(shard_bytes=6000))
    assert len(done.weights) > 2
    assert done.weights[0] == f"model-00001-of-{len(done.weights):05d}.safetensors"
    weights: dict[str, Tensor] = {}
    for file in done.weights:
        part = load_file(tmp_path / "exported" / file)
        assert sum(2 * x.numel() for x in part.values()) <= 6000 or len(part) == 1
        weights |= part
    index = json.loads((tmp_path / "exported" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(weights)
    assert index["metadata"]["total_size"] == sum(2 * x.numel() for x in weights.values())
    assert not set(SHARDS) & set(relative(tmp_path / "exported"))


def test_an_exported_model_is_a_checkpoint_to_start_from(moved: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = moved
    api.export(run, tmp_path / "exported")
    again = trained(tmp_path, tmp_path / "exported", STILL)
    api.export(again, tmp_path / "twice")
    assert relative(tmp_path / "twice") == relative(tmp_path / "exported")


def test_a_model_without_an_original(tmp_path: Path) -> None:
    run = api.run(compiled(tmp_path, put("steps", 1), drop("evaluation")))
    done = api.export(run, tmp_path / "exported")
    assert (done.source, done.weights) == (None, ("model.safetensors",))
    assert relative(tmp_path / "exported") == relative(run / "model")


def test_a_later_stage_comes_from_the_same_original(tmp_path: Path) -> None:
    source = public_checkpoint(tmp_path / "public", sharded=False)
    stages = put("stages", [{"name": "warm", "steps": 1}, {"name": "align", "steps": 1}])
    run = trained(tmp_path, source, drop("steps"), stages)
    assert api.export(run, tmp_path / "last").source == str(source)
    api.export(run, tmp_path / "first", ExportOptions(stage="warm"))
    first, last = (load_file(tmp_path / each / "model.safetensors") for each in ("first", "last"))
    assert any(not torch.equal(first[name], last[name]) for name in first)
    (run / "stages" / "align" / "complete.json").unlink()
    with pytest.raises(UsageError, match=r"align of .* is not complete") as caught:
        api.export(run, tmp_path / "again")
    assert "--stage warm" in caught.value.hint
    with pytest.raises(UsageError, match="no train stage 'cool'"):
        api.export(run, tmp_path / "again", ExportOptions(stage="cool"))
    assert not (tmp_path / "again").exists()


def test_folders_that_hold_something_are_left_alone(moved: tuple[Path, Path], tmp_path: Path) -> None:
    source, run = moved
    target = tmp_path / "mine"
    target.mkdir()
    (target / "diary.txt").write_text("dear")
    with pytest.raises(UsageError, match="not empty"):
        api.export(run, target)
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        api.export(run, target, ExportOptions(overwrite=True))
    for place in (run, run / "stages" / "train" / "model", source, source / "vocoder", run.parent):
        before = relative(run), relative(source)
        with pytest.raises(UsageError, match="part of what is read"):
            api.export(run, place, ExportOptions(overwrite=True))
        assert (relative(run), relative(source)) == before
    with pytest.raises(UsageError, match=r"no run's folder"):
        api.export(source, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    api.export(run, tmp_path / "old")
    (tmp_path / "old" / "model-1-of-2.safetensors").write_bytes(b"torn")
    (tmp_path / "old" / "stale.bin").write_bytes(b"1")
    api.export(run, tmp_path / "old", ExportOptions(overwrite=True))
    assert set(relative(tmp_path / "old")) == set(relative(source))


def test_an_export_that_fails_leaves_nothing(
    moved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wavalign.engine.run.exporting.os.fsync", full)
    ended = here("export", str(moved[1]), "--to", str(tmp_path / "exported"))
    assert (ended.code, "No space left" in ended.output) == (1, True), ended.output
    assert list(tmp_path.iterdir()) == []


def test_as_a_person_does_it(moved: tuple[Path, Path], tmp_path: Path) -> None:
    source, run = moved
    ended = here("export", str(run), "--to", str(tmp_path / "exported"), "--link")
    assert ended.code == 0, ended.output
    for line in ("stage train: 2 weight files written", f"original: {source}", "linked: vocoder", BUFFER):
        assert line in ended.output
    again = here("export", str(run), "--to", str(tmp_path / "exported"))
    assert (again.code, "--overwrite" in again.output) == (2, True)
    wrong = here("export", str(run), "--to", str(tmp_path / "other"), "--shard-size", "many")
    assert (wrong.code, "e.g. 5GB" in wrong.output) == (2, True)
    told = here("export", str(run), "--to", str(tmp_path / "json"), "--format", "json", "--shard-size", "1MB")
    assert json.loads(told.output)["weights"] == ["model.safetensors"]
    with safe_open(tmp_path / "json" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_an_original_that_was_changed_meanwhile(tmp_path: Path) -> None:
    source = public_checkpoint(tmp_path / "public", sharded=False)
    run = trained(tmp_path, source)
    weights = load_file(source / "model.safetensors")
    weights.pop(next(name for name in weights if name != BUFFER))
    save_file(weights, source / "model.safetensors")
    ended = here("export", str(run), "--to", str(tmp_path / "exported"))
    assert (ended.code, "is not the model of" in ended.output) == (5, True), ended.output
    shutil.rmtree(source)
    assert here("export", str(run), "--to", str(tmp_path / "exported")).code == 5
    assert not (tmp_path / "exported").exists()


def rank(world: World, plan: str, folder: str) -> list[dict[str, float]]:
    """Two steps of a plan's stage; the first rank's model is left in `folder`."""
    live = live_stage(Plan.from_json(plan), world)
    executor = StepExecutor(live)
    steps = [dict(executor.step(index).metrics) for index in range(2)]
    leave_model(live, Path(folder))
    world.barrier()
    live.close()
    assert live.reference is not None
    return [{k: v for k, v in line.items() if not k.endswith(VARYING_ENDINGS)} for line in steps]


@pytest.mark.slow
def test_partitioned_over_two_processes_from_a_checkpoint(tmp_path: Path) -> None:
    """The whole way with ZeRO-3: loaded in parts, with a reference, trained, and left as one model."""
    source = public_checkpoint(tmp_path / "public", sharded=True)
    found = {}
    for name, engine in (("plain", {"type": "plain"}), ("zero3", {"type": "deepspeed", "zero": 3})):
        base = from_checkpoint(source)[:9]
        changes = (*base, put("runtime.engine", engine), put("runtime.processes", 2), put("steps", 2))
        plan = compiled(tmp_path, *changes).to_json()
        found[name] = run_ranks(rank, 2, plan, str(tmp_path / name))
    for ours, theirs in zip(found["zero3"], found["plain"], strict=True):
        for step, wanted in zip(ours, theirs, strict=True):
            assert step == pytest.approx(wanted, rel=1e-4, abs=1e-5, nan_ok=True)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("zero3", "plain"))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[key], other[key], rtol=0, atol=1e-4) for key in one)
