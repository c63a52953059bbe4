"""Mistakes of the schema and of the passes behind it come in one round, and none that only follows from another."""

from pathlib import Path

import pytest
import yaml

from tests.toy.compiled import HERE
from tests.toy.world import toy_recipe
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.errors import RecipeError
from wavalign.schema.loading import read_recipe

WHOLE = """\
name: demo
model: {architecture: {type: vita}, preset: tiny, tokenizer: words.json}
data: {prompts: {type: spoken_world, split: train}, demonstrations: {type: spoken_world, split: demonstrations}}
rewards: {answer: {type: answer_match, weight: 0.5}}
objective:
  gate: {type: rollout_adaptive, ceiling: 0.8}
  terms:
    rl: {loss: {type: grpo}, tokens: text, share: gate}
    sft: {loss: cross_entropy, share: 1 - gate}
"""


def found(folder: Path, text: str, *overrides: str) -> list[tuple[str, str]]:
    """(code, path) of every problem of a recipe."""
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        compile_recipe(read_recipe(str(file), overrides), HERE)
    return [(each.code, each.path) for each in caught.value.problems]


def test_schema_plugins_rules_and_sizes_in_one_round(tmp_path: Path) -> None:
    text = WHOLE.replace("ceiling: 0.8", "ceiling: 8").replace("answer_match", "answer_mach")
    text += "sed: 7\noptim: {learning_rate: -1}\nruntime: {engine: {zero: 2}}\nbatch: {prompts: 5}\n"
    assert found(tmp_path, text) == [
        ("unknown_type", "rewards.answer.type"),
        ("out_of_range", "objective.gate.ceiling"),
        ("unknown_key", "sed"),
        ("out_of_range", "optim.learning_rate"),
        ("conflict", "runtime.engine.zero"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("gate: {type: rollout_adaptive, ceiling: 0.8}", "gate: 5", ("wrong_type", "objective.gate")),
        ("rewards: {answer: {type: answer_match, weight: 0.5}}", "rewards: 5", ("wrong_type", "rewards")),
        ("weight: 0.5", "weight: -1", ("out_of_range", "rewards.answer.weight")),
        ("{type: vita}", "{type: 5}", ("wrong_type", "model.architecture.type")),
        ("loss: cross_entropy, ", "", ("missing_key", "objective.terms.sft.loss")),
        ("prompts: {type: spoken_world, split: train}, ", "prompts: 5, ", ("wrong_type", "data.prompts")),
        ("name: demo", "name: 'a b'", ("bad_value", "name")),
        ("name: demo\n", "", ("missing_key", "name")),
        ("preset: tiny", "preset: 7", ("wrong_type", "model.preset")),
        ("name: demo", "name: demo\nbatch: {prompts: '5'}\nruntime: {processes: 3}", ("wrong_type", "batch.prompts")),
        ("name: demo", "name: demo\nplugins: 5", ("wrong_type", "plugins")),
        ("name: demo", "name: demo\nseed: 1\nseed: 2", ("duplicate_key", "seed")),
        ("name: demo", "name: demo\nrollout: {temperature: .nan}", ("non_finite", "rollout.temperature")),
        ("name: demo", "name: demo\nruntime: {trackers: [{type: 5}]}", ("wrong_type", "runtime.trackers.0.type")),
        ("name: demo", "name: demo\nstages: [{name: a}, {name: a}]", ("bad_value", "stages.1.name")),
        ("name: demo", "name: demo\nstages: [{name: a}, 5]", ("wrong_type", "stages.1")),
        ("name: demo", "name: demo\nstages: 5", ("wrong_type", "stages")),
    ],
)
def test_one_mistake_stays_one_problem(old: str, new: str, problem: tuple[str, str], tmp_path: Path) -> None:
    assert old in WHOLE
    assert found(tmp_path, WHOLE.replace(old, new, 1)) == [problem]


def test_a_missing_model_is_one_problem(tmp_path: Path) -> None:
    lines = [line for line in WHOLE.splitlines() if not line.startswith("model")]
    assert found(tmp_path, "\n".join(lines)) == [("missing_key", "model")]


def test_a_right_recipe_compiles_as_before(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert compile_recipe(read_recipe(str(file)), HERE).stages


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("batch={prompts: 1000000, demonstrations: 16}", ("geometry", "batch")),
        ("rollout={max_new_tokens: 131072, group_size: 4096}", ("geometry", "rollout.max_new_tokens")),
    ],
)
def test_numbers_that_are_too_many_together(override: str, problem: tuple[str, str], tmp_path: Path) -> None:
    assert found(tmp_path, WHOLE, override) == [problem]
