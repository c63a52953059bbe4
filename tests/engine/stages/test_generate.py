"""A stage that writes answers: what it writes, on how many processes, after a kill, and who reads it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.run.test_trainer import Signals, Stop, run
from tests.toy.compiled import Change, compiled, problems, put
from wavalign.engine import api
from wavalign.engine.compile.plan import Plan
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.stages.generate import Part
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.batch import (
    Answer,
    AudioClip,
    Dialogue,
    Message,
    Rollout,
    RolloutGroup,
    TokenSequence,
    Waveform,
)
from wavalign.plugins.data.jsonl import Jsonl, JsonlParams
from wavalign_cli import app as application
from wavalign_cli.plan_views import tree

SAMPLE = {"name": "sample", "type": "generate", "generate": {"limit": 20, "chunk": 3}, "rollout": {"group_size": 2}}
IMITATE = {"name": "imitate", "steps": 1, "data": {"demonstrations": [{"type": "jsonl", "stage": "sample"}]}}
ONE: tuple[Change, ...] = (put("stages", [SAMPLE]),)
TWO: tuple[Change, ...] = (put("stages", [SAMPLE, IMITATE]), put("evaluation.metrics", {}))


def records(folder: Path) -> list[dict[str, Any]]:
    """What the stage of a run wrote, by id."""
    paths = sorted((folder / "stages/sample/data").glob("*.jsonl"))
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return sorted(found, key=lambda each: str(each["id"]))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the stage."""
    root = folder / "stages/sample"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), *TWO)


def test_a_record_says_where_it_comes_from(whole: Path) -> None:
    found = records(whole)
    summary = json.loads((whole / "stages/sample/dataset.json").read_text())
    assert len(found) == summary["answers"] and summary["answers"] + summary["unusable"] == 20 * 2
    first = found[0]
    about = first["metadata"]["generated"]
    assert first["id"] == f"{about['prompt']}#{about['member']}"
    assert first["target"]["text"] and first["metadata"]["answer"] in about["reference"]["text"]
    assert (about["stage"], about["seed"], about["sampling"]["group_size"]) == ("sample", 3, 2)
    assert {each["metadata"]["generated"]["model"] for each in found} == {summary["model"]}
    assert {type(each["metadata"]["generated"]["finished"]) for each in found} == {bool}


def test_answers_differ_within_a_group(whole: Path) -> None:
    said: dict[str, set[str]] = {}
    for each in records(whole):
        said.setdefault(each["metadata"]["generated"]["prompt"], set()).add(json.dumps(each["target"]))
    assert any(len(texts) > 1 for texts in said.values())


def test_a_later_stage_learned_from_it(whole: Path) -> None:
    (line,) = [json.loads(text) for text in (whole / "metrics.jsonl").read_text().splitlines()]
    assert (line["stage"], line["step"]) == ("imitate", 1)


def test_it_is_data_like_any_other(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["data", "check", str(whole / "stages/sample/data")]) == 0
    assert f"(jsonl): {len(records(whole))} records" in capsys.readouterr().out


@pytest.mark.parametrize("chunk", [1, 4, 7])
def test_killed_in_the_middle_and_resumed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """Half a line of the chunk that was being written is cut off; in the end every byte is as if nothing had been."""
    add, seen = Part.add, 0

    def torn(self: Part, groups: Any, *, first: int) -> None:
        nonlocal seen
        seen += 1
        if seen == chunk:
            with self.path.open("ab") as file:
                file.write(b'{"id": "sum-')
            raise Stop
        add(self, groups, first=first)

    with monkeypatch.context() as patch:
        patch.setattr(Part, "add", torn)
        with pytest.raises(Stop):
            run(tmp_path / "cut", *TWO)
    done = list[int]()

    def noted(self: Part, groups: Any, *, first: int) -> None:
        done.append(first)
        add(self, groups, first=first)

    monkeypatch.setattr(Part, "add", noted)
    run(tmp_path / "cut", *TWO, resume=True)
    assert done == list(range(3 * (chunk - 1), 20, 3)), "chunks that were whole are not answered again"
    assert contents(tmp_path / "cut/run") == contents(whole)


def spoken(member: int) -> Rollout:
    """An answer with sound and no words."""
    completion = TokenSequence(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int8))
    wave = Waveform(np.full(160, member / 10, dtype=np.float32), 16_000)
    return Rollout(completion, torch.zeros(1, 1), Answer("  ", (1,), finished=member == 0), waveform=wave)


def test_sound_lies_beside_the_record(tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    dialogue = Dialogue("q", (Message("user", "", AudioClip("/elsewhere/q.wav")),), metadata={"style": "sad"})
    group = RolloutGroup(dialogue, spoken(0).completion, (spoken(0), spoken(1)))
    part = Part(tmp_path / "sample", World.single("cpu"), {"stage": "sample"}, words=lambda dialogue: None)
    part.add([group], first=7)
    source = Jsonl(JsonlParams(path=str(tmp_path / "sample/data")), seed=0)
    source.prepare(lambda what, done, total: None)
    for member in (0, 1):
        found = source.record(member)
        assert (found.id, found.messages) == (f"q#{member}", dialogue.messages)
        assert found.target is not None and found.target.text == "" and found.target.audio is not None
        assert found.target.audio.codes == (1,)  # what was said, and not what its sound would be encoded as
        assert found.target.audio.url == str(tmp_path / f"sample/data/part-00000-of-00001/000007-{member}.wav")
        sound = audio.read(found.target.audio, sample_rate=None)
        assert sound.sample_rate == 16_000 and abs(float(sound.samples.mean()) - member / 10) < 1e-3
        about = {"stage": "sample", "prompt": "q", "member": member, "finished": member == 0, "exact": False}
        assert found.metadata == {"style": "sad", "generated": about}
    assert part.counts == {"answers": 2, "unfinished": 1, "exact": 0, "unusable": 0}


def test_other_weights_begin_anew(tmp_path: Path) -> None:
    world = World.single("cpu")
    folder = tmp_path / "sample"
    folder.mkdir()
    part = Part(folder, world, {"model": "a"}, words=lambda dialogue: None)
    part.add([], first=0)
    (part.sounds / "x").parent.mkdir()
    assert Part(folder, world, {"model": "a"}, words=lambda dialogue: None).chunks == 1
    assert part.sounds.exists()
    assert Part(folder, world, {"model": "b"}, words=lambda dialogue: None).chunks == 0
    assert not part.sounds.exists()


def rank(world: World, plan: str, folder: str) -> bool:
    Trainer(Plan.from_json(plan), RunFolder(Path(folder)), world, Signals(-1)).run(resume=False)
    return True


@pytest.mark.parametrize("engine", [{"type": "plain"}, {"type": "deepspeed", "zero": 3}])
def test_two_processes_write_what_one_writes(tmp_path: Path, engine: dict[str, Any]) -> None:
    """DeepSpeed has no part in it: nothing is updated."""
    (tmp_path / "run").mkdir()
    plan = compiled(tmp_path, *ONE, put("runtime.processes", 2), put("runtime.engine", engine))
    assert run_ranks(rank, 2, plan.to_json(), str(tmp_path / "run")) == [True, True]
    parts = sorted(path.name for path in (tmp_path / "run/stages/sample/data").glob("*.jsonl"))
    assert parts == ["part-00000-of-00002.jsonl", "part-00001-of-00002.jsonl"]
    assert records(tmp_path / "run") == records(run(tmp_path / "alone", *ONE))


def test_a_process_without_prompts(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    few = put("stages", [{**SAMPLE, "generate": {"limit": 2}}])
    plan = compiled(tmp_path, few, put("runtime.processes", 2))
    assert run_ranks(rank, 2, plan.to_json(), str(tmp_path / "run")) == [True, True]
    assert len(list((tmp_path / "run/stages/sample/data").glob("*.jsonl"))) == 1


def test_no_answer_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "_learned", lambda self, dialogue: None)
    with pytest.raises(DataError, match="none of the 40 answers of stage sample has words or sound"):
        run(tmp_path, *ONE)


def test_a_plan_says_what_is_written_and_read(tmp_path: Path) -> None:
    plan = compiled(tmp_path, *TWO)
    sample, imitate = plan.stages
    assert (sample.steps, sample.terms, sample.geometry, sample.deepspeed) == (0, (), None, None)
    shown = tree(plan)
    assert "stage sample  generate" in shown
    assert "writes  20 prompts x 2 answers of up to 5 tokens, temperature 1, top_k 0, top_p 1, as text" in shown
    assert "leaves  stages/sample/data" in shown
    assert "data.demonstrations  written by stage sample" in shown
    assert imitate.first_step == 0


def test_a_dry_run_does_not_miss_what_is_yet_to_be_written(tmp_path: Path) -> None:
    found = api.preflight(compiled(tmp_path, *TWO))
    assert found.errors == ()
    assert ("imitate", "data.demonstrations", "written by stage sample, and looked at when it is there") in [
        (each.stage, each.what, each.message) for each in found.findings
    ]
    assert [name for name, _ in found.memory] == ["sample", "imitate"]


def test_it_needs_prompts_and_no_objective(tmp_path: Path) -> None:
    def bare(recipe: dict[str, Any]) -> None:
        del recipe["objective"], recipe["data"]["demonstrations"]

    compiled(tmp_path, *ONE, bare)
    (problem,) = problems(tmp_path, *ONE, bare, lambda recipe: recipe["data"].pop("prompts"))
    assert (problem.message, problem.path) == ("generate needs data.prompts", "data.prompts")


def test_a_source_with_a_path_and_a_stage(tmp_path: Path) -> None:
    both = {"demonstrations": [{"type": "jsonl", "stage": "sample", "path": "gold.jsonl"}]}
    (problem,) = problems(tmp_path, put("stages", [SAMPLE, {**IMITATE, "data": both}]))
    assert (problem.code, problem.message) == ("conflict", "the source has a `path` and names a `stage`")
    none = {"demonstrations": [{"type": "toy_sums", "stage": "sample"}]}
    (problem,) = problems(tmp_path, put("stages", [SAMPLE, {**IMITATE, "data": none}]))
    assert problem.message == "a source of type toy_sums reads no files"


def test_data_check_of_the_recipe_names_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.toy.world import toy_recipe, write_recipe

    recipe = toy_recipe(tmp_path)
    put("data", {"prompts": {"type": "toy_sums"}})(recipe)
    put("evaluation", {})(recipe)
    put("stages", [SAMPLE, IMITATE])(recipe)
    path = write_recipe(tmp_path, recipe)
    assert application.main(["data", "check", path]) == 0
    assert application.main(["data", "check", path, "--heading", "demonstrations"]) == 2
    assert "stage sample writes it: name RUN/stages/sample/data" in capsys.readouterr().err
