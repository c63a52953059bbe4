"""Neural codecs from a local checkpoint of the transformers library: EnCodec, Mimi, DAC, X-codec 2.

Which one it is, its rates and code books are read from the checkpoint. The codes of the first `codebooks` code books
are laid out flat, frame by frame. Sources: EnCodec (arXiv 2210.13438), Mimi (2410.00037), DAC (2306.06546), X-codec 2
(2502.04128).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
import torch
from pydantic import Field

from wavalign.errors import CheckpointError
from wavalign.plugins.api import Codec
from wavalign.plugins.batch import Waveform
from wavalign.plugins.codecs.neural.loading import load_family
from wavalign.plugins.speech.codes import digest, flat_ids, refuse_other_rate, whole_frames
from wavalign.schema.base import Params, RecipePath


@final
class TransformersParams(Params):
    """Options of a codec of the transformers library."""

    checkpoint: RecipePath
    """Folder with config.json and safetensors, such as encodec_24khz, mimi, dac_16khz or xcodec2-hf."""
    codebooks: int | None = Field(default=None, ge=1, le=256)
    """How many of its code books are used, the coarsest first; null takes all."""
    device: str = "cpu"
    """Where the codec runs, e.g. `cuda`."""


@final
class TransformersCodec(Codec):
    """The first code books of a neural codec."""

    Params = TransformersParams

    def __init__(self, params: TransformersParams) -> None:
        self._params = params
        self._family = family = load_family(params.checkpoint, params.device)
        count = len(family.sizes) if params.codebooks is None else params.codebooks
        if not family.fewest <= count <= len(family.sizes):
            raise CheckpointError(
                f"{params.checkpoint} has {len(family.sizes)} code books, and {count} are asked for",
                hint=f"set codebooks to {family.fewest} at least and {len(family.sizes)} at most",
            )
        self._sizes = family.sizes[:count]
        self.sample_rate = family.sample_rate
        self.frame_rate = family.sample_rate / family.samples_per_frame
        self.codes_per_frame = count
        self.num_codes = sum(self._sizes)

    @torch.inference_mode()
    def encode(self, waveform: Waveform) -> list[int]:
        """Flat ids of the whole sound at once; no sound is no code."""
        refuse_other_rate(waveform, self.sample_rate)
        if len(waveform.samples) == 0:
            return []
        samples = torch.from_numpy(np.ascontiguousarray(waveform.samples)).to(self._params.device)
        codes = self._family.encode(samples, self.codes_per_frame)
        return flat_ids(codes.T.tolist(), self._sizes)

    @torch.inference_mode()
    def decode(self, codes: Sequence[int]) -> Waveform:
        """Sound of every whole frame, at the rate that is encoded."""
        frames = whole_frames(codes, self._sizes)
        if not frames:
            return Waveform(np.zeros(0, np.float32), self.sample_rate)
        samples = self._family.decode(torch.tensor(frames, device=self._params.device).T)
        return Waveform(samples.float().cpu().numpy(), self.sample_rate)

    def fingerprint(self) -> str:
        """Digest of the weights, of the config and of how many code books are used."""
        config = (Path(self._params.checkpoint) / "config.json").read_text(encoding="utf-8")
        weights = digest(self._family.model.state_dict(), config, str(self.codes_per_frame))
        return f"transformers-{weights}"
