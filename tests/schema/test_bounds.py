"""Every number a recipe may hold has bounds, every list a length, and every name that becomes a file is bounded."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import annotated_types
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from wavalign.plugins.registry import KINDS, Registry
from wavalign.schema.objective import TermSection
from wavalign.schema.optim import OptimSection
from wavalign.schema.recipe import Recipe
from wavalign.schema.rollout import RolloutSection
from wavalign.schema.runtime import RuntimeSection
from wavalign.schema.sampling import EvaluationSampling
from wavalign.schema.shapes import Options, field_options, options
from wavalign.schema.stage import Stage

EXCEPTIONS = {
    "TermSection.share": "Share.parse holds it against its bounds, with the words `gate` and `1 - gate`",
    "Component.params": "a plugin's own options, whose Params are looked at by themselves",
    "WeightedComponent.params": "the same",
    "RewardSection.params": "the same",
}
"""`Model.field` -> why it needs no bounds of its own."""


def all_models() -> Iterator[type[BaseModel]]:
    yield Recipe
    registry = Registry()
    for kind in KINDS:
        yield from (registry.get(kind, type_).Params for type_ in registry.types(kind))


def unbounded(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """Places in `model` and all models below it that take any number or a list of any length."""
    if model in seen:
        return
    seen.add(model)
    for name in model.model_fields:
        place = f"{model.__name__}.{name}"
        if place not in EXCEPTIONS:
            yield from _unbounded(field_options(model, name), place, seen)


def _unbounded(accepted: Options, place: str, seen: set[type[BaseModel]]) -> Iterator[str]:
    for option in accepted:
        arguments = [each for each in get_args(option.kind) if each is not Ellipsis]
        if option.model is not None:
            yield from unbounded(option.model, seen)
        elif option.kind in (int, float):
            lower = any(isinstance(each, annotated_types.Ge | annotated_types.Gt) for each in option.metadata)
            upper = any(isinstance(each, annotated_types.Le | annotated_types.Lt) for each in option.metadata)
            if not (lower and upper):
                yield place
        elif option.is_sequence:
            endless = Ellipsis in get_args(option.kind)
            if endless and not any(isinstance(each, annotated_types.MaxLen) for each in option.metadata):
                yield f"{place}: its length"
            for argument in arguments:
                yield from _unbounded(options(argument), place, seen)
        elif option.is_mapping:
            yield from _unbounded(options(arguments[1]), place, seen)  # keys are text; a file holds only so many


def test_every_number_has_bounds_and_every_list_a_length() -> None:
    seen: set[type[BaseModel]] = set()
    assert [place for model in all_models() for place in unbounded(model, seen)] == []


def test_the_exceptions_exist() -> None:
    seen: set[type[BaseModel]] = set()
    for model in all_models():
        list(unbounded(model, seen))
    names = {f"{model.__name__}.{name}" for model in seen for name in model.model_fields}
    assert set(EXCEPTIONS) <= names


def test_the_walk_finds_what_is_unbounded() -> None:
    class Loose(BaseModel):
        number: int
        numbers: tuple[float, ...] = ()
        inner: dict[str, float] = {}

    assert list(unbounded(Loose, set())) == [
        "Loose.number",
        "Loose.numbers: its length",
        "Loose.numbers",
        "Loose.inner",
    ]


@pytest.mark.parametrize(
    ("section", "content"),
    [
        (OptimSection, {"betas": [1, 2]}),
        (OptimSection, {"betas": [0.9, 1.0]}),
        (OptimSection, {"learning_rate": float("inf")}),
        (OptimSection, {"epsilon": 1e-320}),
        (RolloutSection, {"max_new_tokens": 10**9}),
        (RolloutSection, {"temperature": 1e-300}),
        (RuntimeSection, {"threads": 10**6}),
        (RuntimeSection, {"reward_workers": 10**6}),
        (EvaluationSampling, {"temperature": 1e-300}),
        (TermSection, {"loss": {"type": "grpo"}, "tokens": {"text": -1}}),
        (Stage, {"name": "a" * 65, "model": {"architecture": "vita"}}),
        (Stage, {"name": "../a", "model": {"architecture": "vita"}}),
        (Stage, {"name": "a", "model": {"architecture": "vita"}, "rewards": {"a/b": {"type": "answer_match"}}}),
        (Stage, {"name": "a", "model": {"architecture": "vita"}, "data": {"evaluation": {"../x": "spoken_world"}}}),
        (Stage, {"name": "a", "model": {"architecture": "vita", "adapter": {"rank": 2**63 - 1}}}),
    ],
)
def test_what_the_program_cannot_honour_is_refused(section: type[BaseModel], content: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        section.model_validate(content)


def test_greedy_and_small_temperatures_stay() -> None:
    for value in (0, 1e-4, 0.7):
        assert EvaluationSampling(temperature=value).temperature == value


def test_the_schema_for_editors_knows_the_bounds() -> None:
    text = json.dumps(TypeAdapter(RuntimeSection).json_schema())
    assert '"maximum": 1024' in text
