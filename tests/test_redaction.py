"""Secrets are recognised by value in every form and by pattern; sentences and vocabularies are left alone."""

import json
import time
import unicodedata
from typing import Literal

import pytest

from tests.toy.leaky import disguises
from wavalign.redaction import HIDDEN, Redactor, hide_patterns, names_secret
from wavalign.schema.masking import masked

SECRETS = ["c4nary-Zx91-q", "Zq\"7/ü %&\\<'+=x", "one line\nand another line\n", "q#7Z", "ключ-от-двери"]


@pytest.mark.parametrize("secret", SECRETS)
def test_every_disguise_of_a_known_value(secret: str) -> None:
    redactor = Redactor()
    redactor.learn(secret, "${env:KEY}")
    for disguise in disguises(secret):
        shown = redactor.text(f"before {disguise} after")
        assert disguise not in shown
        assert shown.startswith("before ")
        assert shown.endswith(" after")
        assert redactor.text(shown) == shown


def test_the_lines_of_a_value_and_the_password_of_a_url() -> None:
    redactor = Redactor()
    redactor.learn("first-line-x\nsecond-line-y", "${env:LINES}")
    redactor.learn("https://me:p%40ss-w0rd@host/x", "${env:URL}")
    assert redactor.values("a second-line-y b") == "a ${env:LINES} b"
    assert redactor.values("login p@ss-w0rd failed") == "login ${env:URL} failed"
    assert redactor.values("first-line-x second-line-y") == "${env:LINES}"


def test_names_of_metrics_and_nested_texts() -> None:
    redactor = Redactor()
    redactor.learn("s3cr3t", "${env:KEY}")
    tree = {"a s3cr3t": ["s3cr3t", {"b": ("x", 1.5, None, True)}]}
    assert redactor.tree(tree) == {"a ${env:KEY}": ["${env:KEY}", {"b": ["x", 1.5, None, True]}]}


@pytest.mark.parametrize(
    "secret", ["s\u00e9cret-\u00dcn\u00efcode-9", "\u0130stanbul-k\u00f6pr\u00fc", "STRASSE-\u1e9e-12", "a.*b(c[d+|\\"]
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_letters_that_have_several_spellings(secret: str, form: Literal["NFC", "NFD"]) -> None:
    redactor = Redactor()
    redactor.learn(secret, "${env:KEY}")
    assert redactor.values(f"a {unicodedata.normalize(form, secret)} b") == "a ${env:KEY} b"


@pytest.mark.parametrize("secret", ["answer", "0.25", "true", "1234"])
def test_a_word_or_number_as_a_secret_takes_no_name_and_no_number_apart(secret: str) -> None:
    redactor = Redactor()
    redactor.learn(secret, "${env:KEY}")
    tree = {"answer": 0.25, "heldout/answer": 1234, "true": True, "0.25": 1.0}
    assert redactor.tree(tree) == tree
    assert redactor.tree({"said": secret}) == {"said": "${env:KEY}"}


ENDLESS = {
    "schemes": "a+b." * 25_000 + "://",
    "logins": "x://a:" * 15_000,
    "one word": "token " + "a" * 100_000,
    "dotted": "token " + "a.b" * 33_000,
    "blanks": "token" + " " * 100_000,
    "bearers": ("Bearer " + "a" * 200) * 500,
    "keys": "-----BEGIN PRIVATE KEY-----" * 4_000,
    "backslashes": '"token": "' + "a\\" * 50_000,
}


@pytest.mark.parametrize("text", ENDLESS.values(), ids=list(ENDLESS))
def test_no_text_takes_long(text: str) -> None:
    """Whoever chooses the text (a reward's details, a data file) cannot make a run stand still."""
    redactor = Redactor()
    redactor.learn("c4nary-Zx91-q", "${env:KEY}")
    begun = time.process_time()
    redactor.text(text)
    masked([text])
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hunter2@host/x", "https://me:[redacted]@host/x"),
        ("s3://KEY:a/b+c@bucket/x", "s3://KEY:[redacted]@bucket/x"),
        ("https://ghp-abc@host/x", "https://[redacted]@host/x"),
        ("cannot open 'https://h/x?sig=abc&n=1'", "cannot open 'https://h/x?sig=[redacted]&n=1'"),
        ("api_key=abc, n=3", "api_key=[redacted], n=3"),
        ("{'api_key': 'abc', 'n': 3}", "{'api_key': '[redacted]', 'n': 3}"),
        ('{"password": "a b"}', '{"password": "[redacted]"}'),
        ("judge.apiKey: abc", "judge.apiKey: [redacted]"),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("sent Bearer abcdef0123", "sent Bearer [redacted]"),
        ("key sk-abcdefghijklmnop1234 refused", "key [redacted] refused"),
        ("https://host/cb#access_token=abc&n=1", "https://host/cb#access_token=[redacted]&n=1"),
        ("sent bearer abcdef0123", "sent bearer [redacted]"),
        ("judge --api-key abc --n 3", "judge --api-key [redacted] --n 3"),
        ("Judge(auth='hunter2222', n=3)", "Judge(auth='[redacted]', n=3)"),
        ("{'openai_key': 'k3J9x2Lm81Pw4Rt6'}", "{'openai_key': '[redacted]'}"),
        ("got glpat-abcdefghij0123456789", "got [redacted]"),
    ],
)
def test_patterns(text: str, shown: str) -> None:
    assert hide_patterns(text) == shown
    assert hide_patterns(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "The secret: patience.",
        "the bearer of bad news",
        "a token: one word",
        "pad_token=<pad>, max_tokens=5, tokens=text",
        '{"token": 5, "tokens": "text"}',
        "https://host:8080/a/b and hf://org/name@main/folder",
        "api_key=${env:KEY}",
        "git+ssh://git@host/x",
        "it is a key: the answer",
        "auth='basic', sort_key='recording_date', pass='first'",
        "--max-new-tokens 64 --token-budget 5",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert hide_patterns(text) == text


def test_hidden_json_stays_json() -> None:
    tree = {"token": 5, "api_key": "x", "note": "api_key=\"a\" password='b'", "url": "https://u:p@h"}
    found = json.loads(hide_patterns(json.dumps(tree)))
    assert found["api_key"] == HIDDEN
    assert found["token"] == 5


@pytest.mark.parametrize(
    "name",
    ["api_key", "apiKey", "API-KEY", "HF_TOKEN", "token", "judge_token", "password", "db.passwd", "clientSecret"],
)
def test_names_of_secrets(name: str) -> None:
    assert names_secret(name)


@pytest.mark.parametrize(
    "name",
    ["tokens", "max_new_tokens", "pad_token", "eos_token", "key", "keys", "secretary", "api_key_file", "tokenizer"],
)
def test_other_names(name: str) -> None:
    assert not names_secret(name)


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("a: {api_key: x y, b: 1}", "a: {api_key: * *, b: 1}"),
        ("api_key: x, y # z", "api_key: ** * * *"),
        ("api_key: |\n  x\n  y\nb: 1", "api_key: *\n  *\n  *\nb: 1"),
        ("secrets:\n- x\n- y\nb: 1", "secrets:\n* *\n* *\nb: 1"),
        ("password: 'x\n y' # z\nb: 1", "password: **\n ** # z\nb: 1"),
        ("- api_key: x\n  b: 1", "- api_key: *\n  b: 1"),
        ("api_key: ${env:KEY}\nb: 1", "api_key: ${env:KEY}\nb: 1"),
        ("u: https://me:abc@host # c", "u: https://me:***@host # c"),
        ("rewards.judge.api_key=x", "rewards.judge.api_key=*"),
    ],
)
def test_lines_of_a_recipe_keep_their_columns(text: str, covered: str) -> None:
    assert "\n".join(masked(text.split("\n"))) == covered
