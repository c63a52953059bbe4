"""Stages in rounds: their names, what refers to them, and where mistakes in them stand."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.schema.conftest import Bench
from wavalign.schema.dumping import dump_yaml, recipe_tree
from wavalign.schema.export import recipe_schema
from wavalign.schema.loading import LoadedRecipe
from wavalign.schema.source import read_source
from wavalign.schema.stage import Stage

ROUNDS = """
stages:
  - {name: warm, steps: 3}
  - repeat: 2
    name: round
    stages:
      - {name: sample, type: generate}
      - name: train
        data: {demonstrations: {type: jsonl, stage: sample}}
      - {name: more, start: train}
  - {name: last, start: round.train}
"""
"""Lines 14 to 24 of a recipe whose other lines are those of a valid one."""
WATCHED = ROUNDS.replace("    name: round\n", "    name: round\n    stop_early: {metric: heldout/score}\n")


def stages(loaded: LoadedRecipe) -> dict[str, Stage]:
    return {stage.name: stage for stage in loaded.recipe.stages}


def reads(stage: Stage) -> str | None:
    """The stage whose answers are its demonstrations."""
    assert stage.data.demonstrations is not None
    return stage.data.demonstrations[0].stage


def test_the_body_stands_there_once_for_every_round(bench: Bench, valid: str) -> None:
    found = stages(bench.load(valid + ROUNDS))
    assert list(found) == [
        "warm",
        "round-1.sample",
        "round-1.train",
        "round-1.more",
        "round-2.sample",
        "round-2.train",
        "round-2.more",
        "last",
    ]
    rounds = [None if each.round is None else (each.round.repeat, each.round.number) for each in found.values()]
    assert rounds == [None, *[("round", 1)] * 3, *[("round", 2)] * 3, None]


def test_references_within_a_round_are_of_that_round(bench: Bench, valid: str) -> None:
    found = stages(bench.load(valid + ROUNDS))
    assert [reads(found[f"round-{number}.train"]) for number in (1, 2)] == ["round-1.sample", "round-2.sample"]
    assert [found[f"round-{number}.more"].start for number in (1, 2)] == ["round-1.train", "round-2.train"]
    assert found["last"].start == "round-2.train"


def test_a_shared_section_may_name_a_stage_of_the_round(bench: Bench, valid: str) -> None:
    shared = valid.replace("data:\n", "data:\n  demonstrations: [{type: jsonl, stage: sample}]\n")
    text = "\nstages: [{repeat: 2, stages: [{name: sample, type: generate}, {name: train}]}]\n"
    found = stages(bench.load(shared + text))
    assert [reads(found[f"round-{number}.train"]) for number in (1, 2)] == ["round-1.sample", "round-2.sample"]


def test_a_resolved_recipe_is_read_back_equal(bench: Bench, valid: str) -> None:
    recipe = bench.load(valid + WATCHED).recipe
    assert bench.load(dump_yaml(recipe_tree(recipe))).recipe == recipe


def test_editors_know_it(bench: Bench, valid: str) -> None:
    bench.write({"recipe.yaml": valid + WATCHED, "wrong.yaml": valid + ROUNDS.replace("repeat: 2", "repeat: two")})
    validator = Draft202012Validator(recipe_schema({}))
    assert not list(validator.iter_errors(read_source("recipe.yaml").tree))
    assert list(validator.iter_errors(read_source("wrong.yaml").tree))


CASES: dict[str, tuple[str, str, tuple[str, str, str], str]] = {
    "a start that is not in the round": (
        "start: train",
        "start: trian",
        ("bad_value", "recipe.yaml:23:29", "stages.1.stages.2.start"),
        "`trian` is not an earlier stage",
    ),
    "a start that leaves no weights": (
        "start: train}",
        "start: sample}",
        ("bad_value", "recipe.yaml:23:29", "stages.1.stages.2.start"),
        "stage `round-1.sample` writes answers and leaves no weights to start from",
    ),
    "data of a stage that writes none": (
        "stage: sample",
        "stage: warm",
        ("bad_value", "recipe.yaml:22:53", "stages.1.stages.1.data.demonstrations.stage"),
        "`warm` writes no answers",
    ),
    "data of a stage that is nowhere": (
        "stage: sample",
        "stage: smaple",
        ("bad_value", "recipe.yaml:22:53", "stages.1.stages.1.data.demonstrations.stage"),
        "`smaple` is not an earlier stage",
    ),
    "a number of rounds that is none": (
        "repeat: 2",
        "repeat: 0",
        ("out_of_range", "recipe.yaml:17:13", "stages.1.repeat"),
        "",
    ),
    "an unknown key of the repetition": (
        "    name: round\n",
        "    name: round\n    time: 3\n",
        ("unknown_key", "recipe.yaml:19:5", "stages.1.time"),
        "unknown key `time`",
    ),
    "a mistake in the body, reported once": (
        "{name: sample, type: generate}",
        "{name: sample, type: generate, rollout: {group_size: 0}}",
        ("out_of_range", "recipe.yaml:20:62", "stages.1.stages.0.rollout.group_size"),
        "",
    ),
    "a stage without a name": (
        "{name: sample, type: generate}",
        "{type: fit_codec}",
        ("missing_key", "recipe.yaml:20:9", "stages.1.stages.0.name"),
        "",
    ),
    "rounds within rounds": (
        "{name: sample, type: generate}",
        "{repeat: 2, stages: [{name: sample}]}",
        ("bad_value", "recipe.yaml:20:9", "stages.1.stages.0"),
        "a `repeat` within a `repeat`",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_mistakes_stand_where_they_were_written(bench: Bench, valid: str, case: str) -> None:
    old, new, place, said = CASES[case]
    assert old in ROUNDS
    problems = bench.problems(valid + ROUNDS.replace(old, new))
    found = [(each.code, str(each.where), each.path) for each in problems]
    assert found.count(place) == 1, found
    assert said in next(each.message for each, at in zip(problems, found, strict=True) if at == place)


def test_a_name_that_is_empty(bench: Bench, valid: str) -> None:
    problems = bench.problems(valid + ROUNDS.replace("{name: sample, type: generate}", "{name: '', type: generate}"))
    assert next(str(each.where) for each in problems if each.path == "stages.1.stages.0.name") == "recipe.yaml:20:16"


@pytest.mark.parametrize("body", ["", "\n    stages: []", "\n    stages: 3"])
def test_a_repetition_of_nothing(bench: Bench, valid: str, body: str) -> None:
    problems = bench.problems(valid + f"\nstages:\n  - repeat: 2{body}\n")
    assert ("missing_key", "stages.0.stages", "a `repeat` has no `stages`") in [
        (each.code, each.path, each.message) for each in problems
    ]


def test_a_number_may_not_be_the_best(bench: Bench, valid: str) -> None:
    """Rounds that may end early are referred to as a whole."""
    assert stages(bench.load(valid + WATCHED))["last"].start == "round-2.train"
    (problem,) = bench.problems(valid + WATCHED.replace("round.train", "round-1.train"))
    assert (problem.path, problem.hint) == ("stages.2.start", "write `round.train`: that of the best round")
    assert stages(bench.load(valid + ROUNDS.replace("round.train", "round-1.train")))["last"].start == "round-1.train"


def test_names_of_stages(bench: Bench, valid: str) -> None:
    def named(name: str) -> list[Any]:
        return bench.places(valid + f"\nstages: [{{name: '{name}'}}]\n")

    bench.load(valid + "\nstages: [{name: round-1.train}]\n")
    for name in (".train", "train.", "a..b", "a/b", ""):
        assert named(name) == [("bad_value", "recipe.yaml:15:17", "stages.0.name")]
