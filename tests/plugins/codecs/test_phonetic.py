from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from wavalign.errors import CheckpointError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.codecs.phonetic import PhoneticCodec, PhoneticParams
from wavalign.plugins.speech.neural_voice import Manner, neural_voice
from wavalign.plugins.speech.phonetic_books import _smooth
from wavalign.plugins.speech.prosody import track
from wavalign.plugins.speech.sounding import sounds
from wavalign.plugins.speech.whisper import whisper
from wavalign.plugins.speech.world.facts import answer_sentences
from wavalign.plugins.speech.world.natural_styles import NATURAL_STYLES
from wavalign.plugins.speech.world.reading import training_texts
from wavalign.plugins.speech.world.speakers import speakers
from wavalign.plugins.speech.world.speaking import say

pytest.importorskip("hibari", reason="the extra `natural` is not installed")


def at_16_khz(spoken: Waveform) -> Waveform:
    return Waveform(np.asarray(soxr.resample(spoken.samples, spoken.sample_rate, 16_000), np.float32), 16_000)


def clip(text: str) -> Waveform:
    return at_16_khz(neural_voice().speak(text))


def test_a_fit_is_that_of_its_seed_and_says_what_it_heard(tmp_path: Path) -> None:
    clips = [clip("It is nineteen."), clip("That is Madrid.")]
    params = PhoneticParams(num_content=24, num_prosody=6, num_sentences=12, steps=60)
    codecs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        path = str(tmp_path / f"{name}.safetensors")
        PhoneticCodec.fit(params, clips, generator=torch.Generator().manual_seed(seed), path=path)
        codecs.append(PhoneticCodec(PhoneticParams(checkpoint=path)))
    assert codecs[0].fingerprint() == codecs[1].fingerprint() != codecs[2].fingerprint()
    codes = codecs[0].encode(clips[0])
    assert codecs[0].num_codes == 30 and codecs[0].frame_rate == pytest.approx(13.333, abs=1e-3)
    sound = codecs[0].decode(codes)
    assert sound.sample_rate == 24_000 and sound.seconds == pytest.approx(clips[0].seconds, abs=0.076)


def test_a_change_of_phone_costs_three_nats() -> None:
    # One frame of b among a's: 1.5 nats better is not worth two changes, 9 nats are.
    weak = np.log(np.array([[0.7, 0.3]] * 2 + [[0.18, 0.82]] + [[0.7, 0.3]] * 2, np.float32))
    strong = np.array([[0.0, -9.0]] * 2 + [[-9.0, 0.0]] + [[0.0, -9.0]] * 2, np.float32)
    assert _smooth(weak).tolist() == [0, 0, 0, 0, 0]
    assert _smooth(strong).tolist() == [0, 0, 1, 0, 0]


def test_the_cheapest_path_is_that_of_a_search_over_all_paths() -> None:
    chances = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32) * 2

    def worth(path: tuple[int, ...]) -> float:
        changes = sum(one != other for one, other in pairwise(path))
        return float(sum(chances[i, each] for i, each in enumerate(path))) - 3.0 * changes

    best = max(product(range(3), repeat=6), key=worth)
    assert worth(tuple(_smooth(chances).tolist())) == pytest.approx(worth(best), abs=1e-5)


def test_what_is_read_to_learn_from_holds_every_answer_and_words_of_no_world() -> None:
    texts = training_texts(None, 600, seed=0)
    assert texts == training_texts(None, 600, seed=0) != training_texts(None, 600, seed=1)
    assert len(texts) == 600 and "It is twelve." in texts and all(text[-1] in ".?" for text in texts)
    assert set(training_texts(["so it goes"], 3, seed=0)) == {"So it goes."}


def test_another_file_is_no_codec(tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        PhoneticCodec(PhoneticParams(checkpoint=str(tmp_path / "c.safetensors")))
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        PhoneticCodec(PhoneticParams())


def shipped() -> PhoneticCodec:
    path = Path(__file__).parents[3] / "recipes/base/natural-world/codec.safetensors"
    return PhoneticCodec(PhoneticParams(checkpoint=str(path)))


def test_the_shipped_book_holds_what_the_assistant_says() -> None:
    tables = shipped()._books.tables
    book = {tuple(pattern) for pattern in tables["phones"][tables["patterns"]].tolist()}
    found = total = 0
    for index, text in enumerate(answer_sentences()[::5]):
        style = NATURAL_STYLES[index % 5].answer
        manner = Manner(style.speed, style.pitch, style.range, style.level)
        phones = neural_voice().read(f"{text.capitalize()}.", manner).phones
        patterns = [tuple(phones[at : at + 3].tolist()) for at in range(len(phones) - 2)]
        found, total = found + sum(each in book for each in patterns), total + len(patterns)
    assert found / total > 0.99


def test_a_patch_keeps_its_pitch_and_the_voice_its_own_course_within() -> None:
    codec, text = shipped(), clip("That is Ottawa.")
    content, prosody = codec._books.lookup(text)
    higher = codec._books.tables["prosody"].clone()
    higher[:, 0] += 3.0
    tables = {**codec._books.tables, "prosody": higher}
    raised = replace(codec._books, tables=tables).speak(content, prosody)
    before, after = (track(at_16_khz(each), hop=200).pitch for each in (codec._books.speak(content, prosody), raised))
    both = (before > 0.0) & (after > 0.0)
    assert np.median(12.0 * np.log2(after[both] / before[both])) == pytest.approx(3.0, abs=0.2)
    course = np.diff(np.log2(before[both]))
    assert np.corrcoef(course, np.diff(np.log2(after[both])))[0, 1] > 0.8


def test_whisper_understands_gold_answers_through_the_shipped_codec() -> None:
    codec, cast, right = shipped(), speakers("natural"), 0
    sentences = answer_sentences()[::10]
    for index, text in enumerate(sentences):
        back = codec.decode(codec.encode(at_16_khz(say(text, cast.answer(index % 5, 7)))))
        right += sounds(whisper(2).recognize(back))[-1:] == sounds(text)[-1:]
    assert len(sentences) == 8 and right == 8
