import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from wavalign.errors import DataError
from wavalign.plugins.speech import espeak
from wavalign.plugins.speech.espeak import Delivery
from wavalign.plugins.speech.synthesizer import SAMPLE_RATE, synthesize

JOBS = [("it is twelve", Delivery()), ("what is six", Delivery("en-us+m3", 70, 80, 200)), ("no", Delivery("en-us+f2"))]


def digests(order: list[int]) -> dict[int, str]:
    return {index: hashlib.sha256(synthesize(*JOBS[index]).samples.tobytes()).hexdigest() for index in order}


def test_the_same_call_gives_the_same_samples_in_any_order() -> None:
    assert digests([0, 1, 2]) == digests([2, 0, 1]) == digests([1, 1, 2, 0])


def test_another_process_hears_the_same() -> None:
    script = (
        "import hashlib; from wavalign.plugins.speech.espeak import *; "
        "print(hashlib.sha256(speak('what is six', Delivery('en-us+m3', 70, 80, 200))[0].tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    samples, _ = espeak.speak(*JOBS[1])
    assert run.stdout.strip() == hashlib.sha256(samples.tobytes()).hexdigest()


def test_sliders_do_what_they_say() -> None:
    slow, fast = synthesize("it is twelve", Delivery(rate=120)), synthesize("it is twelve", Delivery(rate=240))
    quiet, loud = synthesize("it is twelve", Delivery(volume=50)), synthesize("it is twelve", Delivery(volume=100))
    assert slow.sample_rate == SAMPLE_RATE and slow.seconds > 1.4 * fast.seconds
    assert np.abs(loud.samples).max() > 1.6 * np.abs(quiet.samples).max() > 0.01


def test_an_unknown_voice_is_an_error_with_advice() -> None:
    with pytest.raises(DataError, match="en-us\\+nobody") as caught:
        synthesize("hello", Delivery("en-us+nobody"))
    assert caught.value.hint


@pytest.mark.parametrize("wrong", [{"pitch": 100}, {"rate": 79}, {"range": -1}, {"volume": 201}])
def test_a_slider_beyond_its_end_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be between"):
        Delivery(**wrong)
