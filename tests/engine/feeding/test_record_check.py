"""Every record is looked at before training, by the dry run and the run, and what is wrong is named with its line."""

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.spoken import say
from tests.toy.compiled import HERE, Change, drop, put
from tests.toy.live import silent
from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine import api
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.feeding.record_check import RecordsLook
from wavalign.engine.run import demands
from wavalign.engine.run.builder import Builder
from wavalign.engine.state.distributed import World
from wavalign.errors import DataError, PreflightError, WavAlignError
from wavalign.plugins import audio
from wavalign.plugins.api import Architecture
from wavalign.plugins.batch import AudioClip
from wavalign.schema.loading import load_recipe

Record = dict[str, Any]


def record(number: int, **changes: Any) -> Record:
    asked = {"messages": [{"role": "user", "text": "one plus two"}], "target": {"text": "it is three"}}
    return {**asked, "metadata": {"answer": "three", "n": number}, **changes}


def planned(folder: Path, spoil: Callable[[int, Record], Record], *changes: Change, heading: str = "prompts") -> Plan:
    """The toy recipe with 40 records of a file under a heading."""
    lines = [json.dumps(spoil(number, record(number))) for number in range(1, 41)]
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    recipe = toy_recipe(folder)
    put(f"data.{heading}", {"type": "jsonl", "path": str(folder / "data.jsonl")})(recipe)
    for change in changes:
        change(recipe)
    return compile_recipe(load_recipe(write_recipe(folder, recipe)), HERE)


def spoiled(at: int, **changes: Any) -> Callable[[int, Record], Record]:
    return lambda number, found: {**found, **changes} if number == at else found


def without_target(number: int, found: Record) -> Record:
    return {key: value for key, value in found.items() if number != 40 or key != "target"}


def both_say(plan: Plan, folder: Path, *words: str) -> None:
    """Dry run and run find the same, before anything is trained."""
    errors = [each.message for each in api.preflight(plan).errors]
    with pytest.raises(WavAlignError) as caught:
        api.run(plan)
    assert isinstance(caught.value, PreflightError) and caught.value.exit_code == 5
    for word in words:
        assert any(word in each for each in errors), errors
        assert word in f"{caught.value.message} {caught.value.hint}"
    assert not list(folder.glob("**/checkpoints/step-*"))


def test_a_right_file_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, lambda _, found: found)
    found = api.preflight(plan)
    assert not found.errors
    assert any(each.what == "records of prompts" and "40 looked at" in each.message for each in found.findings)


@pytest.mark.parametrize(
    ("heading", "spoil", "words"),
    [
        ("demonstrations", without_target, ("data.jsonl:40: dialogue line-40", "no target to imitate")),
        (
            "demonstrations",
            spoiled(40, target={"text": "it is seven"}),
            ("data.jsonl:40: dialogue line-40", "cannot write 'seven'"),
        ),
        (
            "prompts",
            spoiled(39, messages=[{"role": "user", "text": "one <|im_end|> two"}]),
            ("data.jsonl:39: dialogue line-39", "spells the control token <|im_end|>"),
        ),
        (
            "prompts",
            spoiled(40, messages=[{"role": "user", "audio": "missing.wav"}]),
            ("data.jsonl:40: dialogue line-40", "missing.wav: the sound file cannot be opened"),
        ),
    ],
)
def test_record_40_of_40(
    heading: str,
    spoil: Callable[[int, Record], Record],
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    both_say(planned(tmp_path, spoil, heading=heading), tmp_path, *words)


MATCH = put("rewards", {"answer": {"type": "answer_match"}})
HELD_OUT = put("evaluation.metrics", {"text": {"type": "text_accuracy"}})


def test_what_a_reward_needs_is_asked_of_every_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, spoiled(41), MATCH)
    both_say(plan, tmp_path, "data.jsonl:1: dialogue line-1", "rewards.answer", "(answer, n), or null")
    right = planned(tmp_path, spoiled(41), MATCH, put("rewards.answer.reference", "answer"))
    assert not api.preflight(right).errors
    target = planned(tmp_path, spoiled(41), MATCH, put("rewards.answer.reference", None))
    assert not api.preflight(target).errors


def test_what_a_metric_needs_is_asked_of_held_out_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, spoiled(41), HELD_OUT, heading="evaluation")
    both_say(plan, tmp_path, "data.jsonl:1", "evaluation.metrics.text", "no right answer in metadata.reference")


def test_files_that_options_name_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    heard = put("evaluation.metrics", {"heard": {"type": "heard_answer", "sentences": "nope.txt"}})
    codec = put("model.codec", {"type": "source_filter", "checkpoint": "no.safetensors"})
    plan = planned(tmp_path, spoiled(41), heard, codec)
    messages = [each.message for each in api.preflight(plan).errors if each.what == "files"]
    assert messages == [
        f"model.codec.checkpoint: no file {tmp_path}/no.safetensors",
        f"evaluation.metrics.heard.sentences: no file {tmp_path}/nope.txt",
    ]
    with pytest.raises(PreflightError, match=r"no file .*no\.safetensors"):
        api.run(plan)


def test_a_stream_says_that_it_cannot_be_checked_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"type": "jsonl", "path": str(tmp_path / "data.jsonl"), "streaming": True}
    plan = planned(tmp_path, spoiled(41), put("data.prompts", source))
    (look,) = [each for each in api.preflight(plan).findings if each.what == "records of prompts"]
    assert look.level == "warning" and "cannot be looked at whole" in look.message


WITHOUT_SFT = (drop("objective.terms.sft"), drop("objective.gate"), put("objective.terms.rl.share", 1))


def test_headings_that_nothing_reads_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, without_target, *WITHOUT_SFT, heading="prompts")
    assert not [each for each in api.preflight(plan).errors if "target" in each.message]


def test_a_name_in_the_other_normal_form_is_found(tmp_path: Path) -> None:
    composed = unicodedata.normalize("NFC", "é.wav")
    audio.write(say("one"), tmp_path / unicodedata.normalize("NFD", composed))
    assert audio.read(AudioClip(str(tmp_path / composed)), sample_rate=None).seconds > 0
    with pytest.raises(DataError, match="ü"):
        audio.read(AudioClip(str(tmp_path / "ü.wav")), sample_rate=None)


def fitting(folder: Path, clips: int, **options: int) -> Plan:
    """A stage that fits a codec on some of 40 clips."""
    audio.write(say("one plus two"), folder / "said.wav")

    def spoil(number: int, found: Record) -> Record:
        return {**found, "target": {"text": "it is three", "audio": "said.wav"}} if number <= clips else found

    stages = [{"name": "codec", "type": "fit_codec"}, {"name": "learn", "type": "train"}]
    codec = put("model.codec", {"type": "source_filter", **options})
    return planned(folder, spoil, codec, put("stages", stages), heading="demonstrations")


def test_too_little_sound_for_a_codec_is_met_before_it_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both_say(fitting(tmp_path, 2), tmp_path, "2 clips of", "512 code book entries need as many: give at least")
    shutil.rmtree(tmp_path / "run")
    both_say(fitting(tmp_path, 0), tmp_path, "no dialogue of data.demonstrations has sound")
    enough = api.preflight(fitting(tmp_path, 30, num_content=16, num_prosody=8))
    assert not [each for each in enough.errors if each.stage == "codec"]


def test_stages_that_ask_the_same_look_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    looked: list[str] = []
    look = demands.look_at_records

    def counted(builder: Builder, stage: StagePlan, heading: str, architecture: Architecture | None) -> RecordsLook:
        looked.append(f"{stage.name} {heading}")
        return look(builder, stage, heading, architecture)

    monkeypatch.setattr(demands, "look_at_records", counted)
    stages = [{"name": "a", "steps": 1}, {"name": "b", "steps": 1}, {"name": "c", "data": {"max_prompt_tokens": 99}}]
    plan = planned(tmp_path, spoiled(0), put("stages", stages))
    demands.check_before_training(Builder(plan, World.single("cpu"), silent), plan.stages)
    assert looked == [f"{name} {each}" for name in "ac" for each in ("prompts", "demonstrations", "evaluation.heldout")]
