"""A secret planted wherever a person may put one is found nowhere that a run writes or says."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.runs import Ended, here, wavalign
from tests.toy.compiled import Change, put
from tests.toy.leaky import disguises
from tests.toy.world import PLUGINS, toy_recipe, write_recipe

LEAKY = str(PLUGINS.with_name("leaky.py"))
PLAIN = "c4nary-Zx91-q"
ODD = "Zq\"7/ü %&\\<'+=x"
SEVERAL_LINES = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----"
SHORT = "q#7Z"


def traces(secret: str) -> list[str]:
    """What must not be found: the secret in every disguise, and its lines."""
    found = [*disguises(secret), *(line for line in secret.splitlines() if len(line) >= 8 and "KEY" not in line)]
    return [text.removeprefix("Authorization: Bearer ") for text in found]


def found_in(folder: Path, *secrets: str) -> list[str]:
    """Places under `folder` where a trace of a secret stands, names of files among them."""
    places = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for secret in secrets:
            if any(trace in str(path) or trace.encode() in content for trace in traces(secret)):
                places.append(str(path.relative_to(folder)))
    return places


def leaky_recipe(folder: Path, *changes: Change, **runtime: object) -> str:
    """The toy recipe with plugins that let their secret slip."""
    recipe = toy_recipe(folder, report=True, trackers=["tensorboard"], reward_failure_budget=1.0, **runtime)
    recipe["plugins"].append(LEAKY)
    recipe["steps"] = 3
    recipe["rewards"] = {"judge": {"type": "leaky_reward", "api_key": "${env:CANARY}", "scale": [1, 5]}}
    recipe["objective"]["gate"] = {"type": "leaky_gate", "api_key": "${env:CANARY}"}
    recipe["evaluation"]["metrics"]["leak"] = {"type": "leaky_metric", "api_key": "${env:CANARY}"}
    for change in changes:
        change(recipe)
    return write_recipe(folder, recipe)


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where crash logs would go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    tempfile.tempdir = None


def assert_silent(folder: Path, ended: Ended, *secrets: str) -> None:
    assert found_in(folder, *secrets) == []
    for secret in secrets:
        assert [trace for trace in traces(secret) if trace in ended.output] == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("secret", [PLAIN, ODD, SEVERAL_LINES, SHORT], ids=["plain", "odd", "lines", "short"])
def test_a_revealed_secret_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """Metrics, rollouts, checkpoints, event files, page, terminal: all are there, and none holds it."""
    monkeypatch.setenv("CANARY", secret)
    ended = here("run", leaky_recipe(tmp_path))
    assert ended.code == 0, ended.output
    run = tmp_path / "run"
    assert "${env:CANARY}" in (run / "rollouts.jsonl").read_text(encoding="utf-8")
    assert "seen by ${env:CANARY}" in (run / "metrics.jsonl").read_text(encoding="utf-8")
    assert "${env:CANARY}" in (run / "report.html").read_text(encoding="utf-8")
    assert list(run.glob("tensorboard/*/events*"))
    assert_silent(tmp_path, ended, secret)
    page = here("report", str(run))
    assert page.code == 0, page.output
    assert_silent(tmp_path, page, secret)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_exception_with_a_secret_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the message nor the traceback that is kept shows it."""
    monkeypatch.setenv("CANARY", PLAIN)
    ended = here("run", leaky_recipe(tmp_path, put("evaluation.metrics.leak.crash", True)))
    assert ended.code not in (0, 3), ended.output
    assert_silent(tmp_path, ended, PLAIN)


@pytest.mark.slow
def test_several_processes_inherit_the_redactor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", PLAIN)
    ended = wavalign("run", leaky_recipe(tmp_path, processes=2))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "run" / "ranks" / "rank-1.log").stat().st_size
    assert_silent(tmp_path, Ended(0, ended.stdout + ended.stderr), PLAIN)


SPELT_OUT = [
    ("api_key", f"api_key: {PLAIN}"),
    ("quoted", f'api_key: "{PLAIN}"'),
    ("camel", f"judgeToken: {PLAIN}"),
    ("nested", f"headers: {{Authorization: Bearer {PLAIN}}}"),
    ("list", f"secrets: [a, {PLAIN}]"),
    ("block", f"password: |\n      {PLAIN}\n      second"),
    ("folded", f'password: "one\n      {PLAIN}"'),
    ("mapping", f"credentials: {{user: me, pass: {PLAIN}}}"),
    ("url", f"endpoint: https://user:{PLAIN}@host/x"),
    ("url with a slash", f"endpoint: https://user:{PLAIN}/x@host/x"),
    ("url without a name", f"endpoint: https://{PLAIN}@host/x"),
    ("query", f"endpoint: https://host/x?a=1&api_key={PLAIN}"),
    ("chained", f"endpoint: simplecache::https://user:{PLAIN}@host/x"),
    ("auth", f"auth: {PLAIN}"),
    ("a service's key", "judge_key: c4nary-Zx91q7Lm3Pw"),
    ("form of a token", f"note: [a, hf_c4naryZx91q{'x' * 20}]"),
    ("broken", f"api_key: '{PLAIN}"),
    ("beside a mistake", f"judge: {{api_key: {PLAIN}, scale: [}}"),
    ("alias", f"a: &k {PLAIN}\n    api_key: *k\n    scale: 5"),
]


@pytest.mark.parametrize("line", [text for _, text in SPELT_OUT], ids=[name for name, _ in SPELT_OUT])
@pytest.mark.parametrize("form", ["text", "json", "github"])
def test_a_secret_spelt_out_is_refused_and_not_repeated(tmp_path: Path, line: str, form: str) -> None:
    """Exit 3 before anything is written; file and line are named, the secret is not."""
    recipe = Path(leaky_recipe(tmp_path, put("rewards.judge.api_key", "HERE")))
    before = set(tmp_path.rglob("*"))
    text = recipe.read_text(encoding="utf-8")
    assert "    api_key: HERE" in text
    recipe.write_text(text.replace("    api_key: HERE", f"    {line}", 1), encoding="utf-8")
    ended = here("run", str(recipe), "--format", form)
    assert ended.code == 3, ended.output
    assert set(tmp_path.rglob("*")) == before
    assert "toy.yaml" in ended.output
    assert PLAIN not in ended.output
    assert "c4nary" not in ended.output


def test_a_secret_in_a_base_recipe(tmp_path: Path) -> None:
    base = Path(leaky_recipe(tmp_path, put("rewards.judge.api_key", PLAIN)))
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"extends: {base.name}\nname: own\n", encoding="utf-8")
    ended = here("run", str(recipe))
    assert ended.code == 3, ended.output
    assert "toy.yaml:" in ended.output
    assert PLAIN not in ended.output


@pytest.mark.parametrize(
    "setting",
    [
        f"rewards.judge.api_key={PLAIN}",
        f"rewards.judge.api_key='{PLAIN}'",
        f"rewards.judge={{api_key: {PLAIN}}}",
        f"rewards.judge.endpoint=https://user:{PLAIN}@host",
        f"rewards.judge.api_key='{PLAIN}",
        f"rewards.judge.bogus.api_key.0={PLAIN}",
    ],
)
def test_a_secret_given_by_set(tmp_path: Path, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "another-value")
    ended = here("run", leaky_recipe(tmp_path), "--set", setting)
    assert ended.code == 3, ended.output
    assert PLAIN not in ended.output
    assert not (tmp_path / "run").exists()


def test_a_value_of_the_environment_repeated_in_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${env:CANARY}` says that it is a secret; the same value elsewhere in the recipe would be written out."""
    monkeypatch.setenv("CANARY", PLAIN)
    ended = here("run", leaky_recipe(tmp_path, put("description", f"uses {PLAIN}")))
    assert ended.code == 3, ended.output
    assert "spells out what the variable CANARY holds" in ended.output
    assert PLAIN not in ended.output


def test_names_that_only_look_like_secrets(tmp_path: Path) -> None:
    """Vocabulary and files are no secrets."""
    harmless = {"pad_token": "<pad>", "sep_token": "|", "token": "<eos>", "api_key_file": "key.txt", "max_tokens": 5}
    ended = here("validate", leaky_recipe(tmp_path, put("rewards.judge", {"type": "leaky_reward", **harmless})))
    assert "holds a secret" not in ended.output
    assert "unknown key `pad_token`" in ended.output
