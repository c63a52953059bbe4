"""What a person gets when something is wrong: a message that names it, an exit code, and nothing lost."""

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import comparable, here, lines, snapshot
from tests.toy.compiled import Change, drop, put
from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine.state.folder import RunFolder

SUPERVISED: tuple[Change, ...] = (
    put("objective.terms", {"sft": {"loss": "cross_entropy"}}),
    drop("objective.gate"),
    drop("evaluation"),
    drop("data.evaluation"),
)


def written(folder: Path, *changes: Change) -> str:
    """The toy recipe after `changes`, as a file."""
    recipe = toy_recipe(folder)
    for change in changes:
        change(recipe)
    return write_recipe(folder, recipe)


def gold(folder: Path, *records: dict[str, Any] | str) -> Change:
    """Demonstrations from a JSONL file."""
    rows = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "gold.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return put("data.demonstrations", {"type": "jsonl", "path": "gold.jsonl"})


def spoken(clip: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "text": "one plus one", "audio": clip}], "target": {"text": "it is two"}}


PLAIN = {"messages": [{"role": "user", "text": "one plus one"}], "target": {"text": "it is two"}}


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be opened"), (b"RIFF\x24\x00\x00\x00WAVEfmt ", "not a sound file")]
)
def test_a_sound_file_that_is_missing_or_torn(tmp_path: Path, content: bytes | None, message: str) -> None:
    """Exit 5 before the first step; the file is named."""
    if content is not None:
        (tmp_path / "q.wav").write_bytes(content)
    stages = [{"name": "codec", "type": "fit_codec"}, {"name": "train"}]
    sounding = (gold(tmp_path, spoken("q.wav")), put("model.codec", {"type": "source_filter"}), put("stages", stages))
    recipe = written(tmp_path, *SUPERVISED, *sounding)
    ended = here("run", recipe)
    assert ended.code == 5, ended.output
    assert str(tmp_path / "q.wav") in ended.output
    assert message in ended.output
    assert "hint" in ended.output
    assert not (tmp_path / "run" / "stages" / "codec" / "complete.json").exists()
    assert not (tmp_path / "run" / "finished.json").exists()


def test_data_cut_short(tmp_path: Path) -> None:
    """File and line are named by the dry run and by the run; the dry run leaves no folder."""
    recipe = written(tmp_path, *SUPERVISED, gold(tmp_path, PLAIN, '{"messages": [{"role": "user", "te'))
    for arguments in (("--dry-run",), ()):
        ended = here("run", recipe, *arguments)
        assert ended.code == 5, ended.output
        assert f"{tmp_path / 'gold.jsonl'}:2: not a JSON object" in ended.output
        assert "cut short" in ended.output
        assert (tmp_path / "run").exists() == (arguments == ())


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        ("raise", "RuntimeError: the judge is down"),
        ("nan", "gave nan"),
        ("range", "outside its range"),
        ("hang", "no answer"),
    ],
)
def test_rewards_over_their_budget(tmp_path: Path, misbehave: str, reason: str) -> None:
    """Exit 6 with the reward, the count, the first reason and what to do."""
    recipe = written(
        tmp_path, put("rewards.exact.misbehave", misbehave), put("rewards.exact.timeout", 0.2), put("batch.prompts", 1)
    )
    ended = here("run", recipe)
    assert ended.code == 6, ended.output
    assert "4 of 4 calls of reward `exact` failed" in ended.output
    assert reason in ended.output
    assert "reward_failure_budget is 0.5" in ended.output
    assert [line["split"] for line in lines(tmp_path / "run" / "metrics.jsonl")] == ["heldout"]


def test_rewards_within_their_budget(tmp_path: Path) -> None:
    """A sixth of the dialogues gets no word: counted, said why, left out, and the run goes on."""
    recipe = written(tmp_path, put("rewards.exact.misbehave", "sometimes"), put("runtime.log_rollouts_every", 1))
    ended = here("run", recipe)
    assert ended.code == 0, ended.output
    kept = [line for line in lines(tmp_path / "run" / "rollouts.jsonl") if line["split"] == "train"]
    silent = [line for line in kept if line["reward"] is None]
    assert 0 < len(silent) < len(kept)
    assert {line["reason/exact"] for line in silent} == {"no opinion on zero"}
    assert all(line["dialogue"].endswith("0") and line["advantage"] == 0 for line in silent)
    counted = sum(line.get("reward/exact/failed", 0) for line in lines(tmp_path / "run" / "metrics.jsonl"))
    assert counted == len(silent)


def test_a_loss_that_breaks(tmp_path: Path) -> None:
    """Exit 4 naming loss, term and step; the checkpoint before it is whole, and the run resumes from there."""
    broken = put("objective.terms.odd", {"loss": {"type": "toy_broken", "after": 4}, "weight": 0.1})
    recipe = written(tmp_path, broken, put("runtime.checkpoint_every", 3))
    ended = here("run", recipe)
    assert ended.code == 4, ended.output
    assert "loss 'toy_broken' (objective.terms.odd.loss): compute gave values that are no finite" in ended.output
    assert "at step 5 of stage 'train' (" in ended.output
    assert "plugins.py:" in ended.output
    assert "learning_rate" not in ended.output
    run = tmp_path / "run"
    assert sorted(each.name for each in (run / "checkpoints").iterdir()) == ["step-3", "step-4"]
    assert [line["step"] for line in lines(run / "metrics.jsonl") if line["split"] == "train"] == [1, 2, 3, 4]
    # The loss of the new process counts anew, and so the two steps that are left are fine.
    assert here("run", recipe, "--resume").code == 0
    assert [line["step"] for line in lines(run / "metrics.jsonl") if line["split"] == "train"] == [1, 2, 3, 4, 5, 6]


def test_a_gradient_that_breaks(tmp_path: Path) -> None:
    """A finite loss with a gradient that is not: named by step, and the weights stay."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from wavalign.plugins.api import Loss, LossOutput\n\n\n"
        "class Steep(Loss):\n"
        "    type = 'steep'\n"
        "    family = 'demonstrations'\n\n"
        "    @property\n"
        "    def needs(self):\n"
        "        return frozenset()\n\n"
        "    def compute(self, inputs):\n"
        "        return LossOutput((inputs.logprobs * 0).sqrt())\n",
        encoding="utf-8",
    )
    plugins = put("plugins", [str(tmp_path / "mine.py"), *toy_recipe(tmp_path)["plugins"]])
    first = put("runtime.non_finite_limit", 1)
    recipe = written(tmp_path, plugins, first, put("objective.terms.odd", {"loss": "steep"}))
    ended = here("run", recipe)
    assert ended.code == 1, ended.output
    assert "the gradient norm is nan at step 1 of stage 'train'; the weights were not updated" in ended.output


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow above `size` bytes, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_under_a_checkpoint(tmp_path: Path) -> None:
    """Exit 1 with a message about the disk; what stood before stands, and with space the run goes on."""
    recipe = written(tmp_path, put("steps", 4))
    with files_up_to(40_000):  # lines fit, weights do not
        ended = here("run", recipe)
    assert ended.code == 1, ended.output
    assert "could not write" in ended.output
    assert "step-2" in ended.output
    run = tmp_path / "run"
    assert list((run / "checkpoints").iterdir()) == []
    assert [line["step"] for line in lines(run / "metrics.jsonl") if line["split"] == "train"] == [1, 2]
    assert here("run", recipe, "--resume").code == 0
    (tmp_path / "other").mkdir()
    assert here("run", written(tmp_path / "other", put("steps", 4))).code == 0
    assert comparable(run / "metrics.jsonl") == comparable(tmp_path / "other" / "run" / "metrics.jsonl")


def test_a_disk_that_fills_up_under_the_model(tmp_path: Path) -> None:
    """The stage is not complete, its checkpoint is; resumed, the model is written."""
    recipe = written(tmp_path, put("steps", 2), put("evaluation.at_start", False))
    (tmp_path / "probe").mkdir()
    assert here("run", written(tmp_path / "probe", put("steps", 2))).code == 0
    run, size = tmp_path / "run", (tmp_path / "probe" / "run" / "model" / "model.safetensors").stat().st_size

    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wavalign.engine.run.hand_over.ShardWriter.finish", full)
        ended = here("run", recipe)
    assert ended.code == 1, ended.output
    assert "No space left on device" in ended.output
    assert "free space on the disk, then resume the run" in ended.output
    assert not (run / "stages" / "train" / "complete.json").exists()
    assert here("run", recipe, "--resume").code == 0
    assert (run / "model" / "model.safetensors").stat().st_size == size


def test_folders_that_are_taken(tmp_path: Path) -> None:
    """One that holds a run, and one that another process is writing to; both are left as they are."""
    recipe = written(tmp_path, put("steps", 1), *SUPERVISED)
    assert here("run", recipe).code == 0
    before = snapshot(tmp_path / "run")
    again = here("run", recipe)
    assert (again.code, "already holds a run" in again.output) == (2, True), again.output
    (tmp_path / "run" / "finished.json").unlink()
    holder = RunFolder(tmp_path / "run")
    holder.lock()
    busy = here("run", recipe, "--resume")
    assert busy.code == 1, busy.output
    assert f"in use by process {os.getpid()} on" in busy.output
    holder.unlock()
    after = snapshot(tmp_path / "run")
    ours = {path for path in before if path.name not in ("finished.json", "lock.json")}
    assert {path: after[path] for path in ours} == {path: before[path] for path in ours}
    nothing = here("run", recipe, "--resume", "--set", f"runtime.folder={tmp_path / 'new'}")
    assert (nothing.code, "no unfinished run" in nothing.output) == (2, True), nothing.output


def test_recipes_and_plugins_that_are_wrong(tmp_path: Path) -> None:
    """Exit 3 with all problems and their places, exit 4 with the file; no folder is made."""
    recipe = written(tmp_path, put("rewards.exact.type", "toy_exakt"), put("optim.learning_rate", -1))
    ended = here("run", recipe)
    assert ended.code == 3, ended.output
    assert "toy.yaml:" in ended.output
    (tmp_path / "mine.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    ended = here("run", written(tmp_path, put("plugins", [str(tmp_path / "mine.py")])))
    assert ended.code == 4, ended.output
    assert "mine.py failed to import: ModuleNotFoundError" in ended.output
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """Exit 5, naming the file and the older checkpoint that is whole."""
    broken = put("objective.terms.odd", {"loss": {"type": "toy_broken", "after": 4}, "weight": 0.1})
    recipe = written(tmp_path, broken)
    assert here("run", recipe).code == 4
    file = next((tmp_path / "run" / "checkpoints" / "step-4").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    ended = here("run", recipe, "--resume")
    assert ended.code == 5, ended.output
    assert f"{file} was changed after it was written" in ended.output
    assert "step 2, which is intact" in ended.output
