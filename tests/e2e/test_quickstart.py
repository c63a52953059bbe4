"""The main job, made short: the shipped recipe, model and codec, the real world, from the command line to the page."""

import json
from pathlib import Path

import pytest

from tests.e2e.runs import lines, wavalign

SHORT = (
    *("--set", "steps=2", "--set", "data.prompts.limit=24", "--set", "data.evaluation.heldout.limit=12"),
    *("--set", "data.evaluation.unseen_voices.limit=4", "--set", "data.evaluation.unseen_facts.limit=4"),
    *("--set", "batch.prompts=4", "--set", "batch.demonstrations=4", "--set", "evaluation.samples=2"),
    *("--set", "evaluation.suspicious=0"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a short quickstart."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    done = wavalign("run", "recipes/quickstart.yaml", *SHORT, "--set", f"runtime.folder={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(folder / "report.html") in done.stdout
    return folder


def test_everything_is_measured_before_and_after(folder: Path) -> None:
    """Three splits, each metric beside its ceiling, at step 0 and at the end."""
    measured = [line for line in lines(folder / "metrics.jsonl") if line["split"] != "train"]
    assert [(line["split"], line["step"]) for line in measured] == [
        (split, step) for step in (0, 2) for split in ("heldout", "unseen_voices", "unseen_facts")
    ]
    for line in measured:
        assert {"text_accuracy", "heard_answer", "style_accuracy", "speech_quality", "well_formed"} <= line.keys()
        assert line["text_accuracy/ceiling"] == 1.0
        assert line["text_accuracy/low"] <= line["text_accuracy"] <= line["text_accuracy/high"]


def test_steps_tell_the_method_apart(folder: Path) -> None:
    """The gate moves within its bounds, the shares add up to one, both terms train tokens."""
    for line in lines(folder / "metrics.jsonl"):
        if line["split"] == "train":
            assert 0 <= line["gate"] <= 0.8
            assert line["share/rl"] + line["share/sft"] == pytest.approx(1)
            assert line["tokens/rl"] > 0
            assert line["tokens/sft"] > line["tokens/rl"] / 10


def test_samples_can_be_heard(folder: Path) -> None:
    """Every kept held-out answer has its sound, its question's and the reference's."""
    samples = [line for line in lines(folder / "rollouts.jsonl") if line["split"] == "heldout"]
    assert len(samples) == 4
    for line in samples:
        for key in ("audio", "question_audio", "reference_audio"):
            assert (folder / line[key]).stat().st_size > 4000


def test_the_page_and_the_plan_are_there(folder: Path) -> None:
    """One page with players; a plan that says what was left out; the model in its original layout."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "data:audio/flac;base64," in page
    assert "This run is not finished" not in page
    graph = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["stages"][0]["graph"]
    assert graph["rollout_need"] == "text"
    assert {"decode_audio", "reference"} <= {pruned["what"] for pruned in graph["pruned"]}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (folder / "model").iterdir()
    }
