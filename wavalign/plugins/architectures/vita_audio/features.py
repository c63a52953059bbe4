"""Sound to the input features of the audio encoder: log mel energies, stacked and normalised.

    frame   25 ms every 10 ms, whole frames only; mean taken off, x_i - 0.97 x_{i-1}, Hamming window
    energy  log max(eps, mel |FFT_512|^2), 80 triangles between 20 Hz and 8 kHz, samples counted as 16-bit integers
    stack   7 frames every 6: the first frame is repeated 3 times in front, the last one where frames run out
    value   (stacked + shift) * scale, both from the encoder's `am.mvn`
One feature a 60 ms. Source: Kaldi's `fbank` and FunASR's WavFrontend, as SenseVoice was trained with; without the
random dither, so that a clip always sounds the same.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.nn import functional

from wavalign.errors import CheckpointError, DataError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip
from wavalign.plugins.clip_features import computed_by
from wavalign.plugins.speech import kaldi_fbank as kaldi

SAMPLE_RATE = 16000
STACKED, STRIDE = 7, 6
FEATURE_SIZE = kaldi.NUM_MELS * STACKED
STATISTICS_FILE = "am.mvn"
FRONTEND: Final[dict[str, Any]] = {
    "fs": SAMPLE_RATE,
    "window": "hamming",
    "n_mels": kaldi.NUM_MELS,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": STACKED,
    "lfr_n": STRIDE,
}
"""The same numbers under the names of an encoder's `config.yaml`."""


@final
@dataclass(frozen=True, slots=True)
class Normalization:
    """Shift and scale of the features, with the text of the file they came from."""

    shift: Tensor
    """[560], added first."""
    scale: Tensor
    """[560]."""
    text: str


@final
@dataclass(frozen=True, slots=True)
class FeatureExtractor:
    """Reads clips as features."""

    normalization: Normalization

    def __call__(self, clip: AudioClip, content: bytes | None = None) -> Tensor:
        """Features [N, 560] float32 of a clip; raises DataError where it cannot be read or is under 25 ms.

        `content` is that of its file, where it is known already.
        """
        samples = torch.from_numpy(audio.read(clip, sample_rate=SAMPLE_RATE, content=content).samples)
        if len(samples) < kaldi.FRAME_LENGTH:
            raise DataError(
                f"{clip.url}: {1000 * len(samples) / SAMPLE_RATE:.1f} ms of sound are too short to hear, 25 are needed",
                hint="take its record out",
            )
        stacked = stack_frames(mel_energies(samples))
        return (stacked + self.normalization.shift) * self.normalization.scale

    def identity(self) -> str:
        """A digest of all that the features of a file hang on."""
        files = (__file__, kaldi.__file__, audio.__file__)
        return computed_by(files, ("torch", "numpy", "soxr", "soundfile", "transformers"), self.normalization.text)


def mel_energies(samples: Tensor) -> Tensor:
    """Log mel energies [frames, 80] float32 of `samples` [N] in -1..1 at 16 kHz."""
    frames = (samples.double() * kaldi.FULL_SCALE).unfold(0, kaldi.FRAME_LENGTH, kaldi.FRAME_SHIFT)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = functional.pad(frames, (1, 0), mode="replicate")[:, :-1]
    window = torch.hamming_window(kaldi.FRAME_LENGTH, periodic=False, dtype=torch.float64)
    spectrum = torch.view_as_real(torch.fft.rfft((frames - kaldi.PREEMPHASIS * before) * window, n=kaldi.FFT_LENGTH))
    filters = torch.from_numpy(kaldi.mel_filters(SAMPLE_RATE))
    energies: Tensor = (spectrum.square().sum(dim=-1) @ filters).clamp(min=kaldi.LOG_FLOOR).log()
    return energies.float()


def stack_frames(frames: Tensor) -> Tensor:
    """Every sixth frame of `frames` [N, D] with its neighbours, [ceil(N / 6), 7 D]."""
    count = -(-len(frames) // STRIDE)
    places = torch.arange(count)[:, None] * STRIDE + torch.arange(STACKED) - (STACKED - 1) // 2
    return frames[places.clamp(0, len(frames) - 1)].flatten(1)


def no_normalization() -> Normalization:
    """Leaves features as they are, for weights that start at random."""
    shift, scale = torch.zeros(FEATURE_SIZE), torch.ones(FEATURE_SIZE)
    return Normalization(shift, scale, statistics_text(shift, scale))


def statistics_text(shift: Tensor, scale: Tensor) -> str:
    """The text of a statistics file: a Kaldi network of two layers, one that shifts and one that scales."""
    size = len(shift)
    rows = [" ".join(f"{value:.9g}" for value in each.tolist()) for each in (shift, scale)]
    return (
        f"<Nnet>\n<Splice> {size} {size}\n[ 0 ]\n<AddShift> {size} {size}\n<LearnRateCoef> 0 [ {rows[0]} ]\n"
        f"<Rescale> {size} {size}\n<LearnRateCoef> 0 [ {rows[1]} ]\n</Nnet>\n"
    )


def read_normalization(folder: str) -> Normalization:
    """Read `am.mvn` of a checkpoint folder; raises CheckpointError where it is missing or torn."""
    path = Path(folder) / STATISTICS_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist; the features that the audio encoder hears are normalised by it",
            hint="copy am.mvn of FunAudioLLM/SenseVoiceSmall into the checkpoint's folder",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    try:
        shift, scale = (_values_after(text, layer) for layer in ("<AddShift>", "<Rescale>"))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}", hint="expected the am.mvn of SenseVoiceSmall") from error
    return Normalization(shift, scale, text)


def _values_after(text: str, layer: str) -> Tensor:
    """The 560 numbers in the first brackets behind `layer`; ValueError where they are not there."""
    _, found, rest = text.partition(layer)
    values = rest.partition("[")[2].partition("]")[0].split()
    if not found or len(values) != FEATURE_SIZE:
        raise ValueError(f"{layer} holds {len(values)} numbers, not {FEATURE_SIZE}")
    numbers = torch.tensor([float(value) for value in values])
    if not bool(numbers.isfinite().all()):
        raise ValueError(f"{layer} holds numbers that are not finite")
    return numbers
