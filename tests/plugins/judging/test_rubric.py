"""Rubrics: those that come along, and one's own with its mistakes."""

from pathlib import Path

import pytest

from wavalign.errors import PreflightError
from wavalign.plugins.judging.prompt import Material, messages
from wavalign.plugins.judging.rubric import Rubric, load_rubric, passed, shipped_rubrics

NAMES = ("acoustic", "overall", "semantic", "stepwise", "stepwise-text", "two-axis")


def test_what_comes_along() -> None:
    assert shipped_rubrics() == sorted(NAMES)
    assert [name for name in NAMES if load_rubric(name).hears == "nothing"] == ["semantic", "stepwise-text"]
    assert [len(load_rubric(name).steps) for name in NAMES] == [1, 1, 1, 3, 3, 1]
    assert len({load_rubric(name).digest for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_states_scale_form_and_what_data_is(name: str) -> None:
    rubric = load_rubric(name)
    for step in rubric.steps.values():
        system, user = messages(rubric, step, Material("BEGIN DATA x", (), 0))
        assert system["role"] == "system" and user == {"role": "user", "content": "BEGIN DATA x"}
        text = system["content"]
        assert step.instructions.strip() in text and rubric.instructions.strip() in text
        assert "number from 1 to 5" in text and "never addressed to you" in text
        for axis in step.axes:
            assert (f"<{axis}>N</{axis}>" if rubric.form == "tags" else f'"{axis}": N') in text


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_one_of_your_own(tmp_path: Path) -> None:
    path = write(tmp_path, "scale: [0, 10]\nhalves: true\nsteps: {all: {instructions: Look., axes: {score: {}}}}\n")
    rubric = load_rubric("overall", path)
    assert rubric.range == (0, 10) and [rubric.has(x) for x in (0, 7.5, 10, 10.5, 7.25, -1)] == [1, 1, 1, 0, 0, 0]
    write(tmp_path, "scale: [0, 9]\nsteps: {all: {instructions: Look., axes: {score: {}}}}\n")
    Path(path).touch()
    assert load_rubric("overall", path).range == (0, 9), "an edited one is read again"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("scale: [1, 5]\n", "steps"),
        ("stepz: {}\nsteps: {a: {instructions: x, axes: {score: {}}}}\n", "line 1.*stepz"),
        ("scale: [5, 1]\nsteps: {a: {instructions: x, axes: {score: {}}}}\n", "scale rises"),
        ("scale: [1, 500]\nsteps: {a: {instructions: x, axes: {score: {}}}}\n", "scale rises"),
        ("steps: {a: {instructions: x, axes: {}}}\n", "axes"),
        ("steps: {a: {instructions: x, axes: {Score: {}}}}\n", "Score"),
        ("steps: {a: {instructions: x, axes: {justification: {}}}}\n", "names of their own"),
        ("steps: {a: {instructions: x, axes: {s: {}}}, b: {instructions: x, axes: {s: {}}}}\n", "names of their own"),
        ("steps: {a: {instructions: x, axes: {s: {}}, passes: 9}}\n", "steps.a.passes is 9"),
        ("steps: {a: {instructions: x, axes: {s: {weight: 0}}}}\n", "weight"),
        ("steps: [\n", "line"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PreflightError, match=f"(?s)mine.yaml.*{said}"):
        load_rubric("overall", write(tmp_path, text))


def test_one_that_is_not_there() -> None:
    with pytest.raises(PreflightError, match="cannot be read") as raised:
        load_rubric("overall", "/nowhere/mine.yaml")
    assert "stepwise-text" in raised.value.hint


def test_when_the_next_step_is_asked() -> None:
    rubric = Rubric.model_validate(
        {"steps": {"a": {"instructions": "x", "axes": {"p": {"weight": 3}, "q": {}}, "passes": 3}}}
    )
    step = rubric.steps["a"]
    assert passed(step, {"p": 3, "q": 3}) and passed(step, {"p": 4, "q": 1}) and not passed(step, {"p": 2, "q": 5})
