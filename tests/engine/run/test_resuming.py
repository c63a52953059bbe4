"""What a resume refuses, what it allows, and what it completes."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import comparable, lines, snapshot
from tests.engine.run.test_survival import Cut, fail_at
from tests.engine.run.test_trainer import Signals, assert_same_run
from tests.toy.compiled import Change, compiled, put
from tests.toy.world import PLUGINS
from wavalign.engine import api, rank
from wavalign.engine.api import Resume
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.step.operators import FUNCTIONS
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import FolderBusyError, Interrupted, ResumeError, StorageError, UnfinishedError, UsageError

SHORT: tuple[Change, ...] = (put("steps", 4), put("runtime.checkpoint_every", 1), put("evaluation.every", 2))


def go(folder: Path, *changes: Change, resume: bool | Resume = False, said: list[str] | None = None) -> Path:
    """Run the toy recipe in `folder`/run."""
    folder.mkdir(exist_ok=True)
    watcher = Signals(-1)
    try:
        return api.run(compiled(folder, *SHORT, *changes), resume=resume, observer=watcher)
    finally:
        if said is not None:
            said += watcher.said


def cut_at(folder: Path, step: int, *changes: Change) -> None:
    """A run that dies in the step after `step`."""
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, FUNCTIONS, "gate", step + 1, Cut())
        with pytest.raises(Cut):
            go(folder, *changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return go(tmp_path_factory.mktemp("whole"))


# --- what is read -----------------------------------------------------------------------------------------------------


def demonstrations(folder: Path) -> Change:
    """Records in a file, two with sound."""
    folder.mkdir(exist_ok=True)
    for name in ("a.wav", "b.wav"):
        (folder / name).write_bytes(b"RIFF" + bytes(200))
    records = [
        {"messages": [{"role": "user", "text": f"{a} plus one"}], "target": {"text": f"it is {a}"}}
        for a in ("one", "two", "three", "four")
    ]
    path = folder / "gold.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    return put("data.demonstrations", {"type": "jsonl", "path": str(path)})


def test_a_data_file_edited_at_equal_size_is_refused(tmp_path: Path) -> None:
    change = demonstrations(tmp_path / "data")
    cut_at(tmp_path, 2, change)
    path = tmp_path / "data" / "gold.jsonl"
    before, stat = path.read_text(), path.stat()
    path.write_text(before.replace("it is one", "it is two"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    left = snapshot(tmp_path / "run")
    with pytest.raises(
        ResumeError, match=r"gold.jsonl, read by data.demonstrations, has other content of the same size"
    ):
        go(tmp_path, change, resume=True)
    assert snapshot(tmp_path / "run") == left, "nothing was trained or cut"
    path.write_text(before)
    go(tmp_path, change, resume=True)


def test_a_stream_edited_at_equal_size_is_refused(tmp_path: Path) -> None:
    demonstrations(tmp_path / "data")
    path = tmp_path / "data" / "gold.jsonl"
    change = put("data.demonstrations", {"type": "jsonl", "path": str(path), "streaming": True})
    cut_at(tmp_path, 2, change)
    path.write_text(path.read_text().replace("it is four", "it is five"))
    with pytest.raises(ResumeError, match="other content of the same size"):
        go(tmp_path, change, resume=True)


def test_other_weights_and_another_tokenizer_are_refused(whole: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(whole / "model", base)
    change: Change = put("model", {"architecture": {"type": "vita"}, "checkpoint": str(base)})
    cut_at(tmp_path, 2, change)
    weights = (base / "model.safetensors").read_bytes()
    for name in ("model.safetensors", "config.json"):
        content = bytearray((base / name).read_bytes())
        content[-3] ^= 1
        (base / name).write_bytes(
            bytes(content) if name.endswith("safetensors") else (base / name).read_bytes() + b"\n"
        )
        with pytest.raises(ResumeError, match=rf"{name}, read by model.checkpoint, has "):
            go(tmp_path, change, resume=True)
        (base / "model.safetensors").write_bytes(weights)


def test_a_large_file_counts_by_samples(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wavalign.engine.run.inputs.WHOLE", 1000)
    monkeypatch.setattr("wavalign.engine.run.inputs._MEGABYTE", 200)
    monkeypatch.setattr("wavalign.engine.run.inputs._PIECE", 50)
    change = put("model", {"architecture": {"type": "vita"}, "checkpoint": str(tmp_path / "base")})
    shutil.copytree(whole / "model", tmp_path / "base")
    cut_at(tmp_path, 2, change)
    entry = json.loads((tmp_path / "run/inputs.json").read_text())["files"][str(tmp_path / "base/model.safetensors")]
    assert entry["how"] == "sampled"
    path = tmp_path / "base" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(bytes(content))
    with pytest.raises(ResumeError, match=r"model.safetensors"):
        go(tmp_path, change, resume=True)


def test_sound_beside_the_data_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wavalign.engine.run.inputs import InputReader, check_inputs
    from wavalign.plugins.data.jsonl import Jsonl, JsonlParams

    demonstrations(tmp_path / "data")
    record = {"messages": [{"role": "user", "text": "?", "audio": "a.wav"}], "target": {"text": "x", "audio": "b.wav"}}
    (tmp_path / "data/gold.jsonl").write_text(json.dumps(record) + "\n")
    source = Jsonl(JsonlParams(path=str(tmp_path / "data/gold.jsonl")), seed=0)
    source.prepare(lambda what, done, total: None)

    def look() -> dict[str, Any]:
        reader = InputReader(None)  # type: ignore[arg-type]  # the source is all it reads here
        reader._source("data.demonstrations", source)
        return reader._files

    first = look()
    assert sorted(Path(name).name for name in first) == ["a.wav", "b.wav", "gold.jsonl"]
    (tmp_path / "data/b.wav").write_bytes(b"RIFF" + bytes(199) + b"1")
    with pytest.raises(ResumeError, match=r"b.wav.* other content of the same size"):
        check_inputs(first, look(), ())
    monkeypatch.setattr("wavalign.engine.run.inputs.SOUNDS", 1)
    few = look()
    (tmp_path / "data/b.wav").write_bytes(b"RIFF" + bytes(300))
    with pytest.raises(ResumeError, match=r"b.wav.* has 304 bytes and had 204"):
        check_inputs(few, look(), ())


def test_sources_without_files_count_by_their_records(whole: Path) -> None:
    """Each by its own, also several of one type under one heading."""
    names = [name for name in json.loads((whole / "inputs.json").read_text())["files"] if name.startswith("records")]
    headings = ("prompts", "demonstrations", "evaluation.heldout")
    assert names == [f"records of data.{heading} 1 (Sums)" for heading in headings]


def test_inputs_that_were_changed_or_lost_are_noticed(tmp_path: Path) -> None:
    cut_at(tmp_path, 2)
    path = tmp_path / "run" / "inputs.json"
    content = path.read_text()
    for damaged in ("{", "[]", content.replace('"digest": "', '"digest": "0')):
        path.write_text(damaged)
        with pytest.raises(ResumeError, match=r"inputs.json"):
            go(tmp_path, resume=True)
    path.unlink()
    go(tmp_path, resume=True)  # what is read is what the checkpoint says


# --- what may change --------------------------------------------------------------------------------------------------


def test_the_differing_keys_are_named(tmp_path: Path) -> None:
    cut_at(tmp_path, 2)
    left = snapshot(tmp_path / "run")
    changes = (put("optim.learning_rate", 0.1), put("rewards.exact.weight", 2.0), put("steps", 3))
    with pytest.raises(ResumeError) as caught:
        go(tmp_path, *changes, resume=True)
    assert "\n  optim.learning_rate: 0.003 -> 0.1" in caught.value.message
    assert "\n  rewards.exact.weight: 1.0 -> 2.0" in caught.value.message
    assert "\n  steps: 4 -> 3" in caught.value.message
    assert "graph" not in caught.value.message
    assert snapshot(tmp_path / "run") == left


def test_what_changes_nothing_that_is_learned_may_change(whole: Path, tmp_path: Path) -> None:
    cut_at(tmp_path, 2)
    changes = (
        put("runtime.reward_failure_budget", 0.9),
        put("runtime.reward_workers", 1),
        put("runtime.keep_checkpoints", 5),
        put("runtime.checkpoint_every", 0),
        put("runtime.report", True),
        put("rewards.exact.timeout", 5),
        put("description", "other words"),
    )
    go(tmp_path, *changes, resume=True)
    assert_same_run(tmp_path / "run", whole)


def test_more_steps(whole: Path, tmp_path: Path) -> None:
    """A run of two steps, finished and then taken to four, is one of four; a schedule is spoken of."""
    go(tmp_path, put("steps", 2))
    with pytest.raises(UsageError, match="is finished"):
        go(tmp_path, put("steps", 2), resume=True)
    said: list[str] = []
    go(tmp_path, resume=True, said=said)
    assert any("stage train now has 4 steps" in text for text in said)
    assert_same_run(tmp_path / "run", whole)
    said.clear()
    go(tmp_path, put("steps", 6), put("optim.schedule", {"shape": "constant"}), resume=True, said=said)
    assert [line["step"] for line in lines(tmp_path / "run/metrics.jsonl") if line["split"] == "train"] == [
        *range(1, 7)
    ]


def test_a_schedule_is_warned_of(tmp_path: Path) -> None:
    cosine = put("optim.schedule", {"shape": "cosine"})
    cut_at(tmp_path, 2, cosine)
    said: list[str] = []
    go(tmp_path, cosine, put("steps", 6), resume=True, said=said)
    assert any("the cosine learning rate is that of a run of 6 steps" in text for text in said), said


def test_a_mended_plugin_is_accepted_by_name(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    text = PLUGINS.read_text()
    own.write_text(text)
    change = put("plugins", [str(own)])
    cut_at(tmp_path, 2, change)
    own.write_text(text + "\n# mended\n")
    with pytest.raises(ResumeError) as caught:
        go(tmp_path, change, resume=True)
    assert f"{own} was edited; it holds data." in caught.value.message
    with pytest.raises(UsageError, match=r"has no reward.exakt"):
        go(tmp_path, change, resume=Resume(accept=frozenset({"reward.exakt"})))
    with pytest.raises(ResumeError, match=r"metric.accuracy"):
        go(tmp_path, change, resume=Resume(accept=frozenset({"reward.exact"})))
    labels = {"reward.exact", "metric.accuracy", "data.prompts", "data.demonstrations", "data.evaluation.heldout"}
    go(tmp_path, change, resume=Resume(accept=frozenset(labels)))


def test_a_reward_with_other_options_is_accepted_by_name(tmp_path: Path) -> None:
    cut_at(tmp_path, 2)
    change = put("rewards.exact.misbehave", "sometimes")
    with pytest.raises(ResumeError, match=r"rewards.exact.misbehave: '' -> 'sometimes'"):
        go(tmp_path, change, resume=True)
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, FUNCTIONS, "gate", 2, Cut())
        with pytest.raises(Cut):
            go(tmp_path, change, resume=Resume(accept=frozenset({"reward.exact"})))
    go(tmp_path, change, resume=True)  # accepted once, it is the run's own


# --- from where -------------------------------------------------------------------------------------------------------


def test_from_a_named_checkpoint(whole: Path, tmp_path: Path) -> None:
    """Later checkpoints are moved, later lines cut, and the run comes out the same; also from a path, also finished."""
    keep = put("runtime.keep_checkpoints", 9)
    go(tmp_path, keep)
    with pytest.raises(UsageError, match="has no checkpoint 'step-9'") as caught:
        go(tmp_path, resume=Resume(at="step-9"))
    assert "step-1, step-2, step-3, step-4" in caught.value.hint
    said: list[str] = []
    for at in ("step-2", str(tmp_path / "run/checkpoints/step-1")):
        go(tmp_path, keep, resume=Resume(at=at), said=said)
        assert_same_run(tmp_path / "run", whole)
    aside = tmp_path / "run/checkpoints/set-aside-1"
    assert sorted(path.name for path in aside.iterdir()) == ["step-3", "step-4"]
    assert any(str(aside) in text for text in said)
    assert (tmp_path / "run/metrics.jsonl.cut-1").exists()


def test_without_a_checkpoint_a_resume_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_at(tmp_path, 0)
    said: list[str] = []
    go(tmp_path, resume=True, said=said)
    assert "no checkpoint was written before: what is not complete starts at its first step" in said


# --- whole or not finished --------------------------------------------------------------------------------------------


def test_damaged_files_are_named(tmp_path: Path) -> None:
    cut_at(tmp_path, 2)
    folder = tmp_path / "run"
    for name in ("plan.json", "metrics.jsonl"):
        content = (folder / name).read_bytes()
        for damaged in (b"", b"{", b"\xff\xfe", b"[1]", b'{"fingerprint": "x"}'):
            (folder / name).write_bytes(damaged)
            with pytest.raises(ResumeError, match=name):
                go(tmp_path, resume=True)
        (folder / name).write_bytes(content)
    flipped = bytearray((folder / "metrics.jsonl").read_bytes())
    flipped[flipped.index(b"0.")] ^= 1
    (folder / "metrics.jsonl").write_bytes(bytes(flipped))
    with pytest.raises(ResumeError, match=r"metrics.jsonl was changed: its first"):
        go(tmp_path, resume=True)


def test_what_a_kill_left_out_is_completed(whole: Path, tmp_path: Path) -> None:
    report = put("runtime.report", True)
    go(tmp_path, report)
    folder = tmp_path / "run"
    for name in ("finished.json", "report.html", "recipe.resolved.yaml", "environment.json"):
        (folder / name).unlink()
    (folder / ".finished.json.0123456789abcdef0123456789abcdef").write_text("{")
    (folder / "checkpoints" / ".tmp-removed-step-3").mkdir()
    (folder / ".gitignore").write_text("*")
    go(tmp_path, report, resume=True)
    for name in ("finished.json", "report.html", "recipe.resolved.yaml", "environment.json", ".gitignore"):
        assert (folder / name).exists(), name
    assert not list(folder.glob(".finished*"))
    assert not list((folder / "checkpoints").glob(".*"))
    assert comparable(folder / "metrics.jsonl") == comparable(whole / "metrics.jsonl")


def test_a_report_that_fails_leaves_the_run_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, *, complete: bool) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(rank, "write_report", full)
    with pytest.raises(StorageError):
        go(tmp_path, put("runtime.report", True))
    assert not (tmp_path / "run/finished.json").exists()
    monkeypatch.undo()
    go(tmp_path, put("runtime.report", True), resume=True)
    assert (tmp_path / "run/report.html").exists()


def test_a_folder_that_is_removed_is_no_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = StepExecutor.step

    def removing(self: StepExecutor, index: int) -> Any:
        if index == 2:
            shutil.rmtree(tmp_path / "run")
        return step(self, index)

    monkeypatch.setattr(StepExecutor, "step", removing)
    with pytest.raises(StorageError, match="removed"):
        go(tmp_path)
    assert not (tmp_path / "run").exists(), "what is gone does not half come back"


def test_a_run_never_ends_well_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "run", lambda self, resume: None)
    with pytest.raises(UnfinishedError, match="stage train") as caught:
        go(tmp_path)
    assert caught.value.exit_code == 1


def test_nothing_is_written_before_the_lock_is_held(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wavalign.engine.state.folder.RunFolder.lock", busy)
        with pytest.raises(FolderBusyError):
            go(tmp_path)
    assert list((tmp_path / "run").iterdir()) == []


def busy(self: object) -> None:
    raise FolderBusyError("in use")


def test_a_second_stop_says_what_is_lost(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        api.run(compiled(tmp_path, *SHORT, put("runtime.checkpoint_every", 0)), observer=Twice(3))
    assert (caught.value.lost, caught.value.checkpoint) == (2, "")


class Twice(Signals):
    """Asks a second time."""

    def step(self, values: Any, steps_done: int) -> None:
        super().step(values, steps_done)
        super().step(values, steps_done)
