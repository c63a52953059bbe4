"""A neural voice, cut in two where its prosody lies open: hibari, an American woman at 24 kHz.

    front    phones, speed -> per frame of 12.5 ms the phone's features [128] (a new one every 25 ms), F0 in Hz, level
    back     features, F0, level -> five spectra -> pulses and noise shaped by them, one inverse STFT

Between the two, pitch, its range and the level are moved before a sound exists, so that a style costs no quality; and
the back speaks phones of any durations, which `codecs.phonetic` makes tokens of. The noise is seeded: the same call
gives the same samples. Source: the package hibari-tts (a voice of Kokoro-82M, distilled); its graph is cut, its weights
stay its own.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import numpy.typing as npt

from wavalign.errors import PluginError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.shipped import INSTALL, Shipped, module_folder

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

SAMPLE_RATE = 24_000
HOP = 300
"""Samples of a frame: 12.5 ms."""
WIDTH = 128
"""Numbers of a frame's features."""
FRAMES_PER_FEATURE = 2
"""Frames that share their features."""
_NETWORK = Shipped(
    "hibari-tts==0.2.1",
    "hibari",
    "assets/hibari.onnx",
    "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
    "the neural voice",
)
_JOINT = "/Concat_43_output_0"
"""What the back takes: features, log(1 + F0) and level, side by side [1, 130, F]."""
_OPEN = ("/Reshape_42_output_0", "f0", "/Mul_62_output_0")
"""What the front gives: features, F0 and level."""
_PLACE = "/ReduceSum_1_output_0"
"""The number of the phone that is being spoken, a frame of 25 ms each."""
_SPECTRA = ("lh", "theta", "ln", "lr", "phi")
_SCALE = 5.0
PAD = 0
"""The id that a sentence begins and ends with."""
VOICED = 40.0
"""Hertz; what is below is unvoiced."""


@final
@dataclass(frozen=True, slots=True)
class Score:
    """What is to be spoken, F frames of 12.5 ms."""

    features: Array
    """[F, WIDTH]."""
    pitch: Array
    """[F] Hz; below 40 unvoiced."""
    level: Array
    """[F], in the network's own logarithmic measure."""
    phones: Ids
    """[F / 2] the network's id of the phone that is spoken; a phone's frames stand together."""


@final
@dataclass(frozen=True, slots=True)
class Manner:
    """How a sentence is spoken."""

    speed: float = 1.0
    """0.5 slow .. 2 fast."""
    pitch: float = 0.0
    """Semitones above the voice's own."""
    range: float = 1.0
    """Times the voice's own excursions from its mean pitch; 0 is monotone."""
    level: float = 0.0
    """Added to the level of what sounds; 1 is about 3 dB."""
    slur: int = 1
    """Frames over which a frame's features are averaged, an odd number: articulation that does not arrive."""


@final
class NeuralVoice:
    """The two parts; any number of threads may call them."""

    def __init__(self) -> None:
        """Load and cut the network (0.5 s). Raises PluginError where the extra `natural` is not installed."""
        path = _NETWORK.file()
        if module_folder("onnx") is None:
            raise PluginError("the neural voice needs the package onnx", hint=INSTALL)
        import onnx.utils  # a second together with the next, and absent without the extra
        from hibari import Hibari, dsp
        from onnxruntime import InferenceSession, SessionOptions

        self._dsp: Any = dsp
        self._words: Any = Hibari(model=str(path))
        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        cutter = onnx.utils.Extractor(onnx.load(str(path)))
        parts = (
            cutter.extract_model(list(ends[0]), list(ends[1])).SerializeToString()
            for ends in ((("ids", "speed"), (*_OPEN, _PLACE)), (("ids", _PLACE), _OPEN), ((_JOINT,), _SPECTRA))
        )
        self._front, self._timed, self._back = (
            InferenceSession(part, options, providers=["CPUExecutionProvider"]) for part in parts
        )

    def read(self, text: str, manner: Manner = Manner()) -> Score:
        """How `text` is to be spoken; no frames for no words. Long texts: sentence after sentence."""
        said = [self._sentence(phones, manner) for phones in self._words.phonemize(text)]
        if not said:
            nothing = np.zeros(0, np.float32)
            return Score(np.zeros((0, WIDTH), np.float32), nothing, nothing, np.zeros(0, np.int64))
        return Score(
            np.concatenate([each.features for each in said]),
            np.concatenate([each.pitch for each in said]),
            np.concatenate([each.level for each in said]),
            np.concatenate([each.phones for each in said]),
        )

    def timed(self, phones: Ids) -> Score:
        """How the voice itself would speak `phones` [F / 2], each as long as it stands there, two at the least."""
        starts = np.flatnonzero(np.diff(phones, prepend=-1))
        place = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(phones)))
        found = self._timed.run(None, {"ids": phones[starts][None], _PLACE: place})
        features, pitch, level = (each[0] for each in found)
        return Score(features.T, pitch, level, phones)

    def sing(self, score: Score, *, seed: int = 0) -> Waveform:
        """The sound of `score`, HOP samples a frame; the seed is that of its noise."""
        if len(score.pitch) == 0:
            return Waveform(np.zeros(0, np.float32), SAMPLE_RATE)
        pitch = np.log1p(np.maximum(score.pitch, 0.0)) / _SCALE
        joint = np.concatenate([score.features.T, pitch[None], score.level[None] / _SCALE])[None]
        spectra = [each[0] for each in self._back.run(None, {_JOINT: joint.astype(np.float32)})]
        samples = self._dsp.synth(*spectra, score.pitch.astype(np.float32), np.random.default_rng(seed))
        return Waveform(np.clip(samples, -1.0, 1.0).astype(np.float32), SAMPLE_RATE)

    def speak(self, text: str, manner: Manner = Manner(), *, seed: int = 0) -> Waveform:
        """The sound of `text`."""
        return self.sing(self.read(text, manner), seed=seed)

    def _sentence(self, phones: str, manner: Manner) -> Score:
        ids = np.asarray([self._words.ids(phones)], np.int64)
        speed = np.asarray([manner.speed], np.float32)
        *found, place = self._front.run(None, {"ids": ids, "speed": speed})
        features, pitch, level = (each[0] for each in found)
        level = level + np.float32(manner.level) * (level > 0.0)
        return Score(_slurred(features.T, manner.slur), _moved(pitch, manner), level, ids[0][place.reshape(-1)])


def _moved(pitch: Array, manner: Manner) -> Array:
    """`pitch` [F] in another place, with another range; unvoiced frames stay."""
    voiced = pitch > VOICED
    if not voiced.any():
        return pitch
    height = np.log2(np.where(voiced, pitch, 1.0))
    mean = height[voiced].mean()
    moved = np.exp2(mean + (height - mean) * manner.range + manner.pitch / 12.0)
    return np.where(voiced, moved, pitch).astype(np.float32)


def _slurred(features: Array, width: int) -> Array:
    """Means of `features` [F, WIDTH] over `width` frames around each."""
    if width == 1:
        return features
    padded = np.pad(features, ((width // 2, width // 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=0)
    return np.asarray(windows.mean(axis=2), dtype=np.float32)


@cache
def neural_voice() -> NeuralVoice:
    """The one voice of this process."""
    return NeuralVoice()
