"""A recipe file to a Recipe, or everything wrong with it, each at its place and in plain words."""

import subprocess
import sys
from typing import Annotated, Literal

import pytest
from pydantic import Field

from tests.schema.conftest import Bench
from wavalign.errors import RecipeError
from wavalign.schema.base import Params, RecipePath, Section
from wavalign.schema.component import Component
from wavalign.schema.loading import load_recipe, read_params
from wavalign.schema.source import read_source


def test_a_recipe_without_stages_is_one_stage(bench: Bench, valid: str) -> None:
    (stage,) = bench.load(valid).recipe.stages
    assert (stage.name, stage.type, stage.steps) == ("train", "train", 100)
    assert stage.objective is not None
    assert stage.objective.terms["sft"].loss == Component(type="cross_entropy")
    assert stage.objective.gate == Component(type="rollout_adaptive", params={"ceiling": 0.8})
    assert stage.data.prompts is not None
    assert dict(stage.data.prompts[0].params) == {"split": "train"}


def test_stages_lie_over_the_shared_sections(bench: Bench, valid: str) -> None:
    text = valid + (
        "stages:\n"
        "  - {name: warm, steps: 3, optim: {learning_rate: 1e-3}}\n"
        "  - {name: align, start: warm, rewards: {answer: {weight: 2}}, objective: {gate: !replace {type: constant}}}\n"
    )
    warm, align = bench.load(text).recipe.stages
    assert (warm.steps, warm.optim.learning_rate, align.steps, align.optim.learning_rate) == (3, 1e-3, 100, 1e-6)
    assert (warm.rewards["answer"].weight, align.rewards["answer"].weight) == (0.5, 2)
    assert list(align.rewards["answer"].scale or ()) == [1, 5]
    assert warm.objective is not None
    assert align.objective is not None
    assert warm.objective.gate == Component(type="rollout_adaptive", params={"ceiling": 0.8})
    assert align.objective.gate == Component(type="constant")
    assert list(align.objective.terms) == ["rl", "sft"]


def test_marks_of_merged_stages_lead_to_what_was_written(bench: Bench, valid: str) -> None:
    bench.write({"base.yaml": valid})
    source = bench.load("extends: base.yaml\nstages: [{name: a, rollout: {top_k: 5}}, {name: b}]\n").source
    assert str(source.where(("stages", 1, "objective", "gate", "params", "ceiling"))) == "base.yaml:10:43"
    assert source.dotted(("stages", 1, "objective", "gate", "ceiling")) == "objective.gate.ceiling"
    assert source.dotted(("stages", 0, "rollout", "top_k")) == "stages.0.rollout.top_k"
    assert str(source.where(("stages", 0, "rollout", "top_k"))) == "recipe.yaml:2:37"
    assert str(source.where(("stages", 0, "data", "prompts", 0, "split"))) == "base.yaml:6:40"
    assert str(source.where(("stages", 0, "objective", "nothing", "here"))) == "base.yaml:9:1"
    assert source.dotted(("stages", 0, "objective", "nothing")) == "objective.nothing"


@pytest.mark.parametrize(
    ("replaced", "by", "code", "place", "path", "says"),
    [
        ("name: demo", "nam: demo", "unknown_key", "1:1", "nam", "did you mean `name`?"),
        ("name: demo", "name: 5", "wrong_type", "1:7", "name", '"5"'),
        ("name: demo", "name: my run", "bad_value", "1:7", "name", "not allowed"),
        ("name: demo", "name: demo\nstart: x", "unknown_key", "2:1", "start", "`stages`"),
        ("preset: tiny", "presett: tiny", "unknown_key", "4:3", "model.presett", "did you mean `preset`?"),
        ("preset: tiny", "freeze: [trunc]", "bad_value", "4:12", "model.freeze.0", "did you mean `trunk`?"),
        ("preset: tiny", "freeze: trunk", "wrong_type", "4:11", "model.freeze", "[trunk]"),
        ("  architecture: {type: vita}\n", "", "missing_key", "2:1", "model.architecture", "Model family"),
        ("type: vita", "typ: vita", "missing_key", "3:3", "model.architecture.type", "no `type`"),
        ("{type: vita}", "{type: 5}", "wrong_type", "3:24", "model.architecture.type", "a text"),
        ("{type: vita}", "3", "wrong_type", "3:17", "model.architecture", "a plugin"),
        ("{type: vita}", "", "wrong_type", "3:16", "model.architecture", "nothing"),
        ("split: train", "weight: 0", "out_of_range", "6:41", "data.prompts.weight", "more than 0"),
        ("split: train", "weight: '1'", "wrong_type", "6:41", "data.prompts.weight", "write 1,"),
        ("{type: spoken_world, split: train}", "[]", "bad_value", "6:12", "data.prompts", "at least 1 entry"),
        ("  prompts: ", "  evaluation: ", "", "", "", ""),
        ("  prompts: {", "  evaluation: {weight: x, ", "wrong_type", "6:24", "data.evaluation.weight", "a number"),
        (
            "  prompts: {type: spoken_world,",
            "  evaluation: {type: 5, heldout: {type: c},",
            "wrong_type",
            "6:22",
            "data.evaluation.type",
            "a text",
        ),
        ("weight: 0.5", "weight: true", "wrong_type", "8:40", "rewards.answer.weight", "a number"),
        ("weight: 0.5", "weight: yes", "wrong_type", "8:40", "rewards.answer.weight", "a number"),
        ("[1, 5]", "[5, 1]", "bad_value", "8:52", "rewards.answer.scale", "rise"),
        ("[1, 5]", "[1]", "bad_value", "8:52", "rewards.answer.scale", "a list of 2"),
        ("[1, 5]", "[1, 2, 3]", "bad_value", "8:52", "rewards.answer.scale", "at most 2 entries"),
        ("[1, 5]", "[1, a]", "wrong_type", "8:56", "rewards.answer.scale.1", "a number"),
        ("scale: [1, 5]", "on_failure: drop_samples", "bad_value", "8:57", "rewards.answer.on_failure", "drop_sample"),
        ("tokens: text", "tokens: {tex: 1}", "unknown_key", "12:39", "objective.terms.rl.tokens.tex", "`text`?"),
        ("tokens: text", "tokens: {text: x}", "wrong_type", "12:45", "objective.terms.rl.tokens.text", "a number"),
        ("tokens: text", "tokens: 5", "wrong_type", "12:38", "objective.terms.rl.tokens", "`audio`"),
        ("tokens: text", "tokens: {type: 5}", "wrong_type", "12:45", "objective.terms.rl.tokens.type", "a text"),
        ("tokens: text", "token: text", "unknown_key", "12:30", "objective.terms.rl.token", "`tokens`?"),
        ("share: gate", "share: [gate]", "wrong_type", "12:51", "objective.terms.rl.share", "a number"),
        ("share: gate", "weight: -1", "out_of_range", "12:52", "objective.terms.rl.weight", "at least 0"),
    ],
)
def test_one_mistake(
    bench: Bench, valid: str, replaced: str, by: str, code: str, place: str, path: str, says: str
) -> None:
    assert replaced in valid
    text = valid.replace(replaced, by, 1)
    if not code:
        bench.load(text)
        return
    found = [each for each in bench.problems(text) if each.code != "missing_key" or code == "missing_key"]
    (problem,) = found
    assert (problem.code, str(problem.where), problem.path) == (code, f"recipe.yaml:{place}", path)
    assert says in f"{problem.message} {problem.hint}"
    assert "pydantic" not in problem.message
    assert "Input should" not in problem.message


@pytest.mark.parametrize(
    ("line", "code", "column", "path", "says"),
    [
        ("rollout: {group_size: 0}", "out_of_range", 23, "rollout.group_size", "at least 1, got 0"),
        ("rollout: {group_size: 4.5}", "wrong_type", 23, "rollout.group_size", "a whole number"),
        ("rollout: {max_new_tokens: 1_000}", "wrong_type", 27, "rollout.max_new_tokens", "write 1000,"),
        ("rollout: {top_p: 1.5}", "out_of_range", 18, "rollout.top_p", "at most 1"),
        ("rollout: {top_p: .nan}", "non_finite", 18, "rollout.top_p", ".nan"),
        ("batch:", "wrong_type", 7, "batch", "remove the line"),
        ("batch: 5", "wrong_type", 8, "batch", "`prompts`"),
        ("steps: ten", "wrong_type", 8, "steps", "a whole number"),
        ("optim: {learning_rate: '1e-6'}", "wrong_type", 24, "optim.learning_rate", "without quotes"),
        ("runtime: {engine: {type: deepsped}}", "bad_value", 26, "runtime.engine.type", "did you mean `deepspeed`?"),
        ("runtime: {engine: {zero: 7}}", "bad_value", 26, "runtime.engine.zero", "`0`, `1`, `2` or `3`"),
        ("runtime: {processes: 0}", "out_of_range", 22, "runtime.processes", "at least 1"),
        ("runtime: {processes: atuo}", "wrong_type", 22, "runtime.processes", "did you mean `auto`?"),
        ("runtime: {report: yes}", "wrong_type", 19, "runtime.report", "did you mean `true`?"),
        ("runtime: {trackers: tensorboard}", "wrong_type", 21, "runtime.trackers", "[tensorboard]"),
        ("evaluation: {metrics: [a]}", "wrong_type", 23, "evaluation.metrics", "a mapping"),
        ("stages: []", "bad_value", 9, "stages", "at least 1 entry"),
        ("stages: 5", "wrong_type", 9, "stages", "a list"),
        ("stages: [5]", "wrong_type", 10, "stages.0", "a mapping"),
        ("stages: [{steps: 1}]", "missing_key", 10, "stages.0.name", "entry 0 of `stages`"),
        ("stages: [{name: a, type: trian}]", "bad_value", 26, "stages.0.type", "did you mean `train`?"),
        ("stages: [{name: a, runtime: {}}]", "unknown_key", 20, "stages.0.runtime", "top level"),
        ("stages: [{name: a}, {name: a}]", "bad_value", 28, "stages.1.name", "two stages"),
        ("stages: [{name: a}, {name: b, start: aa}]", "bad_value", 38, "stages.1.start", "did you mean `a`?"),
        ("stages: [{name: a, start: a}]", "bad_value", 27, "stages.0.start", "earlier"),
    ],
)
def test_one_mistake_in_a_further_line(
    bench: Bench, valid: str, line: str, code: str, column: int, path: str, says: str
) -> None:
    (problem,) = bench.problems(f"{valid}{line}\n")
    assert (problem.code, str(problem.where), problem.path) == (code, f"recipe.yaml:14:{column}", path)
    assert says in f"{problem.message} {problem.hint}"


@pytest.mark.parametrize("value", ["auto", "2"])
def test_processes_may_be_counted_or_left_to_the_machine(bench: Bench, valid: str, value: str) -> None:
    bench.load(f"{valid}runtime: {{processes: {value}}}\n")


def test_whole_numbers_may_be_written_as_powers(bench: Bench, valid: str) -> None:
    assert bench.load(f"{valid}steps: 1e3\n").recipe.stages[0].steps == 1000


def test_everything_at_once_and_in_file_order(bench: Bench, valid: str) -> None:
    bench.write({"base.yaml": valid.replace("weight: 0.5", "weight: -1").replace("preset", "prest")})
    text = "extends: base.yaml\nsed: 7\nrollout: {group_size: 0, top_p: .inf}\nseed: 1\nseed: 2\n"
    assert bench.places(text, "optim.betas=[1]", "steps=-1") == [
        ("unknown_key", "recipe.yaml:2:1", "sed"),
        ("out_of_range", "recipe.yaml:3:23", "rollout.group_size"),
        ("non_finite", "recipe.yaml:3:33", "rollout.top_p"),
        ("duplicate_key", "recipe.yaml:5:1", "seed"),
        ("unknown_key", "base.yaml:4:3", "model.prest"),
        ("out_of_range", "base.yaml:8:40", "rewards.answer.weight"),
        ("out_of_range", "--set:1:7", "steps"),
        ("bad_value", "--set:1:13", "optim.betas"),
        ("out_of_range", "--set:1:14", "optim.betas.0"),
    ]


def test_a_mistake_in_a_shared_section_is_one_problem(bench: Bench, valid: str) -> None:
    text = valid.replace("weight: 0.5", "weight: -1") + (
        "stages:\n  - {name: a}\n  - {name: b, rewards: {answer: {timeout: 0}}}\n  - {name: c}\n"
    )
    assert bench.places(text) == [
        ("out_of_range", "recipe.yaml:8:40", "rewards.answer.weight"),
        ("out_of_range", "recipe.yaml:16:43", "stages.1.rewards.answer.timeout"),
    ]


def test_what_all_stages_lack_is_one_problem(bench: Bench) -> None:
    (problem,) = bench.problems("name: x\nstages:\n  - {name: a}\n  - {name: b}\n")
    assert (problem.code, str(problem.where), problem.path) == ("missing_key", "recipe.yaml:1:1", "model")
    text = "name: x\nmodel: {preset: a}\nstages: [{name: a}, {name: b, model: {freeze: [mtp]}}]\n"
    assert bench.places(text) == [("missing_key", "recipe.yaml:2:1", "model.architecture")]


def test_a_key_that_only_one_stage_lacks(bench: Bench) -> None:
    text = "name: x\nstages: [{name: a}, {name: b, model: {architecture: vita, preset: t}}]\n"
    assert bench.places(text) == [("missing_key", "recipe.yaml:2:10", "stages.0.model")]


def test_load_says_where_a_missing_recipe_was_looked_for(bench: Bench) -> None:
    bench.write({"recipe.yaml": "name: x"})
    with pytest.raises(RecipeError) as caught:
        load_recipe("recip.yaml")
    assert "recipe.yaml" in caught.value.problems[0].hint


# --- plugin options ---------------------------------------------------------------------------------------------------


class Inner(Section):
    """Nested."""

    file: RecipePath | None = None
    """A file."""
    level: int = Field(default=1, ge=0)
    """A level."""


class Constant(Section):
    """One shape."""

    shape: Literal["constant"]
    """Which."""
    value: float
    """How much."""


class Rising(Section):
    """Another shape."""

    shape: Literal["rising"]
    """Which."""
    slope: float
    """How fast"""


class Options(Params):
    """Options of a made-up gate."""

    ceiling: float = Field(gt=0, le=1)
    """Highest value."""
    data: tuple[RecipePath, ...] = ()
    """Files."""
    inner: Inner = Inner()
    """More."""
    form: Annotated[Constant | Rising, Field(discriminator="shape")] | None = None
    """One of two."""
    limit: int | Inner = 3
    """A number or more."""
    api_key: str = ""
    """A secret."""


def gate(bench: Bench, options: str) -> tuple[Options | None, list[tuple[str, str, str, str]]]:
    """Load a recipe whose gate has `options` and read them as Options."""
    text = f"name: x\nmodel: {{architecture: vita}}\nobjective:\n  terms: {{a: {{loss: b}}}}\n  gate: {options}\n"
    loaded = bench.load(text)
    (stage,) = loaded.recipe.stages
    assert stage.objective is not None
    assert stage.objective.gate is not None
    made, problems = read_params(
        Options,
        stage.objective.gate.params,
        prefix=("stages", 0, "objective", "gate"),
        source=loaded.source,
        beside=("type",),
    )
    return made, [(each.code, str(each.where), each.path, f"{each.message} {each.hint}") for each in problems]


@pytest.mark.parametrize(
    ("options", "code", "place", "path", "says"),
    [
        ("{type: g, ceilin: 1}", "unknown_key", "5:19", "ceilin", "did you mean `ceiling`?"),
        ("{type: g, ceiling: 2}", "out_of_range", "5:28", "ceiling", "at most 1"),
        ("{type: g, ceiling: '1'}", "wrong_type", "5:28", "ceiling", "write 1,"),
        ("{type: g, params: {ceiling: 2}}", "out_of_range", "5:37", "params.ceiling", "at most 1"),
        ("{type: g, ceiling: 1, inner: {leve: 2}}", "unknown_key", "5:39", "inner.leve", "did you mean `level`?"),
        ("{type: g, ceiling: 1, form: {shape: risin}}", "bad_value", "5:45", "form.shape", "did you mean `rising`?"),
        ("{type: g, ceiling: 1, form: {shape: rising}}", "missing_key", "5:31", "form.slope", "How fast"),
        (
            "{type: g, ceiling: 1, form: {shape: rising, slop: 1, slope: 2}}",
            "unknown_key",
            "5:53",
            "form.slop",
            "slope",
        ),
        ("{type: g, ceiling: 1, limit: {level: -1}}", "out_of_range", "5:46", "limit.level", "at least 0"),
        ("{type: g, ceiling: 1, limit: x}", "wrong_type", "5:38", "limit", "a whole number"),
    ],
)
def test_plugin_options(bench: Bench, options: str, code: str, place: str, path: str, says: str) -> None:
    made, problems = gate(bench, options)
    assert made is None
    chosen = [each for each in problems if each[0] == code]
    assert [each[:3] for each in chosen] == [(code, f"recipe.yaml:{place}", f"objective.gate.{path}")]
    assert says in chosen[0][3]


@pytest.mark.parametrize("written", ["g", "{type: g}"])
def test_missing_plugin_option(bench: Bench, written: str) -> None:
    _, problems = gate(bench, written)
    ((code, where, path, says),) = problems
    assert (code, where, path) == ("missing_key", "recipe.yaml:5:3", "objective.gate.ceiling")
    assert "Highest value" in says


def test_plugin_options_that_are_right(bench: Bench) -> None:
    made, problems = gate(bench, "{type: g, ceiling: 1, data: [a, s3://b], inner: {file: d/e}, limit: {file: f}}")
    assert not problems
    assert made is not None
    assert made.data == (str(bench.folder / "a"), "s3://b")
    assert made.inner.file == str(bench.folder / "d" / "e")
    assert made.limit == Inner(file=str(bench.folder / "f"))


def test_an_inherited_option_of_another_type_is_explained(bench: Bench) -> None:
    base = "name: x\nmodel: {architecture: vita}\nobjective:\n  terms: {a: {loss: b}}\n  gate: {type: h, old: 1}\n"
    bench.write({"base.yaml": base})
    loaded = bench.load("extends: base.yaml\nobjective: {gate: {type: g, ceiling: 1}}\n")
    objective = loaded.recipe.stages[0].objective
    assert objective is not None
    assert objective.gate is not None
    prefix = ("stages", 0, "objective", "gate")
    _, (problem,) = read_params(Options, objective.gate.params, prefix=prefix, source=loaded.source)
    assert (problem.code, str(problem.where)) == ("unknown_key", "base.yaml:5:19")
    assert "!replace" in problem.hint
    assert "from base.yaml:5" in problem.hint


def test_plain_source_serves_as_well(bench: Bench) -> None:
    bench.write({"r.yaml": "gate: {ceiling: 3}"})
    source = read_source("r.yaml")
    _, (problem,) = read_params(Options, source.tree["gate"], prefix=("gate",), source=source)
    assert (problem.path, str(problem.where)) == ("gate.ceiling", "r.yaml:1:17")


# --- cost -------------------------------------------------------------------------------------------------------------


def test_importing_is_light() -> None:
    script = (
        "import sys, time; start = time.process_time(); import wavalign.schema.loading, wavalign.schema.export;"
        "took = time.process_time() - start;"
        "heavy = {'torch', 'numpy', 'transformers', 'deepspeed'} & set(sys.modules);"
        "print(took); sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in range(3)
    ]
    assert min(float(run.stdout) for run in runs) < 0.5


def test_stages_that_are_one_folder_on_some_disks(bench: Bench, valid: str) -> None:
    (problem,) = bench.problems(valid + "stages: [{name: warm}, {name: Warm}]\n")
    assert problem.path == "stages.1.name" and "`Warm` and `warm` differ in capital letters alone" in problem.message
