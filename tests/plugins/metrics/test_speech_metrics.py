import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.plugins.spoken import dialogue, group, rollout, say
from wavalign.plugins.api import Measurement
from wavalign.plugins.batch import AudioClip, Message, RolloutGroup, Waveform
from wavalign.plugins.metrics.heard_answer import HeardAnswer, HeardAnswerParams
from wavalign.plugins.metrics.intervals import mean, proportion
from wavalign.plugins.metrics.speech_quality import SpeechQuality, SpeechQualityParams
from wavalign.plugins.metrics.style_accuracy import StyleAccuracy, StyleAccuracyParams
from wavalign.plugins.metrics.text_accuracy import TextAccuracy, TextAccuracyParams
from wavalign.plugins.metrics.well_formed import WellFormed, WellFormedParams


def values(measured: Sequence[Measurement]) -> dict[str, tuple[float, int]]:
    return {each.name: (each.value, each.count) for each in measured}


def test_wilsons_interval_by_hand() -> None:
    # 8 of 10: centre (0.8 + 0.19207) / 1.38415 = 0.71674, half 0.22659 (z = 1.95996)
    measured = proportion("x", [True] * 8 + [False] * 2)
    assert (measured.value, measured.count) == (0.8, 10)
    assert [measured.low, measured.high] == pytest.approx([0.49016, 0.94332], abs=1e-5)
    whole = proportion("x", [True] * 10)
    assert whole.high == pytest.approx(1.0) and whole.low == pytest.approx(0.72247, abs=1e-5)


def test_the_interval_of_a_mean_by_hand() -> None:
    # 1, 2, 3: sd 1, half 1.95996 / sqrt(3)
    measured = mean("x", [1.0, 2.0, 3.0], "MOS")
    assert measured.value == 2.0 and measured.high == pytest.approx(2.0 + 1.13158, abs=1e-5)


def test_nothing_measured_is_not_a_number() -> None:
    assert math.isnan(proportion("x", []).value) and proportion("x", []).count == 0
    assert math.isnan(mean("x", [], "").value) and math.isnan(mean("x", [1.0], "").low)


def test_text_is_counted_whole_and_by_group() -> None:
    asked = [dialogue("it is twelve", misconceived=flag) for flag in (True, True, False, False)]
    said = ["it is twelve", "it is two", "It is twelve.", "so is twelve"]
    groups = [group(one, rollout(text)) for one, text in zip(asked, said, strict=True)]
    groups.append(group(dialogue(""), rollout("it is twelve")))
    assert values(TextAccuracy(TextAccuracyParams(by=("misconceived",))).measure(groups)) == {
        "text_accuracy": (0.5, 4),
        "text_accuracy/misconceived=true": (0.5, 2),
        "text_accuracy/misconceived=false": (0.5, 2),
    }


def test_the_listener_compares_with_the_reference_and_with_the_own_text() -> None:
    groups = [
        group(dialogue("it is eleven"), rollout("it is eleven", say("it is eleven"))),
        group(dialogue("it is eleven"), rollout("it is three", say("it is three"))),
        group(dialogue("it is eleven"), rollout("it is three", say("it is eleven"))),
        group(dialogue("it is eleven"), rollout("it is eleven")),
    ]
    measured = values(HeardAnswer(HeardAnswerParams()).measure(groups))
    assert measured == {"heard_answer": (0.5, 4), "heard_own_text": (0.5, 4)}


def test_style_counts_what_can_be_measured() -> None:
    silence = Waveform(np.zeros(8_000, np.float32), 16_000)
    text = "it is nineteen"
    groups = [
        group(dialogue(text, "sad"), rollout(text, say(text, "sad"))),
        group(dialogue(text, "sad"), rollout(text, say(text, "excited"))),
        group(dialogue(text, "sad"), rollout(text, silence)),
        group(dialogue(text, "unheard of"), rollout(text, say(text))),
    ]
    measured = values(StyleAccuracy(StyleAccuracyParams()).measure(groups))
    assert measured == {"style_accuracy": (0.5, 2), "style_measurable": (pytest.approx(2 / 3), 3)}


def test_quality_averages_what_sounds() -> None:
    groups = [group(dialogue(), rollout("", say(text))) for text in ("it is two", "it is ten")]
    groups.append(group(dialogue(), rollout("")))
    measured = SpeechQuality(SpeechQualityParams(overall=True)).measure(groups)
    assert [(each.name, each.count) for each in measured] == [("speech_quality", 2), ("speech_quality_overall", 2)]
    assert all(1.0 < each.low <= each.value <= each.high < 5.0 for each in measured)


def test_every_value_says_what_came_of_every_item() -> None:
    """None where a group is left out, also in a breakdown; the mean of the others is the value."""
    text = "it is eleven"
    none = RolloutGroup(dialogue(text, "sad", kind="a"), rollout("").completion, ())
    groups = [
        group(dialogue(text, "sad", kind="a"), rollout(text, say(text, "sad"), codes=1)),
        none,
        group(dialogue(text, "sad", kind="b"), rollout("it is three", say("it is three", "excited"), codes=1)),
        group(dialogue("", "unheard of"), rollout(text, codes=1)),
    ]
    by = ("kind",)
    metrics = [
        TextAccuracy(TextAccuracyParams(by=by)),
        HeardAnswer(HeardAnswerParams(by=by)),
        StyleAccuracy(StyleAccuracyParams(by=by)),
        SpeechQuality(SpeechQualityParams()),
        WellFormed(WellFormedParams()),
    ]
    found = {each.name: each for metric in metrics for each in metric.measure(groups)}
    assert {name: each.items for name, each in found.items() if name != "speech_quality"} == {
        "text_accuracy": (1, None, 0, None),
        "text_accuracy/kind=a": (1, None, None, None),
        "text_accuracy/kind=b": (None, None, 0, None),
        "heard_answer": (1, None, 0, None),
        "heard_answer/kind=a": (1, None, None, None),
        "heard_answer/kind=b": (None, None, 0, None),
        "heard_own_text": (1, None, 1, 0),
        "style_accuracy": (1, None, 0, None),
        "style_accuracy/kind=a": (1, None, None, None),
        "style_accuracy/kind=b": (None, None, 0, None),
        "style_measurable": (1, None, 1, None),
        "well_formed": (1, None, 1, 0),
    }
    assert [each is None for each in found["speech_quality"].items] == [False, True, False, True]
    for each in found.values():
        counted = [item for item in each.items if item is not None]
        assert len(counted) == each.count and sum(counted) / len(counted) == pytest.approx(each.value)
    assert found["heard_answer"].details == {"heard": ("it is eleven", None, "it is three", "")}
    assert found["style_accuracy"].details == {
        "style_asked": ("sad", "sad", "sad", None),
        "style_measured": ("sad", None, "excited", None),
    }
    assert all(each.says for name, each in found.items() if "/" not in name)


def test_whole_answers_end_speak_and_lose_no_code() -> None:
    second = Waveform(np.zeros(16_000, np.float32), 16_000)
    answers = [
        rollout("a", second, codes=25),
        rollout("a", second, codes=27),
        rollout("a", second, codes=25, finished=False),
        rollout(" ", second, codes=25),
        rollout("a", None, codes=25),
        rollout("a", second),
    ]
    both = replace(dialogue(), target=Message("assistant", "it is twelve", AudioClip("a.wav")))
    for asked in (both, replace(both, target=None), replace(both, target=Message("assistant"))):
        groups = [group(asked, answer) for answer in answers]
        assert WellFormed(WellFormedParams(codes_per_second=25.0)).measure(groups)[0].value == pytest.approx(1 / 6)
        assert WellFormed(WellFormedParams()).measure(groups)[0].value == pytest.approx(2 / 6)


def test_an_answer_owes_what_its_target_has() -> None:
    second = Waveform(np.zeros(16_000, np.float32), 16_000)
    answers = [
        rollout("a", second, codes=25),
        rollout("", second, codes=25),  # sound alone
        rollout("", second, codes=27),  # two codes are not in the sound
        rollout("", second, codes=25, finished=False),
        rollout("a"),  # text alone
        rollout("a", None, codes=25),  # codes without sound
        rollout("a", finished=False),
        rollout(""),
    ]

    def whole(target: Message) -> list[float]:
        asked, metric = replace(dialogue(), target=target), WellFormed(WellFormedParams(codes_per_second=25.0))
        return [metric.measure([group(asked, answer)])[0].value for answer in answers]

    assert whole(Message("assistant", " ", AudioClip("a.wav"))) == [1, 1, 0, 0, 0, 0, 0, 0]
    assert whole(Message("assistant", "it is twelve")) == [1, 0, 0, 0, 1, 0, 0, 0]
    assert whole(Message("assistant", "it is twelve", AudioClip("a.wav"))) == [1, 0, 0, 0, 0, 0, 0, 0]


def test_references_may_be_numbers_and_lists_and_numbers_are_compared_by_value() -> None:
    asked = [replace(dialogue(), metadata={"reference": value}) for value in (12, ["a dozen", "it is 12"], -5, None)]
    groups = [
        group(each, rollout(text)) for each, text in zip(asked, ["Twelve.", "It is twelve", "5", "x"], strict=True)
    ]
    measured = TextAccuracy(TextAccuracyParams()).measure(groups)[0]
    assert measured.items == (1.0, 1.0, 0.0, None) and measured.count == 3
