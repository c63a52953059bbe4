"""A benchmark answered by the toy model: by every name a model has, interrupted, judged, and compared."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import lines
from tests.engine.run.test_divided_phases import LORA
from tests.engine.run.test_moved_runs import ZERO3, go, on
from tests.plugins.judging.server import in_turn, refuses, says, scores, serving
from tests.toy.compiled import Change, compiled, put
from tests.toy.world import NUMBERS
from wavalign.engine import api
from wavalign.engine.benchmarks import costly
from wavalign.engine.benchmarks.evaluating import Asked, Evaluated
from wavalign.engine.benchmarks.models import OpenModel
from wavalign.engine.compile.plan import Plan
from wavalign.engine.step.rollouts import Roller
from wavalign.errors import CheckpointError, RewardStopped, UsageError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sums(path: Path, count: int = 36) -> str:
    with path.open("w", encoding="utf-8") as file:
        for place in range(count):
            a, b = divmod(place, 6)
            right = NUMBERS[(a + b) % 6]
            record = {
                "id": f"s-{a}-{b}", "messages": [{"role": "user", "text": f"{NUMBERS[a]} plus {NUMBERS[b]}"}],
                "target": {"text": f"it is {right}"}, "metadata": {"answer": right},
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")
    return str(path)


def voicebench(path: Path) -> str:
    rows = [{"prompt": f"{NUMBERS[i]} plus one", "reference": "B", "domain": "sums"} for i in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def values(done: Evaluated) -> dict[str, float]:
    return {each.name: each.value for each in done.values}


def texts(folder: Path) -> list[str]:
    return [line["text"] for line in lines(folder / "answers.jsonl")]


def trained(tmp_path: Path, **runtime: Any) -> Plan:
    plan = compiled(tmp_path, put("steps", 4), *(put(f"runtime.{name}", value) for name, value in runtime.items()))
    api.run(plan)
    return plan


def test_one_model_by_every_name_it_has(tmp_path: Path) -> None:
    """A run, its stage, its model's folder, its last checkpoint, and an export: the same weights, the same answers."""
    plan, asked = trained(tmp_path), Asked(sums(tmp_path / "sums.jsonl"), out=tmp_path / "run-out")
    run = tmp_path / "run"
    done = api.evaluate(run, asked)
    assert (done.answers, done.drawn, done.bench.suite, done.bench.task) == (36, 36, "dialogues", "reference")
    exported = api.export(run, tmp_path / "exported").folder
    held_out = [each["text"] for each in lines(run / "evaluation.jsonl") if each["step"] == 4]
    assert texts(tmp_path / "run-out") == held_out  # greedy, as the run itself measures
    places: list[tuple[Path, dict[str, Any]]] = [
        (run / "stages" / "train", {}), (run / "model", {}), (run / "checkpoints" / "step-4", {}),
        (run, {"at": "step-4"}), (exported, {"recipe": plan}),
    ]  # fmt: skip
    for number, (place, options) in enumerate(places):
        out = tmp_path / f"out-{number}"
        assert values(api.evaluate(place, replace(asked, out=out), **options)) == values(done)
        assert texts(out) == held_out
    earlier = api.evaluate(run, replace(asked, out=tmp_path / "earlier"), at="2")
    start = api.evaluate(plan, replace(asked, out=tmp_path / "start"))
    at_start = [each["text"] for each in lines(run / "evaluation.jsonl") if each["step"] == 0]
    assert texts(start.folder) == at_start
    assert "random weights" in start.model and "step-2" in earlier.model


def test_an_interrupted_evaluation_goes_on_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = compiled(tmp_path, put("evaluation.sampling.temperature", 1.0))
    asked = Asked(sums(tmp_path / "sums.jsonl"), out=tmp_path / "whole", chunk=8)
    whole = api.evaluate(plan, asked)
    drawn: list[str] = []
    sample: Callable[..., Any] = Roller.sample

    def dies(self: Roller, policy: Any, dialogues: Any, *rest: Any) -> Any:
        if len(drawn) >= 16:
            raise CheckpointError("the power is gone")
        drawn.extend(each.id for each in dialogues)
        return sample(self, policy, dialogues, *rest)

    monkeypatch.setattr(Roller, "sample", dies)
    cut = replace(asked, out=tmp_path / "cut")
    with pytest.raises(CheckpointError):
        api.evaluate(plan, cut)
    monkeypatch.setattr(Roller, "sample", sample)
    assert len(texts(tmp_path / "cut")) == 16
    done = api.evaluate(plan, cut)
    assert (done.drawn, done.answers) == (20, 36)
    assert texts(tmp_path / "cut") == texts(tmp_path / "whole") and values(done) == values(whole)
    other = api.evaluate(plan, replace(asked, out=tmp_path / "other", seed=1))
    assert texts(other.folder) != texts(whole.folder)


def test_what_is_complete_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, asked = compiled(tmp_path), Asked(sums(tmp_path / "sums.jsonl", 4), out=tmp_path / "out")
    first = api.evaluate(plan, asked)

    def never(*_: Any) -> Any:
        raise AssertionError("the network is not needed")

    monkeypatch.setattr(OpenModel, "policy", never)
    again = api.evaluate(plan, asked)
    assert (again.drawn, values(again)) == (0, values(first))
    with pytest.raises(UsageError, match="other answers: seed was 0 and is 5"):
        api.evaluate(plan, replace(asked, seed=5))


def test_a_reward_judges_every_answer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(sums(tmp_path / "sums.jsonl"), out=tmp_path / "out", judge="exact")
    trained(tmp_path)
    done = api.evaluate(tmp_path / "run", asked)
    (judged,) = (each for each in done.values if each.name == "judge/exact")
    by_hand = [
        1 + 4 * float(line["text"].split()[-1:] == line["correct"]) for line in lines(done.folder / "scores.jsonl")
    ]
    assert judged.value == pytest.approx(sum(by_hand) / 36)  # on the recipe's scale, 1 to 5
    assert judged.count == 36
    monkeypatch.setattr(costly, "_said", lambda *_: pytest.fail("asked again"))
    assert values(api.evaluate(tmp_path / "run", asked)) == values(done)


def test_a_judge_that_fails_gives_no_number_and_is_asked_again(tmp_path: Path) -> None:
    plan = compiled(
        tmp_path, put("rewards.exact.misbehave", "sometimes"), put("rewards.exact.on_failure", "drop_sample")
    )
    done = api.evaluate(plan, Asked(sums(tmp_path / "sums.jsonl"), out=tmp_path / "out", judge="exact"))
    (judged,) = (each for each in done.values if each.name == "judge/exact")
    assert (judged.count, judged.missing) == (30, {"no opinion on zero": 6})
    assert len(lines(tmp_path / "out" / "judged-exact.jsonl")) == 30
    with pytest.raises(UsageError, match="no reward 'nobody' to judge by") as caught:
        api.evaluate(plan, Asked(sums(tmp_path / "sums.jsonl"), out=tmp_path / "out", judge="nobody"))
    assert "it has: exact" in (caught.value.hint or "")


def test_voicebench_rows_come_back_with_their_responses(tmp_path: Path) -> None:
    done = api.evaluate(compiled(tmp_path), Asked(voicebench(tmp_path / "mmsu.jsonl"), out=tmp_path / "out"))
    assert done.suite_file is not None and done.suite_file.name == "toy-mmsu-test-text.jsonl"
    assert [set(line) for line in lines(done.suite_file)] == [{"prompt", "reference", "domain", "response"}] * 5
    assert values(done)["choice"] == 0.0 and "guesses one at random" in done.notes[0]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["values"]["choice"]["count"] == 5 and summary["suite_command"].endswith("--evaluator mcq")


def test_an_open_set_has_no_number_without_a_judge(tmp_path: Path) -> None:
    asked = Asked(voicebench(tmp_path / "alpacaeval.jsonl"), out=tmp_path / "out")
    done = api.evaluate(compiled(tmp_path), asked)
    assert set(values(done)) == {"finished", "empty"}
    assert "for a judge to score, and none is named" in done.notes[0] and "api_judge.py" in done.notes[0]


@pytest.mark.parametrize(
    ("place", "options", "said"),
    [
        ("nothing", {}, "holds neither plan.json nor config.json"),
        ("model", {}, "says nothing of its codec"),
        ("run", {"at": "step-9"}, "has no checkpoint 'step-9'"),
        ("run", {"stage": "warm"}, "no train stage 'warm'"),
    ],
)
def test_what_is_no_model_says_so(tmp_path: Path, place: str, options: dict[str, Any], said: str) -> None:
    if place == "run":
        trained(tmp_path)
    (tmp_path / place).mkdir(exist_ok=True)
    if place == "model":
        (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=said):
        api.evaluate(tmp_path / place, Asked(sums(tmp_path / "s.jsonl", 2), out=tmp_path / "out"), **options)


@pytest.mark.parametrize("changes", [(), (LORA,)])
def test_a_checkpoint_of_two_processes_answers_on_one(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    """Of which each wrote its part; the same answers as by the model that the run left."""
    go(tmp_path, *on(2, ZERO3, 4), put("runtime.checkpoint_every", 2), *changes)
    run = tmp_path / "run"
    held_out = [each["text"] for each in lines(run / "evaluation.jsonl") if each["step"] == 4]
    asked = Asked(sums(tmp_path / "sums.jsonl"), out=tmp_path / "out")
    api.evaluate(run, asked, at="step-4")
    assert texts(tmp_path / "out") == held_out
    api.evaluate(run, replace(asked, out=tmp_path / "left"))
    assert texts(tmp_path / "left") == held_out


def test_a_run_that_is_not_complete_names_its_checkpoint(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "run" / "stages" / "train" / "complete.json").unlink()
    asked = Asked(sums(tmp_path / "s.jsonl", 2), out=tmp_path / "out")
    with pytest.raises(UsageError, match="is not complete") as caught:
        api.evaluate(tmp_path / "run", asked)
    assert "--at step-4" in (caught.value.hint or "")
    assert api.evaluate(tmp_path / "run", asked, at="step-4").answers == 2


def judging(url: str, **more: Any) -> dict[str, Any]:
    judge = {"type": "judge", "judges": {"one": {"url": url, "model": "fake"}}, "rubric": "semantic", "cache": False}
    return {**judge, "retries": {"attempts": 2, "seconds": 0.01}, **more}


def speaking(tmp_path: Path) -> Path:
    """A model that says something."""
    trained(tmp_path)
    return api.export(tmp_path / "run", tmp_path / "exported").folder


def test_an_open_set_is_judged_over_a_service_within_its_budget(tmp_path: Path) -> None:
    """The budget is of the folder: an evaluation that goes on has no more than what is left of it."""
    data, model = voicebench(tmp_path / "alpacaeval.jsonl"), speaking(tmp_path)
    with serving(in_turn(scores(2), says("90"), scores(5))) as server:
        plan = compiled(tmp_path, put("rewards.ask", judging(server.url)))
        done = api.evaluate(model, Asked(data, out=tmp_path / "out", judge="ask"), recipe=plan)
        (judged,) = (each for each in done.values if each.name == "judge/ask")
        assert (judged.count, sum(judged.missing.values())) == (4, 1)  # "90" is no number on a scale to 5
        assert judged.value == pytest.approx((2 + 5 + 5 + 5) / 4)
        assert (done.spent["requests"], done.spent["judged"], done.spent["unreadable"]) == (5, 4, 1)
        assert not any("for a judge to score" in note for note in done.notes)
        again = api.evaluate(model, Asked(data, out=tmp_path / "out", judge="ask"), recipe=plan)
        assert (again.spent["requests"], again.drawn) == (1, 0)  # what failed is asked again, nothing else
    with serving(scores(3)) as server:
        poor = Asked(data, out=tmp_path / "poor", judge="ask")
        plan = compiled(tmp_path, put("rewards.ask", judging(server.url, budget={"requests": 3}, concurrency=1)))
        for _ in range(2):
            with pytest.raises(RewardStopped, match="budget"):
                api.evaluate(model, poor, recipe=plan)
        assert len(server.asked) == 3 and len(texts(tmp_path / "poor")) == 5


def test_a_key_that_is_refused_ends_it_at_once_and_the_answers_stay(tmp_path: Path) -> None:
    model = speaking(tmp_path)
    with serving(refuses(401)) as server:
        plan = compiled(tmp_path, put("rewards.ask", judging(server.url, concurrency=1)))
        asked = Asked(voicebench(tmp_path / "wildvoice.jsonl"), out=tmp_path / "out", judge="ask")
        with pytest.raises(RewardStopped):
            api.evaluate(model, asked, recipe=plan)
        assert len(server.asked) == 1
    assert len(texts(tmp_path / "out")) == 5 and not (tmp_path / "out" / "summary.json").exists()
