"""Codecs, and the models that complete their frames (NARs)."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from wavalign.errors import PluginError
from wavalign.plugins.api.base import Plugin
from wavalign.plugins.batch import Waveform


class Codec(Plugin):
    """Waveform to discrete ids and back.

    Ids are flat and frame-major: the `codes_per_frame` ids of a frame stand side by side, and those of each code book
    lie in a range of their own (id = sizes of the books before it + code), so that an id alone tells its book.
    """

    kind = "codec"
    sample_rate: int
    """Hertz of what `encode` takes; what `decode` gives carries its own rate, which may be another."""
    frame_rate: float
    """Frames a second."""
    codes_per_frame: int
    num_codes: int
    """Ids of all code books together."""

    @abstractmethod
    def encode(self, waveform: Waveform) -> list[int]:
        """Flat ids of `waveform`; raises DataError when its rate is not `sample_rate`."""

    @abstractmethod
    def decode(self, codes: Sequence[int]) -> Waveform:
        """Sound of `codes`; an empty or malformed sequence gives the sound of its well-formed part, maybe empty.

        Raises PreflightError where `can_decode` is False.
        """

    @property
    def can_decode(self) -> bool:
        """Whether `decode` works; False where its decoder is an option that was not given."""
        return True

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever `encode` would give other ids; keys the cache of a dataset's codes."""

    @classmethod
    def fit_lacks(cls, params: Any, seconds: Sequence[float]) -> str | None:
        """Why clips of these lengths are too little to fit on; None where they are enough, or that is not known.

        Asked before a run starts, so that `fit` is not the first to find it.
        """
        return None

    @classmethod
    def fit(cls, params: Any, waveforms: Sequence[Waveform], *, generator: torch.Generator, path: str) -> None:
        """Learn from sound and write to `path` what `params.checkpoint` may then name."""
        raise PluginError(
            f"codec {cls.__name__} comes trained and cannot be fitted", hint="leave the fit_codec stage out"
        )


class Nar(Plugin):
    """A frozen model, not autoregressive, that completes frames an architecture has written in part; e.g. SoundStorm.

    It stands between an answer's ids and `Codec.decode`, and is never trained. Called one answer at a time.
    """

    kind = "nar"
    codes_given: int
    """Ids per frame it takes: the first of each, `TokenSpace.frame_codes` of them."""
    codes_per_frame: int
    """Ids per frame it gives: those of the codec."""
    num_codes: int | None = None
    """Ids of all code books together, to be compared with the codec's; None where it does not say."""

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def complete(self, codes_first: Sequence[int], *, prompt: Sequence[int] = ()) -> list[int]:
        """All ids of every frame, frame by frame, of which `codes_first` are the first; ids as the codec counts them.

        `prompt` holds all ids of sound in the voice to be imitated (a dialogue's metadata names it, by path or URL, as
        `voice_prompt`), empty for none. What it gives depends on its arguments alone; an incomplete last frame is left
        out.
        """
