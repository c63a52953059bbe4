"""A codec of two code books: spectral shape (k-means of mel-cepstrum patches) and prosody (pitch, voicing, level).

A patch of 80 ms is one content id and one prosody id, laid out flat as [content, prosody, content, prosody, ...];
prosody ids follow the content ids. Decoding drives an envelope with pulses or noise (`plugins.speech.vocoder`).
Source: own construction after the source-filter model of speech (Fant, 1960) and mel-cepstral vocoding
(Imai, Sumita and Furuichi, 1983).
"""

from collections.abc import Sequence
from typing import final

from wavalign.errors import DataError
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.codebooks import load
from wavalign.plugins.speech.vocoder import SAMPLE_RATE, synthesise
from wavalign.schema.base import Params, RecipePath


@final
class SourceFilterParams(Params):
    """Options of the source-filter codec."""

    checkpoint: RecipePath
    """The codec's safetensors file: code books and sizes."""


@final
class SourceFilterCodec(Codec):
    """Patches of sound to pairs of ids and back."""

    Params = SourceFilterParams

    def __init__(self, params: SourceFilterParams) -> None:
        self._books = load(params.checkpoint)
        settings = self._books.settings
        self.sample_rate = SAMPLE_RATE
        self.frame_rate = settings.frame_rate
        self.codes_per_frame = 2
        self.num_codes = settings.num_content + settings.num_prosody

    def encode(self, waveform: Waveform) -> list[int]:
        """Flat ids of `waveform`; raises DataError when its rate is not `sample_rate`."""
        if waveform.sample_rate != self.sample_rate:
            raise DataError(
                f"the codec takes {self.sample_rate} Hz, the sound has {waveform.sample_rate} Hz",
                hint="read the file with the codec's sample rate",
            )
        content, prosody = self._books.lookup(waveform)
        offset = self._books.settings.num_content
        return [code for pair in zip(content, prosody, strict=True) for code in (pair[0], pair[1] + offset)]

    def decode(self, codes: Sequence[int]) -> Waveform:
        """Sound of every content id that a prosody id follows; all other ids give nothing."""
        offset = self._books.settings.num_content
        pairs = [
            (first, second - offset)
            for first, second in zip(codes[:-1], codes[1:], strict=True)
            if 0 <= first < offset <= second < self.num_codes
        ]
        content, prosody = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return synthesise(self._books.frames(content, prosody))

    def fingerprint(self) -> str:
        """Digest of the code books and of the layout."""
        return f"source-filter-{self._books.fingerprint()}"
