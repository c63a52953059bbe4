"""Rewards that say where: right and wrong words in the sound, noise by frames, codes of the target."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.plugins.spoken import dialogue, say
from wavalign.engine.contracts.rollouts import scored
from wavalign.plugins.batch import Answer, AudioClip, Dialogue, Message, Role, Rollout, TokenSequence, Waveform
from wavalign.plugins.rewards.aligned_words import AlignedWords, AlignedWordsParams
from wavalign.plugins.rewards.frame_quality import FrameQuality, FrameQualityParams
from wavalign.plugins.rewards.target_codes import TargetCodes
from wavalign.plugins.speech.recognizer import recognizer
from wavalign.plugins.speech.world.facts import answer_sentences
from wavalign.schema.base import Params


def spoken(sound: Waveform, *, seconds_per_code: float = 0.02, text: str = "") -> Rollout:
    """An answer whose codes are 20 ms each."""
    count = round(sound.seconds / seconds_per_code)
    roles = torch.tensor([[int(Role.AUDIO_MARK), *[int(Role.AUDIO)] * count]], dtype=torch.int8)
    tokens = TokenSequence(torch.zeros(roles.shape, dtype=torch.int64), roles)
    return Rollout(tokens, torch.zeros(roles.shape), Answer(text, tuple(range(count)), True), waveform=sound)


def test_words_are_heard_where_they_are() -> None:
    """The pause before the sentence moves the answer's word by its length."""
    ears, sound = recognizer(answer_sentences(), 2), say("that is paris")
    words = ears.words(sound)
    assert " ".join(each.word for each in words) == ears.recognize(sound) == "that is paris"
    assert all(0 <= each.start < each.end <= sound.seconds + 0.05 for each in words)
    assert all(before.end <= after.start + 0.02 for before, after in pairwise(words))
    pause = np.random.default_rng(0).standard_normal(8_000).astype(np.float32) * 1e-4
    later = ears.words(Waveform(np.concatenate([pause, sound.samples]), sound.sample_rate))
    assert later[-1].word == words[-1].word == "paris"
    assert later[-1].start == pytest.approx(words[-1].start + 0.5, abs=0.1)
    assert ears.words(Waveform(np.zeros(0, np.float32), 16_000)) == []


def test_right_words_pay_and_wrong_ones_cost_where_they_stand() -> None:
    reward = AlignedWords(AlignedWordsParams())
    answer = spoken(say("that is paris"))
    right = reward.score(answer, dialogue("that is paris"))
    assert right.value == 1 and right.tokens is not None
    assert float(right.tokens.sum()) == pytest.approx(3)
    assert not (right.tokens < 0).any()
    wrong = reward.score(answer, dialogue("that is rome"))
    assert wrong.value == pytest.approx(2 * 2 / 3 - 1) and wrong.tokens is not None
    assert float(wrong.tokens.sum()) == pytest.approx(1)
    differs = (wrong.tokens != right.tokens).nonzero()[:, 1]
    assert float(wrong.tokens[0, differs].sum()) == pytest.approx(-1)
    assert int(differs.min()) >= 0.5 * answer.completion.length  # the last word is at the end
    own = AlignedWords(AlignedWordsParams(reference=None))
    assert own.score(spoken(say("that is paris"), text="That is Paris!"), dialogue("that is rome")).value == 1
    assert own.score(spoken(say("that is paris")), dialogue()).blame == "answer"
    assert reward.score(answer, replace(dialogue(), metadata={})).reason == "there is no reference"


def test_noise_is_marked_down_where_it_is() -> None:
    reward, rate = FrameQuality(FrameQualityParams()), 16_000
    time = np.arange(rate, dtype=np.float32) / rate
    tone = 0.3 * sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 8))
    noise = 0.1 * np.random.default_rng(1).standard_normal(rate)
    both = np.concatenate([tone, noise, np.zeros(rate)]).astype(np.float32)
    found = reward.score(spoken(Waveform(both, rate)), dialogue())
    assert found.tokens is not None and found.value is not None
    voiced, noisy, silent = (found.tokens[0, 1:].view(3, 50)[:, 2:-2]).mean(dim=1).tolist()
    assert voiced > 0.9
    assert noisy == pytest.approx(0.44, abs=0.05)
    assert silent == 0
    assert found.value == pytest.approx((voiced + noisy) / 2, abs=0.03)
    halves = FrameQuality(FrameQualityParams(codes_per_frame=2)).score(spoken(Waveform(both, rate)), dialogue())
    assert halves.tokens is not None
    assert float(halves.tokens.sum()) == pytest.approx(float(found.tokens.sum()) / 2, rel=0.02)
    assert reward.score(spoken(Waveform(np.zeros(rate, np.float32), rate)), dialogue()).blame == "answer"


def golden(codes: tuple[int, ...]) -> Dialogue:
    return Dialogue("d", (Message("user", "x"),), Message("assistant", "", AudioClip.of_codes(codes)))


def test_codes_of_the_target() -> None:
    reward = TargetCodes(Params())
    said = spoken(Waveform(np.zeros(1_600, np.float32), 16_000))
    said = replace(said, answer=Answer("", (5, 1, 9, 2, 3), True))
    found = reward.score(said, golden((1, 2, 3, 4)))
    assert found.value == pytest.approx(2 * 3 / 9)
    assert found.tokens is not None
    assert found.tokens.tolist() == [[0, 0, 1, 0, 1, 1]]
    assert reward.score(said, golden((5, 1, 9, 2, 3))).value == 1
    nothing = replace(said, answer=Answer("", (), True))
    assert reward.score(nothing, golden((1,))).blame == "answer"
    assert reward.score(said, Dialogue("d", ())).blame == "reward"
    assert TargetCodes.dialogue_needs(Params(), Dialogue("d", ())) is not None


def test_what_they_say_keeps_the_contract(tmp_path: Path) -> None:
    answer = spoken(say("that is paris"))
    for reward in (AlignedWords(AlignedWordsParams()), FrameQuality(FrameQualityParams())):
        said = reward.score(answer, dialogue("that is rome"))
        held = scored(said, *reward.range, completion=answer.completion)
        assert held.value == said.value
        assert held.tokens is not None
