"""A dry run's findings: what is fine, what is missing, and what would train nothing."""

from pathlib import Path
from typing import Any

import pytest
import soundfile
import yaml

from tests.toy.compiled import HERE, Change, drop, put
from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine import api
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.preflight import Finding, Preflight
from wavalign.schema.loading import load_recipe

SFT_ONLY: tuple[Change, ...] = (
    put("objective.terms", {"sft": {"loss": "cross_entropy"}}),
    drop("objective.gate"),
    drop("evaluation"),
)


def look(folder: Path, *changes: Change) -> Preflight:
    """Preflight of the toy recipe after `changes`."""
    recipe = toy_recipe(folder)
    for change in changes:
        change(recipe)
    return api.preflight(compile_recipe(load_recipe(write_recipe(folder, recipe)), HERE))


def at(found: Preflight, what: str) -> Finding:
    """The finding about `what`."""
    (finding,) = [each for each in found.findings if each.what == what]
    return finding


def test_a_recipe_that_is_ready(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.errors == ()
    assert at(found, "data.prompts").message == "36 dialogues, 32 read"
    assert at(found, "data.demonstrations").message == "12 dialogues, 12 read"
    assert at(found, "data.evaluation.heldout").level == "ok"
    # An answer is `it is WORD` and its end: the row that ends a turn is text, whatever else the layout puts there.
    assert at(found, "term rl").level == at(found, "term sft").level == "ok"
    assert at(found, "memory").level == "ok"
    ((stage, memory),) = found.memory
    assert stage == "train"
    assert memory.capacity == api.detect_cluster().host_bytes
    assert not (tmp_path / "run").exists(), "a dry run leaves no folder"


def test_a_demonstration_term_that_selects_nothing_is_an_error(tmp_path: Path) -> None:
    """The sums have no sound, so a loss on sound has nothing to learn from."""
    found = look(tmp_path, *SFT_ONLY, put("objective.terms.sft.tokens", {"audio": 1}))
    finding = at(found, "term sft")
    assert finding.level == "error"
    assert finding.message.startswith("0 of ")
    assert "none in 12 answers" in finding.message
    assert "tokens:" in finding.hint


def test_a_rollout_term_that_selects_nothing_of_the_gold_answers_is_a_warning(tmp_path: Path) -> None:
    """The policy may say what gold answers do not hold."""
    found = look(tmp_path, put("objective.terms.rl.tokens", {"audio": 1}))
    assert (at(found, "term rl").level, at(found, "term rl.kl").level, found.errors) == ("warning", "warning", ())


def test_a_term_that_is_switched_off_is_not_looked_at(tmp_path: Path) -> None:
    off = put("objective.terms.sound", {"loss": "cross_entropy", "tokens": {"audio": 1}, "weight": 0})
    found = look(tmp_path, *SFT_ONLY, off)
    assert found.errors == ()
    assert not [each for each in found.findings if each.what == "term sound"]


def missing_checkpoint(recipe: dict[str, Any]) -> None:
    recipe["model"].update(checkpoint="nowhere/at/all", preset=None)


def test_everything_missing_is_found_at_once(tmp_path: Path) -> None:
    found = look(
        tmp_path,
        missing_checkpoint,
        put("data.prompts", {"type": "jsonl", "path": "no.jsonl"}),
        put("data.demonstrations", {"type": "toy_sums", "limit": 0}),
    )
    errors = {each.what: each for each in found.errors}
    assert set(errors) == {"data.prompts", "data.demonstrations", "model"}
    assert str(tmp_path / "no.jsonl") in errors["data.prompts"].message
    assert "empty" in errors["data.demonstrations"].message
    assert "nowhere" in errors["model"].message
    assert all(each.hint for each in found.errors)


def test_a_dialogue_with_sound_wants_a_codec_and_its_file(tmp_path: Path) -> None:
    """Preflight encodes what it reads, so that a recipe without a codec does not fail at its first step."""
    line = '{"messages": [{"role": "user", "text": "one plus one", "audio": "q.wav"}], "target": {"text": "it is two"}}'
    (tmp_path / "gold.jsonl").write_text(line + "\n", encoding="utf-8")
    soundfile.write(tmp_path / "q.wav", [0.1] * 800, 16000)
    gold = put("data.demonstrations", {"type": "jsonl", "path": "gold.jsonl"})
    finding = at(look(tmp_path, *SFT_ONLY, gold), "demonstrations as tokens")
    assert finding.level == "error"
    assert "q.wav" in finding.message
    assert "model.codec" in finding.hint


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5 * 2**20

    monkeypatch.setattr("wavalign.engine.compile.preflight.shutil.disk_usage", lambda folder: Usage)
    finding = at(look(tmp_path), "disk")
    assert finding.level == "error"
    assert finding.message.startswith("0.0 GiB free")


def test_a_machine_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "detect_cluster", lambda: HERE.model_copy(update={"host_bytes": 1 << 20}))
    finding = at(look(tmp_path), "memory")
    assert finding.level == "error"
    assert "micro_batch" in finding.hint


def test_recipes_are_plain_yaml(tmp_path: Path) -> None:
    """What these tests edit is what a person could have written."""
    text = Path(write_recipe(tmp_path, toy_recipe(tmp_path))).read_text(encoding="utf-8")
    assert yaml.safe_load(text)["name"] == "toy"
