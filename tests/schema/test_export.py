"""The JSON Schema that editors complete and check recipes with."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from tests.schema.conftest import VALID, Bench
from wavalign.schema.base import Params, Section
from wavalign.schema.component import Component
from wavalign.schema.export import PLACES, recipe_schema
from wavalign.schema.recipe import Recipe
from wavalign.schema.source import read_source


class Slope(Section):
    """How fast."""

    steepness: float = Field(default=5.0, gt=0)
    """Per unit of reward."""


class Adaptive(Params):
    """Follows the rewards."""

    ceiling: float = Field(le=1)
    """Highest value."""
    slope: Slope = Slope()
    """Its slope."""


class Split(Params):
    """Which part."""

    split: str = "train"
    """Name of the part."""


COMPONENTS: Mapping[str, Mapping[str, type[Params]]] = {
    "architecture": {"vita": Params},
    "data": {"spoken_world": Split},
    "reward": {"answer_match": Params},
    "gate": {"rollout_adaptive": Adaptive, "constant": Params},
    "loss": {"grpo": Params, "cross_entropy": Params},
    "mask": {"every_other": Params},
}


@pytest.fixture
def validator() -> Draft202012Validator:
    """A checker of recipes."""
    schema = recipe_schema(COMPONENTS)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_a_recipe_fits(bench: Bench, validator: Draft202012Validator) -> None:
    text = VALID + (
        "extends: base.yaml\n"
        "stages: [{name: a, objective: {gate: {ceiling: 0.5}, terms: {rl: {tokens: {text: 1}}}}, steps: 3}]\n"
        "runtime: {trackers: [tensorboard], processes: auto}\n"
    )
    bench.write({"r.yaml": text.replace("extends: base.yaml\n", ""), "base.yaml": "seed: 1"})
    assert list(validator.iter_errors({**read_source("r.yaml").tree, "extends": "base.yaml"})) == []


@pytest.mark.parametrize(
    ("replaced", "by"),
    [
        ("name:", "nam:"),
        ("preset:", "prset:"),
        ("type: vita", "type: vitta"),
        ("split: train", "splt: train"),
        ("split: train", "split: 3"),
        ("weight: 0.5", "weight: -1"),
        ("ceiling: 0.8", "ceiling: 2"),
        ("ceiling: 0.8", "ceilng: 0.8"),
        ("ceiling: 0.8", "slope: {steepness: 0}"),
        ("type: rollout_adaptive", "type: constant"),
        ("tokens: text", "tokens: txt"),
        ("tokens: text", "tokens: {type: every_oter}"),
        ("cross_entropy", "cross_entropi"),
    ],
)
def test_mistakes_are_found(bench: Bench, validator: Draft202012Validator, replaced: str, by: str) -> None:
    assert replaced in VALID
    bench.write({"r.yaml": VALID.replace(replaced, by, 1)})
    assert not validator.is_valid(read_source("r.yaml").tree)


@pytest.mark.parametrize(
    "evaluation",
    ["{type: spoken_world}", "[{type: spoken_world}, spoken_world]", "{a: spoken_world, b: [spoken_world]}"],
)
def test_short_forms_of_sources(bench: Bench, validator: Draft202012Validator, evaluation: str) -> None:
    bench.write({"r.yaml": VALID})
    tree = read_source("r.yaml", [f"data.evaluation={evaluation}"]).tree
    assert list(validator.iter_errors(tree)) == []


def test_types_are_alternatives_told_apart_by_a_constant() -> None:
    definitions = recipe_schema(COMPONENTS)["$defs"]
    assert definitions["gate"]["oneOf"][:2] == [
        {"$ref": "#/$defs/gate.constant"},
        {"$ref": "#/$defs/gate.rollout_adaptive"},
    ]
    adaptive = definitions["gate.rollout_adaptive"]
    assert adaptive["properties"]["type"]["const"] == "rollout_adaptive"
    assert adaptive["description"] == "Follows the rewards."
    assert adaptive["properties"]["ceiling"]["description"] == "Highest value. Required."
    assert definitions["gate.rollout_adaptive.Slope"]["properties"]["steepness"]["description"] == "Per unit of reward."
    assert set(definitions["reward.answer_match"]["properties"]) == {
        "calibration",
        "type",
        "weight",
        "scale",
        "on_failure",
        "on_absent",
        "guard",
        "below",
        "stage",
        "timeout",
    }


def test_kinds_without_plugins_take_anything() -> None:
    schema = recipe_schema({})
    assert Draft202012Validator(schema).is_valid({"name": "x", "model": {"architecture": {"type": "a", "b": 1}}})


def sections(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Every (section, field) that holds components, looked up in the models themselves."""
    for name, info in model.model_fields.items():
        for each in members(info.annotation):
            if issubclass(each, Component):
                yield model.__name__, name
            elif issubclass(each, BaseModel):
                yield from sections(each)


def members(annotation: Any) -> Iterator[type[BaseModel]]:
    """All models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from members(argument)


def test_every_place_of_a_component_has_a_kind() -> None:
    assert set(sections(Recipe)) == set(PLACES)


def test_no_reference_leads_nowhere() -> None:
    schema = recipe_schema(COMPONENTS)

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for item in value.values():
                yield from references(item)
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    found = set(references(schema))
    assert found
    assert found <= {f"#/$defs/{name}" for name in schema["$defs"]}
