"""Whisper features beside the codes of a user's sound: four frames beside each code.

    12.5 codes a second, 50 frames of width d a second -> features [N, 4 d], N = ceil(samples / 1280) in each 30 s chunk

Source: the Kimi-Audio report (arXiv 2504.18425). The encoder is no part of the policy: it is never trained or saved.
"""

from collections import OrderedDict
from pathlib import Path
from typing import final

from torch import Tensor

from wavalign.errors import CheckpointError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip

FRAMES_PER_CODE = 4
WHISPER_FOLDER = "whisper-large-v3"
"""Where a checkpoint keeps the encoder."""
KEPT = 256
"""Clips whose features are cached: prompts come again every epoch. Ten seconds take 2.6 MB at the public size."""


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
    """Features of clips, the latest of them cached."""

    def __init__(self, folder: Path, *, feature_size: int, device: str) -> None:
        # Brings the layers of transformers, which take seconds: what reads a recipe wants none of them.
        from wavalign.plugins.speech.whisper_features import SAMPLE_RATE, WhisperFeatures

        self.folder, self._sample_rate = folder, SAMPLE_RATE
        self._whisper = WhisperFeatures(str(folder), device=device)
        if FRAMES_PER_CODE * self._whisper.width != feature_size:
            raise CheckpointError(
                f"{folder} gives features of {FRAMES_PER_CODE} x {self._whisper.width}, not the {feature_size} "
                "that the network takes"
            )
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, clip: AudioClip) -> Tensor:
        """Features [N, D] float32 of `clip`; raises DataError where it cannot be read."""
        if clip.url not in self._kept:
            waveform = audio.read(clip, sample_rate=self._sample_rate)
            frames = self._whisper.frames(waveform, multiple=FRAMES_PER_CODE)
            self._kept[clip.url] = frames.reshape(-1, FRAMES_PER_CODE * self._whisper.width)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(clip.url)
        return self._kept[clip.url]
