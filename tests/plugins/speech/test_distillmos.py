"""Distill-MOS: scores of the package whose weights they are, and what is known of its behaviour."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.plugins.speech.test_quality import noisy
from tests.plugins.speech.test_speaker import tone
from tests.plugins.spoken import say
from wavalign.errors import PluginError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech import distillmos
from wavalign.plugins.speech.shipped import Shipped

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("distillmos") is None, reason="pip install --no-deps distillmos==0.9.1"
)
THEIRS = {0.3: 1.8023757934570312, 5.0: 1.379128098487854, 7.68: 1.3525424003601074, 8.1: 1.3485803604125977}
"""`ConvTransformerSQAModel()(samples)` of distillmos 0.9.1 with xls-r-sqa 0.1.0 and an empty module `torchaudio`, by
seconds of `tone`; the one of 5 s is at a fifth of the level."""


@pytest.mark.parametrize("seconds", THEIRS)
def test_it_is_that_of_the_package(seconds: float) -> None:
    ours = distillmos.predicted_quality(tone(seconds, 0.2 if seconds == 5.0 else 1.0))
    assert ours == pytest.approx(THEIRS[seconds], abs=2e-5)


def test_what_is_left_out_of_the_convolutions_changes_nothing() -> None:
    network, samples = distillmos.network(), torch.from_numpy(tone(2.03).samples)[None]
    with torch.inference_mode():
        whole = network.cnn(functional.pad(samples, (0, 122_880 - samples.shape[1])))
        assert torch.allclose(network.features(samples), whole, atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "starts"),
    [
        (1, [0]),
        (122_880, [0]),
        (122_881, [0, 1]),
        (122_880 + 32_000, [0, 16_000, 32_000]),
        (122_880 + 160_000, [0, 32_000, 64_000, 96_000, 128_000, 160_000]),
    ],
)
def test_windows_end_with_the_sound(samples: int, starts: list[int]) -> None:
    assert distillmos.window_starts(samples) == starts


def test_silence_has_no_quality_and_level_changes_nothing() -> None:
    clip = say("it is nineteen")
    assert distillmos.predicted_quality(Waveform(np.zeros(16_000, np.float32), 16_000)) is None
    assert distillmos.predicted_quality(Waveform(np.zeros(0, np.float32), 16_000)) is None
    loud = distillmos.predicted_quality(clip)
    assert loud == pytest.approx(distillmos.predicted_quality(Waveform(clip.samples * 0.1, 16_000)), abs=1e-3)


def test_noise_raises_the_score_of_a_synthetic_voice() -> None:
    """The trap that its page warns of: if this fails, the page is wrong."""
    clips = [say(text) for text in ("it is nineteen", "that is paris")]
    clean, faint, strong = (
        sum(distillmos.predicted_quality(change(clip)) or 0.0 for clip in clips)
        for change in (lambda x: x, lambda x: noisy(x, 20.0), lambda x: noisy(x, 0.0))
    )
    assert faint > clean > strong


def test_the_package_is_not_imported() -> None:
    script = (
        "import sys; from wavalign.plugins.speech.distillmos import network; network(); "
        "print('distillmos' in sys.modules, 'torchaudio' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False False"


def test_a_file_that_holds_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"model": {"cnn.cnn.0.bias": torch.zeros(3)}}, path)
    monkeypatch.setattr(Shipped, "file", lambda self: path)
    distillmos.network.cache_clear()
    with pytest.raises(PluginError, match=r"holds no network of Distill-MOS") as caught:
        distillmos.network()
    distillmos.network.cache_clear()
    assert caught.value.hint == "pip install --no-deps distillmos==0.9.1"
