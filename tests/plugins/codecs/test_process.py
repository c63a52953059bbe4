"""A codec in a process of its own; what all codecs owe stands in tests/plugins/codecs."""

from pathlib import Path

import numpy as np
import pytest

from tests.plugins.codecs.makers import WORKERS, noise
from wavalign.errors import PluginError, PreflightError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.codecs.process import ProcessCodec, ProcessParams

TONES = WORKERS / "tones.py"


def tones(*arguments: str, script: Path = TONES) -> ProcessCodec:
    return ProcessCodec(ProcessParams(script=str(script), arguments=arguments))


def test_it_is_what_the_worker_declares() -> None:
    codec = tones("12000", "240", "64", "10")
    assert (codec.sample_rate, codec.frame_rate, codec.codes_per_frame, codec.num_codes) == (8000, 50.0, 2, 74)
    # 160 samples of a square wave of 8 samples: 39 changes of sign, loudness 0.55 of ten steps.
    square = np.tile(np.repeat([0.55, -0.55], 4), 20).astype(np.float32)
    assert codec.encode(Waveform(square, 8000)) == [39, 64 + 5]
    sound = codec.decode([39, 69])
    assert (sound.sample_rate, len(sound.samples)) == (12_000, 240)


def test_the_fingerprint_is_of_the_script_and_the_contract(tmp_path: Path) -> None:
    same, moved = tones("12000", "240", "64", "10"), tmp_path / "tones.py"
    moved.write_text(TONES.read_text())
    assert tones("12000", "240", "64", "10", script=moved).fingerprint() == same.fingerprint()
    moved.write_text(TONES.read_text() + "# changed\n")
    assert tones("12000", "240", "64", "10", script=moved).fingerprint() != same.fingerprint()
    assert tones("12000", "240", "63", "10").fingerprint() != same.fingerprint()


def test_a_worker_that_only_decodes_is_no_codec() -> None:
    with pytest.raises(PluginError, match=r"tones\.py does not encode"):
        tones("12000", "240", "64", "0")


def test_a_worker_that_only_encodes_cannot_decode(tmp_path: Path) -> None:
    script = tmp_path / "deaf.py"
    script.write_text(
        "from wavalign_worker import Contract, serve\n"
        "contract = Contract((4,), 8000, frame_rate=50.0, fingerprint='f')\n"
        "serve(lambda: (contract, lambda samples: [1] * (len(samples) // 160), None))\n"
    )
    codec = tones(script=script)
    assert codec.encode(noise(480, 8000)) == [1, 1, 1] and not codec.can_decode
    with pytest.raises(PreflightError, match=r"deaf\.py does not decode"):
        codec.decode([1])
