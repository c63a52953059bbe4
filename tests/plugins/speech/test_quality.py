import subprocess
import sys

import numpy as np
import pytest

from tests.plugins.speech.test_speaker import tone
from tests.plugins.spoken import say
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.quality import assess


def noisy(waveform: Waveform, snr: float) -> Waveform:
    noise = np.random.default_rng(0).standard_normal(len(waveform.samples))
    scale = np.sqrt(np.mean(waveform.samples**2)) * 10 ** (-snr / 20)
    return Waveform((waveform.samples + scale * noise).astype(np.float32), waveform.sample_rate)


THEIRS = {9.01: (2.0689092, 1.28659918, 1.35029761, 1.98702898), 4.505: (2.057425, 1.30038856, 1.34106283, 2.04628316)}
"""P.808, overall, signal and background by `dnsmos.run(samples, 16_000)` of speechmos 0.0.1.1 with librosa 0.11, by
seconds of `tone`; of the shorter one twice, as it fills the window exactly."""


@pytest.mark.parametrize("seconds", THEIRS)
def test_scores_are_those_of_the_package(seconds: float) -> None:
    ours = assess(tone(seconds), overall=True)
    assert ours is not None
    assert (ours.p808, ours.overall, ours.signal, ours.background) == pytest.approx(THEIRS[seconds], abs=1e-5)


def test_quality_falls_with_noise_on_its_own_scale() -> None:
    clean = say("it is nineteen")
    scores = [assess(each, overall=True) for each in (clean, noisy(clean, 20.0), noisy(clean, 0.0))]
    first, second, third = (score for score in scores if score is not None)
    assert 1.0 <= third.p808 < second.p808 < first.p808 <= 5.0
    assert second.overall is not None and third.overall is not None and first.overall is not None
    assert 1.0 <= third.overall < second.overall < first.overall <= 5.0


def test_the_dear_network_is_asked_only_on_request_and_silence_never() -> None:
    score = assess(say("it is two"))
    assert score is not None and score.overall is None
    assert assess(Waveform(np.zeros(16_000, np.float32), 16_000)) is None
    assert assess(Waveform(np.zeros(0, np.float32), 16_000)) is None


def test_a_repeated_clip_scores_as_the_clip() -> None:
    clip = say("it is two")
    twice = Waveform(np.tile(clip.samples, 2), clip.sample_rate)
    once_score, twice_score = assess(clip), assess(twice)
    assert once_score is not None and twice_score is not None
    assert once_score.p808 == pytest.approx(twice_score.p808, abs=1e-6)


def test_the_package_of_the_networks_is_not_imported() -> None:
    script = (
        "import sys, wavalign.plugins.speech.quality as quality; "
        "quality._session(quality._P808); print('speechmos' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
