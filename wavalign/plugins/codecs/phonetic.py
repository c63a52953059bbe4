"""A codec whose content is phones: what a neural voice would have to say, and how high and how loud.

A patch of 75 ms is one content id (which phones its three frames say) and one prosody id (pitch, level), laid out flat
as [content, prosody, content, prosody, ...]; prosody ids follow the content ids. Decoding gives the phones back to the
neural voice, which speaks them with these durations, pitches and levels: any speech that is encoded comes back in that
one voice, at 24 kHz. It needs the extra `natural`.
Source: own construction; the voice is `speech.neural_voice`, the ear that finds its phones `speech.phone_classifier`.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from pydantic import Field

from wavalign.errors import CheckpointError
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.codes import flat_ids, refuse_other_rate, whole_frames
from wavalign.plugins.speech.neural_voice import SAMPLE_RATE as VOICE_RATE
from wavalign.plugins.speech.phone_classifier import SAMPLE_RATE
from wavalign.plugins.speech.phonetic_books import PhoneticSettings, fit_phonetic, load_phonetic, save_phonetic
from wavalign.plugins.speech.sentences import load_sentences
from wavalign.plugins.speech.world.reading import training_texts
from wavalign.schema.base import Params, RecipePath


@final
class PhoneticParams(Params):
    """Options of the phonetic codec."""

    checkpoint: RecipePath | None = None
    """The codec's safetensors file. Only a `fit_codec` stage, which writes one, goes without."""
    num_content: int = Field(default=1536, ge=1, le=1 << 16)
    """Content ids to fit; a checkpoint brings its own number."""
    num_prosody: int = Field(default=128, ge=1, le=1 << 16)
    """Prosody ids to fit; a checkpoint brings its own number."""
    frames_per_patch: int = Field(default=3, ge=1, le=40)
    """Frames of 25 ms to fit a pair of ids to; 3 are 13.3 pairs a second. A checkpoint brings its own number."""
    sentences: RecipePath | None = None
    """Text file of sentences that the voice reads to learn from, one a line; null: the embedded world, random words."""
    num_sentences: int = Field(default=3000, ge=1, le=100_000)
    """How many it reads."""
    steps: int = Field(default=14_000, ge=1, le=1_000_000)
    """Updates of the network that tells phones."""


@final
class PhoneticCodec(Codec):
    """Patches of sound to pairs of ids, and back in one voice."""

    Params = PhoneticParams

    def __init__(self, params: PhoneticParams) -> None:
        if params.checkpoint is None:
            raise CheckpointError(
                "the codec has no checkpoint", hint="set codec.checkpoint or put a fit_codec stage first"
            )
        self._books = load_phonetic(params.checkpoint)
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
        """Sound (24 kHz) of every content id that a prosody id follows; all other ids give nothing."""
        pairs = whole_frames(codes, self._sizes)
        if not pairs:
            return Waveform(np.zeros(0, np.float32), VOICE_RATE)
        return self._books.speak([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    @classmethod
    def fit(
        cls, params: PhoneticParams, waveforms: Sequence[Waveform], *, generator: torch.Generator, path: str
    ) -> None:
        """Learn phones and their patterns from what the voice reads, prosody from `waveforms`; write all to `path`."""
        settings = PhoneticSettings(params.num_content, params.num_prosody, params.frames_per_patch)
        seed = int(torch.randint(1 << 31, (), generator=generator))
        given = None if params.sentences is None else load_sentences(params.sentences)
        texts = training_texts(given, params.num_sentences, seed=seed)
        save_phonetic(fit_phonetic(waveforms, texts, settings, steps=params.steps, generator=generator), path)

    def fingerprint(self) -> str:
        """Digest of the network and the code books, and the format."""
        return f"phonetic-{self._books.fingerprint()}"
