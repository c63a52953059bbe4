"""A codec of two code books: spectral shape (k-means of mel-cepstrum patches) and prosody (pitch, voicing, level).

A patch of 80 ms is one content id and one prosody id, laid out flat as [content, prosody, content, prosody, ...];
prosody ids follow the content ids. Decoding drives an envelope with pulses or noise (`plugins.speech.vocoder`).
Source: own construction after the source-filter model of speech (Fant, 1960) and mel-cepstral vocoding
(Imai, Sumita and Furuichi, 1983).
"""

from collections.abc import Sequence
from typing import final

import torch
from pydantic import Field

from wavalign.errors import CheckpointError
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.codebooks import Settings, fit, load, save, too_little
from wavalign.plugins.speech.codes import flat_ids, refuse_other_rate, whole_frames
from wavalign.plugins.speech.vocoder import SAMPLE_RATE, synthesise
from wavalign.schema.base import Params, RecipePath


@final
class SourceFilterParams(Params):
    """Options of the source-filter codec."""

    checkpoint: RecipePath | None = None
    """The codec's safetensors file: code books and sizes. Only a `fit_codec` stage, which writes one, goes without."""
    num_content: int = Field(default=512, ge=1, le=1 << 16)
    """Content ids to fit; a checkpoint brings its own number."""
    num_prosody: int = Field(default=128, ge=1, le=1 << 16)
    """Prosody ids to fit; a checkpoint brings its own number."""
    frames_per_patch: int = Field(default=4, ge=1, le=1000)
    """Frames of 20 ms to fit a pair of ids to; 4 are 12.5 pairs a second. A checkpoint brings its own number."""


@final
class SourceFilterCodec(Codec):
    """Patches of sound to pairs of ids and back."""

    Params = SourceFilterParams

    def __init__(self, params: SourceFilterParams) -> None:
        if params.checkpoint is None:
            raise CheckpointError(
                "the codec has no checkpoint", hint="set codec.checkpoint or put a fit_codec stage first"
            )
        self._books = load(params.checkpoint)
        settings = self._books.settings
        self.sample_rate = SAMPLE_RATE
        self.frame_rate = settings.frame_rate
        self.codes_per_frame = 2
        self._sizes = (settings.num_content, settings.num_prosody)
        self.num_codes = sum(self._sizes)

    def encode(self, waveform: Waveform) -> list[int]:
        """Flat ids of `waveform`; raises DataError when its rate is not `sample_rate`."""
        refuse_other_rate(waveform, self.sample_rate)
        return flat_ids(list(zip(*self._books.lookup(waveform), strict=True)), self._sizes)

    def decode(self, codes: Sequence[int]) -> Waveform:
        """Sound of every content id that a prosody id follows; all other ids give nothing."""
        pairs = whole_frames(codes, self._sizes)
        content, prosody = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return synthesise(self._books.frames(content, prosody))

    @classmethod
    def fit_lacks(cls, params: SourceFilterParams, seconds: Sequence[float]) -> str | None:
        """Fewer patches of sound than the larger book has entries."""
        return too_little(seconds, Settings(params.num_content, params.num_prosody, params.frames_per_patch))

    @classmethod
    def fit(
        cls, params: SourceFilterParams, waveforms: Sequence[Waveform], *, generator: torch.Generator, path: str
    ) -> None:
        """Fit both books to `waveforms` and write them to `path`."""
        settings = Settings(params.num_content, params.num_prosody, params.frames_per_patch)
        save(fit(waveforms, settings, generator=generator), path)

    def fingerprint(self) -> str:
        """Digest of the code books and of the layout."""
        return f"source-filter-{self._books.fingerprint()}"
