"""What differs between the families: how many samples a frame has, how many code books there are, how to call them."""

from abc import ABC, abstractmethod
from typing import Any, final

from torch import Tensor
from torch.nn import functional

from wavalign.errors import CheckpointError
from wavalign.plugins.codecs.neural.fbank import normalised_fbank


class Family(ABC):
    """A loaded model behind one contract; codes are [K, T], samples [N]."""

    sample_rate: int
    """Hertz, of sound in and out."""
    samples_per_frame: int
    sizes: tuple[int, ...]
    """Codes in each of its code books, the coarsest first."""
    fewest = 1
    """Code books that must be there."""

    def __init__(self, model: Any, folder: str) -> None:
        self.model, self.folder = model, folder

    @abstractmethod
    def encode(self, samples: Tensor, count: int) -> Tensor:
        """Codes [count, T] of the first `count` code books; frames that hold nothing but padding are left out."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Samples [T * samples_per_frame] of codes [K, T] of the first K code books."""


@final
class Encodec(Family):
    """EnCodec at one channel: ceil(N / hop) frames of up to 32 code books. Source: arXiv 2210.13438."""

    def __init__(self, model: Any, folder: str) -> None:
        super().__init__(model, folder)
        config = model.config
        if config.audio_channels != 1 or config.normalize or config.chunk_length_s is not None:
            raise CheckpointError(
                f"{folder}: an EnCodec that is stereo, normalises or works in chunks says more than its codes",
                hint="take the mono one, encodec_24khz",
            )
        self.sample_rate, self.samples_per_frame = int(config.sampling_rate), int(config.hop_length)
        self.sizes = (int(config.codebook_size),) * int(config.num_quantizers)

    def encode(self, samples: Tensor, count: int) -> Tensor:
        """Residual code books: the first `count` are the same at every bandwidth that has them."""
        enough = (
            bandwidth
            for bandwidth in sorted(self.model.config.target_bandwidths)
            if self.model.quantizer.get_num_quantizers_for_bandwidth(bandwidth) >= count
        )
        codes: Tensor = self.model.encode(samples[None, None], bandwidth=next(enough)).audio_codes
        return codes[0, 0, :count]

    def decode(self, codes: Tensor) -> Tensor:
        """Samples of one unscaled chunk."""
        samples: Tensor = self.model.decode(codes[None, None], [None]).audio_values
        return samples[0, 0, : codes.shape[1] * self.samples_per_frame]


@final
class Mimi(Family):
    """Mimi: ceil(N / 1920) frames at 24 kHz, the first code book distilled from speech. Source: arXiv 2410.00037."""

    def __init__(self, model: Any, folder: str) -> None:
        super().__init__(model, folder)
        config = model.config
        if model.encoder is None or model.decoder is None:
            raise CheckpointError(f"{folder}: this Mimi lacks its encoder or decoder", hint="take the whole model")
        self.sample_rate = int(config.sampling_rate)
        self.samples_per_frame = round(config.sampling_rate / config.frame_rate)
        self.sizes = (int(config.codebook_size),) * int(config.num_quantizers)
        self.fewest = int(config.num_semantic_quantizers)

    def encode(self, samples: Tensor, count: int) -> Tensor:
        """The model pads the last frame itself."""
        codes: Tensor = self.model.encode(samples[None, None], num_quantizers=count).audio_codes
        return codes[0]

    def decode(self, codes: Tensor) -> Tensor:
        """Samples of whole frames."""
        samples: Tensor = self.model.decode(codes[None]).audio_values
        return samples[0, 0, : codes.shape[1] * self.samples_per_frame]


@final
class Dac(Family):
    """Descript audio codec: ceil(N / hop) frames of up to 12 code books. Source: arXiv 2306.06546."""

    def __init__(self, model: Any, folder: str) -> None:
        super().__init__(model, folder)
        config = model.config
        self.sample_rate, self.samples_per_frame = int(config.sampling_rate), int(config.hop_length)
        self.sizes = (int(config.codebook_size),) * int(config.n_codebooks)

    def encode(self, samples: Tensor, count: int) -> Tensor:
        """Padded with silence to whole frames, as the family's feature extractor does."""
        padded = functional.pad(samples, (0, -len(samples) % self.samples_per_frame))
        codes: Tensor = self.model.encode(padded[None, None], n_quantizers=count).audio_codes
        return codes[0]

    def decode(self, codes: Tensor) -> Tensor:
        """Samples of whole frames; an odd stride leaves the family's decoder some samples short."""
        samples: Tensor = self.model.decode(audio_codes=codes[None]).audio_values[0]
        return functional.pad(samples, (0, codes.shape[1] * self.samples_per_frame - len(samples)))


@final
class Xcodec2(Family):
    """X-codec 2: one code book of 65,536, 50 frames a second at 16 kHz. Source: arXiv 2502.04128.

    Of N samples the first (N + 1) // 320 frames count: a last piece shorter than a frame is padding to the family.
    """

    def __init__(self, model: Any, folder: str) -> None:
        super().__init__(model, folder)
        config = model.config
        self.sample_rate, self.samples_per_frame = int(config.sampling_rate), int(config.hop_length)
        size = 1
        for levels in config.quantization_levels:
            size *= int(levels)
        self.sizes = (size,)

    def encode(self, samples: Tensor, count: int) -> Tensor:
        """One sample and then whole frames of silence are added, as the family's feature extractor does."""
        hop, valid = self.samples_per_frame, (len(samples) + 1) // self.samples_per_frame
        padded = functional.pad(samples, (0, 1 + -(len(samples) + 1) % hop))
        features = normalised_fbank(functional.pad(padded, (hop // 2, hop // 2)), self.sample_rate)
        pairs = features[: len(features) // 2 * 2].reshape(1, -1, 2 * features.shape[1])
        codes: Tensor = self.model.encode(padded[None, None], pairs.to(padded.device)).audio_codes
        return codes[0, :, :valid]

    def decode(self, codes: Tensor) -> Tensor:
        """Samples of whole frames."""
        samples: Tensor = self.model.decode(audio_codes=codes[None]).audio_values
        return samples[0, 0, : codes.shape[1] * self.samples_per_frame]


FAMILIES: dict[str, tuple[str, type[Family]]] = {
    "dac": ("DacModel", Dac),
    "encodec": ("EncodecModel", Encodec),
    "mimi": ("MimiModel", Mimi),
    "xcodec2": ("Xcodec2Model", Xcodec2),
}
"""`model_type` of a checkpoint's config -> class of the library, family."""
