from dataclasses import asdict, replace
from pathlib import Path

import pytest
import soundfile

from wavalign.plugins.data.natural_world import NaturalWorld, NaturalWorldParams
from wavalign.plugins.speech.world.natural_styles import NATURAL_STYLES, NATURAL_UNSEEN
from wavalign.plugins.speech.world.script import MOST_RENDITIONS, Cue, Scene, Split, lines
from wavalign.plugins.speech.world.speakers import NaturalSpeakers
from wavalign.plugins.speech.world.styles import STYLES

pytest.importorskip("hibari", reason="the extra `natural` is not installed")

SCENE = Scene(
    split="train", renditions=1, limit=None, voices=2, cue="both", misconceptions=0.6, slips=0.1, mumbling=0.5,
    demonstrations=64, world_seed=0, seed=0, speakers="natural",
)  # fmt: skip
SPLITS: tuple[Split, ...] = ("base", "train", "demonstrations", "heldout", "unseen_facts", "unseen_voices")
KEPT = ("answer", "reference", "style", "cue", "fact", "category", "misconceived", "question_text", "target_is_right")


def test_both_worlds_ask_and_answer_the_same() -> None:
    assert [(style.name, style.request) for style in NATURAL_STYLES] == [(s.name, s.request) for s in STYLES]
    for split in SPLITS:
        ours = list(lines(replace(SCENE, split=split)))
        theirs = list(lines(replace(SCENE, split=split, speakers="espeak")))
        assert [line.id for line in ours] == [line.id for line in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert {key: one.metadata[key] for key in KEPT} == {key: other.metadata[key] for key in KEPT}


def test_no_split_hears_a_sound_of_another() -> None:
    heard = [
        {line.question.name for line in lines(replace(SCENE, split=split, renditions=2, demonstrations=213))}
        for split in SPLITS
    ]
    assert len(set.union(*heard)) == sum(map(len, heard))
    cues: tuple[Cue, ...] = ("words", "prosody")
    for cue in cues:
        steps = NaturalSpeakers.steps[cue]
        assert 5 * MOST_RENDITIONS <= len(set(steps)) == len(steps)
        said = {asdict(NaturalSpeakers().question(0, cue, "joe", step)).__repr__() for step in steps}
        assert len(said) == len(steps)  # rounding makes no two the same


def test_it_speaks_once_and_says_what_it_is(tmp_path: Path) -> None:
    moments = []
    source = NaturalWorld(NaturalWorldParams(split="heldout", limit=2, cache=str(tmp_path)), seed=0)
    for _ in range(2):
        source.prepare(lambda what, done, total: None)
        moments.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")})
    assert moments[0] == moments[1] and len(moments[0]) == 4
    assert {soundfile.info(path).samplerate for path in moments[0]} == {24_000}
    dialogue = source.record(0)
    assert dialogue.target is not None and dialogue.target.text == dialogue.metadata["reference"]


def test_the_unseen_voices_are_another_man_and_another_body(tmp_path: Path) -> None:
    params = NaturalWorldParams(split="unseen_voices", limit=3, cache=str(tmp_path))
    source = NaturalWorld(params, seed=0)
    source.prepare(lambda what, done, total: None)
    assert {source.record(index).metadata["voice"] for index in range(len(source))} <= set(NATURAL_UNSEEN)
    assert len(list(tmp_path.rglob("*.wav"))) == 6
