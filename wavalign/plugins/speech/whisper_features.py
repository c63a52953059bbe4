"""Sound to the frames of a Whisper encoder.

    chunk    the sound in pieces of 30 s, the last one padded with silence
    mel      log-mel spectrogram of a chunk, a column per 10 ms
    frames   encoder(mel), a frame per 20 ms, of which those that sound covers are kept

Whisper looks at a whole chunk at once and knows no padding mask, so a frame depends on the chunk it lies in.
Source: Whisper (arXiv 2212.04356), computed by transformers. Only the encoder is read from a checkpoint.
"""

from pathlib import Path
from typing import Any, final

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from wavalign.errors import CheckpointError, DataError, quoted
from wavalign.plugins.batch import Waveform
from wavalign.storage.checkpoint_config import read_object, whole
from wavalign.storage.tensors import load_into

SAMPLE_RATE = 16_000
HOP = 160
"""Samples from one column of the spectrogram to the next."""
FRAME = 2 * HOP
"""Samples a frame stands for."""
UNUSED = (r"^model\.decoder\.", r"^proj_out\.")


@final
class WhisperFeatures:
    """A frozen encoder; its weights are read when it is first asked."""

    def __init__(self, folder: str, *, device: str) -> None:
        """Read the config in `folder`; raises CheckpointError where that is no Whisper model."""
        self.folder = folder
        self._device = torch.device(device)
        self._config = _read_config(Path(folder))
        self._mel = _extractor(Path(folder), self._config)
        self._encoder: WhisperEncoder | None = None

    @property
    def width(self) -> int:
        """Size of a frame."""
        return int(self._config.d_model)

    @property
    def chunk(self) -> int:
        """Samples of a chunk."""
        return int(self._config.max_source_positions) * FRAME

    def frames(self, waveform: Waveform, *, multiple: int = 1) -> Tensor:
        """Frames [F, width] float32 on the CPU: of each chunk those that sound covers, up to a multiple of `multiple`.

        Raises DataError when the waveform is empty or not at 16 kHz.
        """
        if waveform.sample_rate != SAMPLE_RATE or len(waveform.samples) == 0:
            raise DataError(f"Whisper hears 16 kHz, not {len(waveform.samples)} samples at {waveform.sample_rate} Hz")
        if self._config.max_source_positions % multiple:
            raise ValueError(f"{self._config.max_source_positions} frames of a chunk are no multiple of {multiple}")
        kept = []
        for start in range(0, len(waveform.samples), self.chunk):
            samples = waveform.samples[start : start + self.chunk]
            count = -(-len(samples) // (FRAME * multiple)) * multiple
            mel = self._mel(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
            kept.append(self._encode(mel)[:count])
        with torch.inference_mode(False):  # learning from these frames later takes tensors of the usual kind
            return torch.cat(kept).to("cpu", torch.float32)

    def _encode(self, mel: Tensor) -> Tensor:
        """Frames [F, width] of one chunk's spectrogram [1, M, C]."""
        if self._encoder is None:
            self._encoder = self._load()
        with torch.inference_mode():
            given = mel.to(self._device, self._encoder.conv1.weight.dtype)
            frames: Tensor = self._encoder(given).last_hidden_state[0]
        return frames

    def _load(self) -> WhisperEncoder:
        """The encoder with its weights: bfloat16 on a GPU, float32 on the CPU."""
        whole = nn.Module()  # a Whisper model without its decoder, so that names are those of the checkpoint
        whole.model = nn.Module()
        with torch.device("meta"):
            encoder = WhisperEncoder(self._config)
        whole.model.encoder = encoder
        dtype = torch.float32 if self._device.type == "cpu" else torch.bfloat16
        whole.to(dtype).to_empty(device=self._device).requires_grad_(False).eval()
        load_into(whole, self.folder, UNUSED)
        return encoder


def _read_config(folder: Path) -> WhisperConfig:
    path = folder / "config.json"
    content = read_object(path, hint="give the folder of a complete Whisper model")
    if content.get("model_type") != "whisper":
        raise CheckpointError(f"{path}: model_type is {content.get('model_type')!r}, not 'whisper'")
    sizes = ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "num_mel_bins")
    for name in (*sizes, "max_source_positions"):
        whole(content, name, str(folder))
    try:
        config = WhisperConfig.from_dict(content)
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(f"{path} cannot be used: {quoted(error, 400)}", hint="fetch it again") from error
    config._attn_implementation = "sdpa"
    return config


def _extractor(folder: Path, config: WhisperConfig) -> WhisperFeatureExtractor:
    """The spectrogram of this model, by its own file where there is one."""
    seconds, rest = divmod(config.max_source_positions * FRAME, SAMPLE_RATE)
    if rest or not seconds:
        raise CheckpointError(f"{folder}: max_source_positions {config.max_source_positions} is no whole second")
    made: Any = WhisperFeatureExtractor  # transformers leaves its constructors untyped
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        extractor: WhisperFeatureExtractor = made(feature_size=config.num_mel_bins, chunk_length=seconds)
        return extractor
    extractor = made.from_json_file(str(path))
    read = {"feature_size": extractor.feature_size, "sampling_rate": extractor.sampling_rate}
    read |= {"hop_length": extractor.hop_length, "chunk_length": extractor.chunk_length}
    fixed = {"feature_size": config.num_mel_bins, "sampling_rate": SAMPLE_RATE}
    fixed |= {"hop_length": HOP, "chunk_length": seconds}
    wrong = [f"{name} {read[name]} (not {value})" for name, value in fixed.items() if read[name] != value]
    if wrong:
        raise CheckpointError(f"{path} does not fit its model: {', '.join(wrong)}")
    return extractor
