"""A stage that pairs answers: what it writes, on how many processes, after a kill, and who learns from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import run_ranks
from tests.engine.run.test_trainer import Signals, Stop, run
from tests.toy.compiled import Change, compiled, drop, problems, put
from wavalign.engine import api
from wavalign.engine.compile.plan import Plan
from wavalign.engine.run.trainer import Trainer
from wavalign.engine.stages.dataset import DatasetPart
from wavalign.engine.state.distributed import World
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import DataError
from wavalign_cli import app as application
from wavalign_cli.plan_views import tree

SAMPLE = {"name": "sample", "type": "generate", "generate": {"limit": 20, "chunk": 6}, "rollout": {"group_size": 3}}
READ = {"samples": [{"type": "jsonl", "stage": "sample"}]}
PAIR = {
    "name": "pair",
    "type": "pairs",
    "data": READ,
    "pairs": {"type": "golden", "chunk": 4, "length_ratio": None, "finished": []},
}
LEARN = {"name": "learn", "steps": 2, "data": {"families": {"pairs": {"type": "jsonl", "stage": "pair"}}}}
PREFER = put("objective", {"terms": {"dpo": {"loss": {"type": "dpo"}, "family": "pairs", "tokens": "all"}}})


def staged(pair: dict[str, Any] | None = None, *more: dict[str, Any]) -> tuple[Change, ...]:
    stages = [SAMPLE, PAIR if pair is None else {**PAIR, "pairs": {**PAIR["pairs"], **pair}}, *more]  # type: ignore[dict-item]
    return (put("stages", stages), put("evaluation.metrics", {}), PREFER)


def records(folder: Path, stage: str = "pair") -> list[dict[str, Any]]:
    """What a stage of a run wrote, by id."""
    paths = sorted((folder / f"stages/{stage}/data").glob("*.jsonl"))
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return sorted(found, key=lambda each: str(each["id"]))


def contents(folder: Path) -> dict[str, bytes]:
    root = folder / "stages/pair"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "stages/pair/dataset.json").read_text())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), *staged(None, LEARN))


def test_gold_is_chosen_and_what_was_said_rejected(whole: Path) -> None:
    samples = {each["id"]: each for each in records(whole, "sample")}
    found, counts = records(whole), summary(whole)
    assert 0 < len(found) == counts["pairs"] <= counts["prompts"] <= 20
    assert counts["pairs"] + counts["equal"] == counts["prompts"]
    for each in found:
        about = each["metadata"]["pair"]
        source = samples[about["rejected"]["id"]]
        assert each["rejected"] == source["target"] and each["messages"] == source["messages"]
        assert each["chosen"] == source["metadata"]["generated"]["reference"]
        assert about["rejected"]["model"] == source["metadata"]["generated"]["model"]
        assert about["rejected"]["sampling"]["group_size"] == 3 and about["chosen"] == {"source": "golden"}
        assert (about["stage"], about["by"], about["seed"]) == ("pair", "golden", 3)
        assert each["metadata"]["answer"] in each["chosen"]["text"] and "generated" not in each["metadata"]


def test_a_later_stage_learned_from_it(whole: Path) -> None:
    found = [json.loads(text) for text in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in found] == [("learn", 1), ("learn", 2)]
    assert any("dpo" in key for key in found[0])


def test_it_is_data_like_any_other(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["data", "check", str(whole / "stages/pair/data")]) == 0
    said = capsys.readouterr().out
    assert f"(jsonl): {len(records(whole))} records" in said and "chosen.text" in said and "rejected.text" in said


@pytest.mark.parametrize("chunk", [1, 3])
def test_killed_in_the_middle_and_resumed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    append, seen = DatasetPart.append, 0

    def torn(self: DatasetPart, made: Any) -> None:
        nonlocal seen
        if self.path.parts[-3] == "pair":
            seen += 1
            if seen == chunk:
                with self.path.open("ab") as file:
                    file.write(b'{"id": "sum-')
                raise Stop
        append(self, made)

    with monkeypatch.context() as patch:
        patch.setattr(DatasetPart, "append", torn)
        with pytest.raises(Stop):
            run(tmp_path / "cut", *staged(None, LEARN))
    run(tmp_path / "cut", *staged(None, LEARN), resume=True)
    assert contents(tmp_path / "cut/run") == contents(whole)
    assert summary(tmp_path / "cut/run") == summary(whole)


def rank(world: World, plan: str, folder: str) -> bool:
    Trainer(Plan.from_json(plan), RunFolder(Path(folder)), world, Signals(-1)).run(resume=False)
    return True


def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    scored = staged({"type": "scored", "match": "all", "top": 1, "ties": "random"})
    (tmp_path / "run").mkdir()
    plan = compiled(tmp_path, *scored, put("runtime.processes", 2))
    assert run_ranks(rank, 2, plan.to_json(), str(tmp_path / "run")) == [True, True]
    alone = run(tmp_path / "alone", *scored)
    assert records(tmp_path / "run") == records(alone) != []
    ours, theirs = summary(tmp_path / "run"), summary(alone)
    assert ours.pop("files") != theirs.pop("files") and ours == theirs


def test_rewards_decide_who_is_better(tmp_path: Path) -> None:
    found = run(tmp_path, *staged({"type": "scored"}))
    made, counts = records(found), summary(found)
    assert made and counts["gap"] + counts["few"] + len(made) + counts["equal"] == counts["prompts"]
    for each in made:
        about = each["metadata"]["pair"]
        assert about["gap"] == pytest.approx(each["chosen"]["score"] - each["rejected"]["score"]) and about["gap"] > 0
        assert about["chosen"]["scores"] == {"exact": each["chosen"]["score"]}, "on the scale of the recipe"
        assert 1 <= each["rejected"]["score"] < each["chosen"]["score"] <= 5


def test_the_best_are_targets(tmp_path: Path) -> None:
    imitate = {"name": "imitate", "steps": 1, "data": {"demonstrations": [{"type": "jsonl", "stage": "pair"}]}}
    best = {"name": "pair", "type": "pairs", "data": READ, "pairs": {"type": "best", "finished": []}}
    objective = put("objective", {"terms": {"sft": {"loss": "cross_entropy"}}})
    found = run(tmp_path, put("stages", [SAMPLE, best, imitate]), put("evaluation.metrics", {}), objective)
    made = records(found)
    assert len(made) == summary(found)["pairs"] > 0
    samples = {each["id"]: each for each in records(found, "sample")}
    for each in made:
        about = each["metadata"]["pair"]
        assert each["target"] == samples[about["chosen"]["id"]]["target"] and about["score"] >= 1
    (line,) = [json.loads(text) for text in (found / "metrics.jsonl").read_text().splitlines()]
    assert line["stage"] == "imitate"


def test_nothing_can_be_paired(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"stage pair made no pairs of the answers to 19 prompts; left out: 5 prompts with too few answers, 14",
    ):
        run(tmp_path, *staged({"type": "scored", "min_gap": 100}))


def test_golden_answers_by_the_prompts_id(tmp_path: Path) -> None:
    changes = (*staged({"type": "golden", "gold": "demonstrations"}), put("data.demonstrations", {"type": "toy_sums"}))
    plain = run(tmp_path / "plain", *staged())
    assert [each["chosen"] for each in records(run(tmp_path, *changes))] == [each["chosen"] for each in records(plain)]


def test_a_plan_says_what_is_made(tmp_path: Path) -> None:
    plan = compiled(tmp_path, *staged({"type": "scored"}, LEARN))
    shown = tree(plan)
    assert "stage pair  pairs" in shown and "pairs  scored, ordered by exact" in shown
    assert "data.samples  written by stage sample" in shown and "leaves  stages/pair/data" in shown
    assert api.preflight(plan).errors == ()


def test_what_it_needs(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, put("stages", [SAMPLE, {"name": "pair", "type": "pairs"}]))
    assert (problem.message, problem.path) == ("pairs needs data.samples", "data.samples")
    (problem,) = problems(tmp_path, *staged({"gold": "demonstrations"}), drop("data.demonstrations"))
    assert problem.message == "golden answers are taken from data.demonstrations, and that is not there"
    (problem,) = problems(tmp_path, *staged({"merge": "previous"}))
    assert problem.message == "merge: previous is of earlier rounds, and the stage is in no `repeat`"
    alone = put("stages", [{**PAIR, "data": {"samples": {"type": "toy_sums"}}, "pairs": {"type": "scored"}}])
    assert compiled(tmp_path, alone, drop("rewards"), drop("model.preset")).stages[0].name == "pair"
    (problem,) = problems(tmp_path, alone, drop("model.preset"))
    assert problem.message == "the model has neither checkpoint nor preset", "rewards are shown tokens"
    (problem,) = problems(tmp_path, *staged({"top": 2}))
    assert (problem.code, problem.path) == ("unknown_key", "stages.1.pairs.top")
    (problem,) = problems(tmp_path, *staged({"length_ratio": [2, 1]}))
    assert "length_ratio is the least and the greatest share" in problem.message
    wrong = {**LEARN, "data": {"families": {"pairs": {"type": "jsonl", "stage": "pairs"}}}}
    (problem,) = problems(tmp_path, *staged(None, wrong))
    assert (problem.message, problem.hint) == ("`pairs` is not an earlier stage", "did you mean `pair`?")
    (problem,) = problems(tmp_path, *staged(None, {**LEARN, "start": "pair"}))
    assert problem.message == "stage `pair` writes answers and leaves no weights to start from"


def warned(folder: Path, rate: float, *changes: Change, pair: dict[str, Any] | None = None) -> list[str]:
    """Warnings of the stage that learns from pairs, as a person is shown them."""
    plan = compiled(folder, *staged(pair, LEARN), put("optim.learning_rate", rate), *changes)
    return [each.message for each in plan.stages[-1].warnings]


def test_golden_answers_at_settings_that_are_known_to_collapse(tmp_path: Path) -> None:
    """Keyed on what a term is, not on its name; anything that is known to hold it silences the warning."""

    def terms(**sections: Any) -> Change:
        return put("objective", {"terms": sections})

    dpo: dict[str, Any] = {"loss": {"type": "dpo"}, "family": "pairs"}
    (said,) = warned(tmp_path, 1e-4)
    assert said == (
        "term `dpo` prefers the golden answers of stage pair, with a learning rate of 0.0001 (above 1e-06) and no term "
        "that imitates: such settings are known to collapse"
    )
    weak = terms(dpo={**dpo, "loss": {"type": "dpo", "beta": 0.01}})
    (said,) = warned(tmp_path, 1e-7, weak)
    assert "with a beta of 0.01 (below 0.1) and no term" in said
    assert "a learning rate of 0.0001 (above 1e-06) and a beta of 0.01" in warned(tmp_path, 1e-4, weak)[0]
    assert len(warned(tmp_path, 1e-4, terms(apo={**dpo, "loss": {"type": "apo_zero"}}))) == 1, "any loss of this kind"
    assert warned(tmp_path, 1e-6) == []
    assert warned(tmp_path, 1e-4, terms(dpo=dpo, sft={"loss": "cross_entropy"})) == [], "an anchor"
    assert len(warned(tmp_path, 1e-4, terms(dpo=dpo, sft={"loss": "cross_entropy", "weight": 0}))) == 1
    assert warned(tmp_path, 1e-4, terms(simpo={**dpo, "loss": {"type": "simpo"}})) == [], "it reads no reference"
    assert warned(tmp_path, 1e-4, pair={"type": "scored"}) == [], "its own answers"
    adapted = put("model.adapter", {"type": "lora", "rank": 2})
    assert warned(tmp_path, 1e-5, adapted) == [] and len(warned(tmp_path, 2e-5, adapted)) == 1
