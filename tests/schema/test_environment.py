"""Secrets stay out of everything but the hands that use them."""

import copy
import pickle

import pytest

from tests.schema.conftest import Bench
from wavalign.errors import PreflightError
from wavalign.redaction import HIDDEN, REDACTOR
from wavalign.schema.dumping import dump_yaml, recipe_tree
from wavalign.schema.environment import Secret, redact, remember, resolve_secrets, reveal, secret_names

ENVIRON = {"KEY": "s3cr3t", "OTHER": "s3cr3t-longer", "EMPTY": ""}


def test_reveal() -> None:
    value = reveal("${env:KEY}", ENVIRON)
    assert value == "s3cr3t"
    assert "s3cr3t" not in repr(value)
    assert reveal("plain", ENVIRON) == "plain"


@pytest.mark.parametrize("name", ["GONE", "EMPTY"])
def test_unset_variable_is_named_when_used(name: str) -> None:
    with pytest.raises(PreflightError, match=name):
        reveal(f"${{env:{name}}}", ENVIRON)


def test_resolve_and_redact_are_inverse() -> None:
    tree = {"a": ["${env:KEY}", {"b": "x"}], "c": 1}
    resolved = resolve_secrets(tree, ENVIRON)
    assert resolved == {"a": ["s3cr3t", {"b": "x"}], "c": 1}
    assert redact(resolved) == tree
    assert "s3cr3t" not in repr(resolved)
    assert secret_names(tree) == {"KEY"}


def test_copies_do_not_carry_the_secret() -> None:
    secret = Secret("s3cr3t", "KEY")
    assert copy.deepcopy([secret]) == ["${env:KEY}"]
    assert b"s3cr3t" not in pickle.dumps(secret)


def test_texts_under_telling_keys_are_hidden() -> None:
    tree = {"api_key": "abc", "judge_api_key": "abc", "tokens": "text", "pad_token": "<pad>", "password": "${env:P}"}
    assert redact(tree) == {**tree, "api_key": HIDDEN, "judge_api_key": HIDDEN}


def test_the_longest_value_is_hidden_first() -> None:
    remember(["KEY", "OTHER", "EMPTY"], ENVIRON)
    assert REDACTOR.text("k=s3cr3t-longer s3cr3t") == "k=${env:OTHER} ${env:KEY}"


def test_what_is_revealed_is_hidden_from_then_on() -> None:
    assert REDACTOR.text("it was s3cr3t") == "it was s3cr3t"
    reveal("${env:KEY}", ENVIRON)
    assert REDACTOR.text("it was s3cr3t") == "it was ${env:KEY}"


def test_a_value_too_short_to_be_hidden_is_refused() -> None:
    with pytest.raises(PreflightError, match="KEY holds fewer than 4 characters") as caught:
        reveal("${env:KEY}", {"KEY": "q7 "})
    assert "q7" not in caught.value.message + caught.value.hint


def test_a_recipe_keeps_the_placeholder(bench: Bench, valid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "s3cr3t")
    loaded = bench.load(valid, "rewards.answer.api_key=${env:KEY}", "rewards.answer.unset=${env:GONE}")
    assert loaded.recipe.stages[0].rewards["answer"].params["api_key"] == "${env:KEY}"
    text = dump_yaml(recipe_tree(loaded.recipe))
    assert "${env:KEY}" in text
    assert "s3cr3t" not in text


@pytest.mark.parametrize("value", ["Bearer ${env:KEY}", "${env:KEY} ", "${env:}", "${env:a-b}", "${env:KEY"])
def test_a_placeholder_is_a_whole_value(bench: Bench, valid: str, value: str) -> None:
    text = valid + f'description: "{value}"\n'
    assert bench.places(text) == [("bad_secret", "recipe.yaml:14:14", "description")]
