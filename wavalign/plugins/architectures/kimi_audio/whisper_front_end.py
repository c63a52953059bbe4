"""Whisper features beside the codes of a user's sound: four frames beside each code.

    12.5 codes a second, 50 frames of width d a second -> features [N, 4 d], N = ceil(samples / 1280) in each 30 s chunk

Source: the Kimi-Audio report (arXiv 2504.18425). The encoder is no part of the policy: it is never trained or saved.
"""

import hashlib
import inspect
from functools import lru_cache
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from wavalign.errors import CheckpointError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip
from wavalign.plugins.clip_features import ClipFeatures, computed_by
from wavalign.storage.tensors import weight_files

FRAMES_PER_CODE = 4
WHISPER_FOLDER = "whisper-large-v3"
"""Where a checkpoint keeps the encoder."""


def whisper_folder(checkpoint: str | None, given: str | None) -> Path:
    """The Whisper model that belongs to a checkpoint; raises CheckpointError where there is none."""
    if given is None and checkpoint is None:
        raise CheckpointError(
            "random weights that hear features need a Whisper model",
            hint="set model.architecture.whisper to its folder, feature_size to 0, or codes_only",
        )
    folder = Path(given) if given is not None else Path(checkpoint or "") / WHISPER_FOLDER
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} does not exist: this network hears Whisper features beside the user's codes",
            hint=f"fetch the checkpoint's {WHISPER_FOLDER} folder, or set model.architecture.whisper to another place",
        )
    return folder


@final
class WhisperFrontEnd:
    """Features of clips, each computed once."""

    def __init__(self, folder: Path, *, feature_size: int, device: str) -> None:
        # Brings the layers of transformers, which take seconds: what reads a recipe wants none of them.
        from wavalign.plugins.speech.whisper_features import SAMPLE_RATE, WhisperFeatures

        self.folder, self._sample_rate, self._device = folder, SAMPLE_RATE, device
        self._whisper = WhisperFeatures(str(folder), device=device)
        if FRAMES_PER_CODE * self._whisper.width != feature_size:
            raise CheckpointError(
                f"{folder} gives features of {FRAMES_PER_CODE} x {self._whisper.width}, not the {feature_size} "
                "that the network takes"
            )
        self._features = ClipFeatures(self._extract, self._identity)

    def __call__(self, clip: AudioClip) -> Tensor:
        """Features [N, D] float32 of `clip`; raises DataError where it cannot be read."""
        return self._features(clip)

    def _extract(self, clip: AudioClip, content: bytes) -> Tensor:
        """Features [N, D] float32 of a clip whose file holds `content`."""
        waveform = audio.read(clip, sample_rate=self._sample_rate, content=content)
        frames = self._whisper.frames(waveform, multiple=FRAMES_PER_CODE)
        return frames.reshape(-1, FRAMES_PER_CODE * self._whisper.width)

    def _identity(self) -> str:
        """A digest of all that the features of a file hang on."""
        device = torch.device(self._device)
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        files = (__file__, inspect.getfile(type(self._whisper)), audio.__file__)
        libraries = ("torch", "numpy", "soxr", "soundfile", "transformers")
        return computed_by(files, libraries, where, _content_of(self.folder))


def _content_of(folder: Path) -> str:
    """A digest of a model's weights and settings."""
    settings = [folder / name for name in ("config.json", "preprocessor_config.json")]
    read = [path for path in (*weight_files(folder), *settings) if path.is_file()]
    return ",".join(_file_sum(path, path.stat().st_size, path.stat().st_mtime_ns) for path in read)


@lru_cache(maxsize=64)
def _file_sum(path: Path, _size: int, _changed: int) -> str:
    """SHA-256 of a file of this size and time: gigabytes are read once in a process."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
