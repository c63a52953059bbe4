"""Text to samples with eSpeak NG, in process, through ctypes.

The library keeps one voice and one set of parameters for the whole process, so calls are serialised by a lock; speak
from several processes where speed matters. No torch here: the workers that build a corpus start faster without it.

eSpeak is not deterministic by itself: pitch flutter runs on from one utterance into the next, its noise is drawn from
one stream, and two buffers take turns. Here voices are loaded without flutter, the stream is seeded, and a short probe
is spoken until it sounds as it did first, so that the same call gives the same samples in any order and process.
"""

import atexit
import ctypes
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import espeakng_loader
import numpy as np
import numpy.typing as npt

from wavalign.errors import DataError

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8 = 1
_IPA = 0x02
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_PROBE_ATTEMPTS = 8
_LOCK = threading.Lock()
_LANGUAGES = {"en-us": "lang/gmw/en-US", "en-gb": "lang/gmw/en"}
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@final
@dataclass(frozen=True, slots=True)
class Delivery:
    """How a sentence is spoken: eSpeak's voice and its four sliders."""

    voice: str = "en-us"
    """Voice, with an optional variant: `en-us+m3`, `en-us+f2`, `en-us+whisper`."""
    pitch: int = 45
    """0..99."""
    range: int = 45
    """0..99, 0 is monotone."""
    rate: int = 165
    """Words a minute, 80..450."""
    volume: int = 100
    """0..200."""

    def __post_init__(self) -> None:
        limits = (("pitch", 0, 99), ("range", 0, 99), ("rate", 80, 450), ("volume", 0, 200))
        for name, low, high in limits:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {getattr(self, name)}")


_PROBE = Delivery(rate=300)


@final
class _Engine:
    """The loaded library and the samples of the utterance it is speaking; the caller holds the lock."""

    def __init__(self) -> None:
        self.chunks: list[npt.NDArray[np.int16]] = []
        self.voices = tempfile.TemporaryDirectory(prefix="wavalign-voices-")
        atexit.register(self.voices.cleanup)
        self.data = Path(espeakng_loader.get_data_path())
        self.library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        self.library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self.library.espeak_Info.restype = ctypes.c_char_p
        self.library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rate = self.library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, str(self.data).encode(), _DONT_EXIT)
        self.sample_rate = int(rate)
        if self.sample_rate <= 0:
            raise DataError("eSpeak NG could not load its data", hint="reinstall the package espeakng-loader")
        self.callback = _CALLBACK(self._take)  # kept here: ctypes would let it be collected
        self.library.espeak_SetSynthCallback(self.callback)
        self.version: bytes = self.library.espeak_Info(None) or b""
        self.library.espeak_ng_SetRandSeed(1)
        self.probe = self._utter("oh", _PROBE)

    def speak(self, text: str, delivery: Delivery) -> npt.NDArray[np.int16]:
        """Samples [N] of `text`, from the state of a library just loaded."""
        for _ in range(_PROBE_ATTEMPTS):
            self.library.espeak_ng_SetRandSeed(1)
            if np.array_equal(self._utter("oh", _PROBE), self.probe):
                break
        else:
            raise DataError("eSpeak NG does not repeat itself", hint="use espeakng-loader 0.2.4")
        self.library.espeak_ng_SetRandSeed(1)
        return self._utter(text, delivery)

    def _utter(self, text: str, delivery: Delivery) -> npt.NDArray[np.int16]:
        self.chunks.clear()
        self._choose(delivery.voice)
        values = (
            (_RATE, delivery.rate),
            (_VOLUME, delivery.volume),
            (_PITCH, delivery.pitch),
            (_RANGE, delivery.range),
        )
        for slider, value in values:
            self.library.espeak_SetParameter(slider, value, 0)
        data = text.encode()
        status = self.library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, None, None)
        if status != 0 or self.library.espeak_Synchronize() != 0:
            raise DataError(f"eSpeak NG could not speak {text!r}", hint="use plain words")
        return np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)

    def phones(self, text: str, voice: str) -> str:
        """`text` in the International Phonetic Alphabet, clause after clause."""
        self._choose(voice)
        place = ctypes.c_char_p(text.encode())
        found = []
        while place.value is not None:
            said: bytes | None = self.library.espeak_TextToPhonemes(ctypes.byref(place), _UTF8, _IPA)
            found.append((said or b"").decode())
        return " ".join(filter(None, found))

    def _take(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def _choose(self, voice: str) -> None:
        if self.library.espeak_SetVoiceByFile(str(self._voice_file(voice)).encode()) != 0:
            raise DataError(f"eSpeak NG refused the voice {voice!r}", hint="use e.g. en-us or en-us+m3")

    def _voice_file(self, voice: str) -> Path:
        """The installed voice and variant as one file, without flutter."""
        path = Path(self.voices.name, voice.replace("+", "_"))
        if path.exists():
            return path
        language, _, variant = voice.partition("+")
        variant_file = self.data / "voices/!v" / variant
        if language not in _LANGUAGES or (variant and not variant_file.is_file()):
            raise DataError(f"eSpeak NG has no voice {voice!r}", hint="use e.g. en-us, en-us+m3 or en-gb+f2")
        lines = (self.data / _LANGUAGES[language]).read_text().splitlines()
        if variant:
            own = ("name", "language", "gender", "flutter")
            lines += [line for line in variant_file.read_text().splitlines() if not line.startswith(own)]
        path.write_text("\n".join([*lines, "flutter 0", ""]))
        return path


@cache
def _engine() -> _Engine:
    return _Engine()


def speak(text: str, delivery: Delivery) -> tuple[npt.NDArray[np.float32], int]:
    """Samples [N] of `text` in -1..1 and their rate in Hz; the same call gives the same samples."""
    with _LOCK:
        engine = _engine()
        samples = engine.speak(text, delivery)
    return (samples / 32768.0).astype(np.float32), engine.sample_rate


def phones(text: str, voice: str) -> str:
    """`text` in the International Phonetic Alphabet as `voice` says it; punctuation is lost."""
    with _LOCK:
        return _engine().phones(text, voice)


def version() -> str:
    """Version of the library, for keys of caches."""
    with _LOCK:
        return _engine().version.decode()
