import math
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.spoken import dialogue, rollout, say
from wavalign.errors import DataError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.rewards.asr_consistency import AsrConsistency, AsrConsistencyParams
from wavalign.plugins.rewards.speaking_style import SpeakingStyle, SpeakingStyleParams
from wavalign.plugins.rewards.speech_quality import SpeechQuality, SpeechQualityParams
from wavalign.plugins.speech.style_classifier import STYLE_NAMES

SILENCE = Waveform(np.zeros(16_000, np.float32), 16_000)


def test_sound_that_says_the_text_scores_and_another_answers_sound_does_not() -> None:
    reward = AsrConsistency(AsrConsistencyParams())
    for said, other in (("it is eleven", "it is three"), ("that is paris", "that is rome")):
        agreed = reward.score(rollout(said, say(said)), dialogue(said))
        assert agreed.value == 1.0 and agreed.details["heard"] == said
        assert reward.score(rollout(said, say(other)), dialogue(said)).value == 0.0
    # its own text counts, not the right answer
    assert reward.score(rollout("it is three", say("it is three")), dialogue("it is twelve")).value == 1.0


def test_the_listener_needs_sound_and_text() -> None:
    reward = AsrConsistency(AsrConsistencyParams())
    assert reward.score(rollout("", say("it is two")), dialogue()).reason == "the answer has no text"
    assert reward.score(rollout("it is two"), dialogue()).reason == "the answer has no sound"
    empty = Waveform(np.zeros(0, np.float32), 16_000)
    assert reward.score(rollout("it is two", empty), dialogue()).value is None


def test_own_sentences_replace_the_worlds(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("Hello there!\ngood night\n")
    reward = AsrConsistency(AsrConsistencyParams(sentences=str(tmp_path / "s.txt")))
    assert reward.score(rollout("hello there", say("hello there")), dialogue()).details["heard"] == "hello there"
    with pytest.raises(DataError, match=r"none\.txt"):
        AsrConsistency(AsrConsistencyParams(sentences=str(tmp_path / "none.txt")))


def test_the_asked_style_scores_more_than_any_other() -> None:
    reward = SpeakingStyle(SpeakingStyleParams())
    for style in ("sad", "excited"):
        sound = rollout("it is nineteen", say("it is nineteen", style))
        scores = {asked: reward.score(sound, dialogue(style=asked)).value for asked in STYLE_NAMES}
        assert max(scores, key=lambda name: scores[name] or 0.0) == style
        assert math.isclose(sum(value or 0.0 for value in scores.values()), 1.0)


def test_hard_style_scores_are_right_or_wrong() -> None:
    reward = SpeakingStyle(SpeakingStyleParams(soft=False))
    sound = rollout("it is nineteen", say("it is nineteen", "excited"))
    assert reward.score(sound, dialogue(style="excited")).value == 1.0
    assert reward.score(sound, dialogue(style="sad")).value == 0.0


def test_style_without_a_measure_is_no_score() -> None:
    reward = SpeakingStyle(SpeakingStyleParams())
    assert reward.score(rollout("it is two", SILENCE), dialogue()).value is None
    assert reward.score(rollout("it is two"), dialogue()).value is None
    unknown = reward.score(rollout("it is two", say("it is two")), dialogue(style="whispered"))
    assert unknown.value is None and "whispered" in unknown.reason


def test_quality_is_a_mean_opinion_score_and_silence_has_none() -> None:
    reward = SpeechQuality(SpeechQualityParams())
    score = reward.score(rollout("", say("it is two")), dialogue()).value
    assert score is not None and 1.5 < score < 5.0 and reward.range == (1.0, 5.0)
    assert reward.score(rollout("", SILENCE), dialogue()).reason == "the answer is silent"
    assert reward.score(rollout(""), dialogue()).value is None


def test_what_the_policy_left_out_is_absent_and_what_nothing_decoded_is_not() -> None:
    listeners = [
        AsrConsistency(AsrConsistencyParams()),
        SpeakingStyle(SpeakingStyleParams()),
        SpeechQuality(SpeechQualityParams()),
    ]
    for reward in listeners:
        silent = reward.score(rollout("it is two"), dialogue())
        assert (silent.value, silent.blame, silent.reason) == (None, "answer", "the answer has no sound")
        undecoded = reward.score(rollout("it is two", codes=3), dialogue())
        assert (undecoded.value, undecoded.blame) == (None, "reward") and "not decoded" in undecoded.reason
    assert AsrConsistency(AsrConsistencyParams()).score(rollout("", say("it is two")), dialogue()).blame == "answer"
    assert SpeechQuality(SpeechQualityParams()).score(rollout("", SILENCE), dialogue()).blame == "answer"
    assert SpeakingStyle(SpeakingStyleParams()).score(rollout("it is two", SILENCE), dialogue()).blame == "answer"
    unknown = SpeakingStyle(SpeakingStyleParams()).score(rollout("it is two", say("it is two")), dialogue(style="odd"))
    assert unknown.blame == "reward"  # the record asks for what nobody can judge
