"""Values of the metrics for answers that read words aloud, by hand."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.plugins.spoken import dialogue, group, rollout, say
from wavalign.errors import PluginError
from wavalign.plugins import audio
from wavalign.plugins.batch import Answer, AudioClip, Dialogue, Message, Rollout, RolloutGroup, Waveform
from wavalign.plugins.metrics.diversity import Diversity, DiversityParams
from wavalign.plugins.metrics.duration_ratio import DurationRatio, DurationRatioParams
from wavalign.plugins.metrics.intervals import bootstrap_ratio
from wavalign.plugins.metrics.no_end_rate import NoEndRate, NoEndRateParams
from wavalign.plugins.metrics.speaker_similarity import SpeakerSimilarity, SpeakerSimilarityParams
from wavalign.plugins.metrics.word_error_rate import WordErrorRate, WordErrorRateParams, error_rate
from wavalign.plugins.speech import shipped
from wavalign.plugins.speech.synthesizer import synthesize
from wavalign.plugins.speech.word_errors import edit_distance, word_errors
from wavalign.plugins.speech.world.styles import STYLES, UNSEEN_VOICES


@pytest.mark.parametrize(
    ("found", "wanted", "errors"),
    [
        ("", "", 0),
        ("kitten", "sitting", 3),
        ("abc", "", 3),
        ("", "abc", 3),
        ("abc", "abc", 0),
        ("abcd", "bcd", 1),
        ("bcd", "abcd", 1),
        ("abcdef", "azced", 3),
        ("aaaa", "bbbbbb", 6),
    ],
)
def test_edit_distance_of_known_words(found: str, wanted: str, errors: int) -> None:
    assert edit_distance(found, wanted) == edit_distance(wanted, found) == errors


def test_edit_distance_is_that_of_the_plain_recursion() -> None:
    draws = np.random.default_rng(1)

    def plain(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(plain(a[1:], b) + 1, plain(a, b[1:]) + 1, plain(a[1:], b[1:]) + (a[0] != b[0]))

    for _ in range(40):
        one, other = (tuple(draws.integers(0, 3, draws.integers(0, 6)).tolist()) for _ in range(2))
        assert edit_distance(one, other) == plain(one, other)


@pytest.mark.parametrize(
    ("heard", "wanted", "found"),
    [
        ("it is twelve", ("It is 12.",), (0, 3)),
        ("it is two", ("it is twelve",), (1, 3)),
        ("it is", ("it is twelve",), (1, 3)),
        ("it it is twelve", ("it is twelve",), (1, 3)),
        ("", ("it is twelve",), (3, 3)),
        ("red", ("the sky is green", "it is red", "blue"), (2, 3)),
        ("it is red", ("blue", "it is red"), (0, 3)),
        ("red", (), None),
    ],
)
def test_errors_and_words(heard: str, wanted: tuple[str, ...], found: tuple[int, int] | None) -> None:
    assert word_errors(heard, wanted) == found


def test_a_rate_over_all_answers_together() -> None:
    """1 of 2, 0 of 6, 4 of 4 and one left out: 5 of 12, where the mean of rates would be a half."""
    measured = error_rate([(1, 2), (0, 6), None, (4, 4)], ["a", "b", None, ""])
    assert measured.value == pytest.approx(5 / 12) and measured.count == 3
    items = [each for each in measured.items if each is not None]
    assert items == [0.25, 0.0, 1.0] and np.mean(items) == pytest.approx(measured.value)
    assert measured.items[2] is None
    assert measured.details["word_errors"] == ("1 of 2", "0 of 6", None, "4 of 4")
    assert measured.low <= measured.value <= measured.high


def test_the_bootstrap_of_a_ratio() -> None:
    """100 items of which 30 are wrong: about the normal interval, 0.3 plus and minus 1.96 sqrt(0.21 / 100)."""
    low, high = bootstrap_ratio([1] * 30 + [0] * 70, [1] * 100)
    assert [low, high] == pytest.approx([0.210, 0.390], abs=0.015)
    assert bootstrap_ratio([2, 4, 6], [1, 2, 3]) == (2, 2)
    assert all(math.isnan(each) for each in bootstrap_ratio([1], [2]))


def test_what_is_heard_is_counted() -> None:
    asked = dialogue("it is eleven")
    groups = [
        group(asked, rollout("", say("it is eleven"))),
        group(asked, rollout("", say("it is three"))),
        group(asked, rollout("")),
        group(replace(asked, metadata={}), rollout("", say("it is three"))),
    ]
    (measured,) = WordErrorRate(WordErrorRateParams(processes=1)).measure(groups)
    assert measured.value == pytest.approx(4 / 9) and measured.count == 3
    assert measured.items == (0, 1 / 3, 1, None)
    assert measured.details["heard"] == ("it is eleven", "it is three", "", "it is three")
    (by_target,) = WordErrorRate(WordErrorRateParams(processes=1, reference=None)).measure(groups)
    assert by_target.count == 4


def test_words_must_be_there() -> None:
    needs = WordErrorRate.dialogue_needs
    assert needs(WordErrorRateParams(), dialogue("it is red")) is None
    said = needs(WordErrorRateParams(), replace(dialogue(), metadata={}))
    assert said is not None and "no right answer in metadata.reference" in said


def recorded(folder: Path, waveform: Waveform, name: str = "gold") -> Dialogue:
    path = folder / f"{name}.wav"
    audio.write(waveform, str(path))
    return replace(dialogue(), target=Message("assistant", "", AudioClip(str(path))))


def seconds(count: float) -> Waveform:
    return Waveform(np.full(int(16_000 * count), 0.1, np.float32), 16_000)


def test_durations_by_hand(tmp_path: Path) -> None:
    asked = recorded(tmp_path, seconds(2.0))
    answers = [rollout("", seconds(each)) for each in (2.0, 1.0, 2.4, 4.0)]
    groups = [group(asked, each) for each in (*answers, rollout(""))]
    ratio, far = DurationRatio(DurationRatioParams()).measure(groups)
    assert ratio.value == pytest.approx((1 + 0.5 + 1.2 + 2) / 4) and ratio.count == 4
    assert far.items == (0, 1, 0, 1, None) and far.value == 0.5
    assert DurationRatio(DurationRatioParams(tolerance=2.0)).measure(groups)[1].value == 0
    said = DurationRatio.dialogue_needs(DurationRatioParams(), dialogue())
    assert said is not None and "no target with sound" in said


def test_answers_without_an_end() -> None:
    groups = [group(dialogue(), rollout("a", finished=each)) for each in (True, False, True, True)]
    (measured,) = NoEndRate(NoEndRateParams()).measure(groups)
    assert (measured.value, measured.items) == (0.25, (0, 1, 0, 0))


def test_diversity_by_hand() -> None:
    """Codes 12, 12, 1234: distances 0, 2 of 4, 2 of 4; two answers of three are different."""

    def said(*codes: int) -> Rollout:
        return replace(rollout(""), answer=Answer("", codes, True))

    several = RolloutGroup(dialogue(), rollout("").completion, (said(1, 2), said(1, 2), said(1, 2, 3, 4)))
    words = RolloutGroup(dialogue(), rollout("").completion, (rollout("a"), rollout("b")))
    distinct, distance = Diversity(DiversityParams()).measure([several, group(dialogue(), said(1)), words])
    assert distinct.items == (2 / 3, None, 1)
    assert distance.items == (1 / 3, None, None)


def test_a_voice_is_nearer_to_itself(tmp_path: Path) -> None:
    style = STYLES[0].answer
    asked = recorded(tmp_path, synthesize("it is eleven", style))
    groups = [
        group(asked, rollout("", synthesize("it is eleven", style))),
        group(asked, rollout("", synthesize("it is eleven", replace(style, voice=UNSEEN_VOICES[1])))),
        group(asked, rollout("", Waveform(np.zeros(8_000, np.float32), 16_000))),
        group(asked, rollout("")),
    ]
    (measured,) = SpeakerSimilarity(SpeakerSimilarityParams()).measure(groups)
    same, other, silent, nothing = measured.items
    assert same is not None and other is not None and silent is None and nothing is None
    assert same > 0.999 and other < 0.85 and measured.count == 2


def test_the_voice_to_have_may_be_another(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    audio.write(say("it is red"), str(path))
    answer = rollout("", say("it is red"))
    user = replace(dialogue(), messages=(Message("user", "", AudioClip(str(path))),))
    named = dialogue(voice_prompt=str(path))
    for voice, asked in (("user", user), ("voice_prompt", named)):
        params = SpeakerSimilarityParams.model_validate({"voice": voice})
        assert SpeakerSimilarity(params).measure([group(asked, answer)])[0].value > 0.999
        assert SpeakerSimilarity.dialogue_needs(params, asked) is None
        said = SpeakerSimilarity.dialogue_needs(params, dialogue())
        assert said is not None and "set `voice` to another one" in said


def test_without_the_weights_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped._checked.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match="the speaker encoder needs the package resemblyzer") as caught:
        SpeakerSimilarity.dialogue_needs(SpeakerSimilarityParams(), dialogue())
    assert caught.value.hint == "pip install --no-deps resemblyzer==0.1.4"
