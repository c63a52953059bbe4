"""The two code books of the source-filter codec: fitting by k-means, looking up, saving and loading.

A patch is four frames (80 ms). Content is its spectral shape: the cepstra of the four frames without their common
level, and which of them are voiced. Prosody is (semitones, voiced share, level) of the whole patch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wavalign.errors import DataError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.codec_file import check_shapes, read_codec, write_codec
from wavalign.plugins.speech.prosody import Array
from wavalign.plugins.speech.vocoder import HOP, NUM_CEPSTRA, SAMPLE_RATE, Frames, analyse

_FORMAT = "wavalign-source-filter-1"
_ROUNDS = 30
_MOST_POINTS = 60_000
_VOICING_WEIGHT = 1.5
"""A frame voiced or not counts as much as this distance between cepstra."""
_PROSODY_WEIGHTS = (1.0, 6.0, 1.5)
"""Of a semitone, of the voiced share, of one neper of power."""


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes of a codec, written into its file."""

    num_content: int = 512
    num_prosody: int = 128
    frames_per_patch: int = 4

    @property
    def frame_rate(self) -> float:
        """Patches a second."""
        return SAMPLE_RATE / (HOP * self.frames_per_patch)


@final
@dataclass(frozen=True, slots=True)
class Codebooks:
    """Centroids of content [C, frames * (NUM_CEPSTRA + 1)] and prosody [Q, 3], in weighted units."""

    settings: Settings
    content: Tensor
    prosody: Tensor

    def lookup(self, waveform: Waveform) -> tuple[list[int], list[int]]:
        """Nearest content and prosody ids of every patch of `waveform` (16 kHz)."""
        content, prosody = describe(waveform, self.settings)
        if len(content) == 0:
            return [], []
        nearest = (
            torch.cdist(points, centroids).argmin(dim=1).tolist()
            for points, centroids in ((content, self.content), (prosody, self.prosody))
        )
        first, second = nearest
        return first, second

    def frames(self, content: Sequence[int], prosody: Sequence[int]) -> Frames:
        """Vocoder parameters of patches named by `content` [N] and `prosody` [N]."""
        per_patch = self.settings.frames_per_patch
        shape = (
            self.content[torch.tensor(content, dtype=torch.int64)]
            .view(len(content), per_patch, NUM_CEPSTRA + 1)
            .numpy()
        )
        semitones, _, level = (
            (self.prosody[torch.tensor(prosody, dtype=torch.int64)] / torch.tensor(_PROSODY_WEIGHTS)).numpy().T
        )
        cepstra = shape[:, :, :NUM_CEPSTRA].copy()
        cepstra[:, :, 0] += level[:, None] * _LEVEL_SCALE
        voiced = shape[:, :, NUM_CEPSTRA] > 0.5 * _VOICING_WEIGHT
        pitch = 100.0 * 2.0 ** (_drawn_through(semitones, np.asarray(voiced.any(axis=1)), per_patch) / 12.0)
        return Frames(cepstra.reshape(-1, NUM_CEPSTRA), np.where(voiced.reshape(-1), pitch, 0.0).astype(np.float32))

    def fingerprint(self) -> str:
        """Changes with any centroid."""
        digest = hashlib.sha256(_FORMAT.encode())
        for book in (self.content, self.prosody):
            digest.update(book.numpy().tobytes())
        return digest.hexdigest()[:16]


_LEVEL_SCALE = float(np.sqrt(48))
"""First cepstrum of a flat spectrum of one neper, over that neper (the DCT is orthonormal over 48 bands)."""


def describe(waveform: Waveform, settings: Settings) -> tuple[Tensor, Tensor]:
    """Content [N, frames * (NUM_CEPSTRA + 1)] and prosody [N, 3] of the patches of `waveform`, in weighted units."""
    per_patch = settings.frames_per_patch
    found = analyse(waveform)
    if len(found.pitch) == 0:
        return torch.zeros(0, per_patch * (NUM_CEPSTRA + 1)), torch.zeros(0, 3)
    missing = -len(found.pitch) % per_patch
    cepstra = np.pad(found.cepstra, ((0, missing), (0, 0)), mode="edge")
    pitch = np.pad(found.pitch, (0, missing)).reshape(-1, per_patch)
    shape = cepstra.reshape(-1, per_patch, NUM_CEPSTRA).copy()
    level = shape[:, :, 0].max(axis=1)
    shape[:, :, 0] -= level[:, None]
    voiced = pitch > 0.0
    content = np.concatenate([shape, voiced[:, :, None] * _VOICING_WEIGHT], axis=2).reshape(len(shape), -1)
    logs = 12.0 * np.log2(np.where(voiced, pitch, 100.0) / 100.0)
    semitones = logs.sum(axis=1) / voiced.sum(axis=1).clip(min=1)
    prosody = np.stack([semitones, voiced.mean(axis=1), level / _LEVEL_SCALE], axis=1) * np.array(_PROSODY_WEIGHTS)
    return torch.from_numpy(content.astype(np.float32)), torch.from_numpy(prosody.astype(np.float32))


FRAME_SECONDS = 0.02


def too_little(seconds: Sequence[float], settings: Settings) -> str | None:
    """Why clips of these lengths cannot fill both books; None where they may."""
    patch, needed = settings.frames_per_patch * FRAME_SECONDS, max(settings.num_content, settings.num_prosody)
    most = sum(int(each / patch) + 2 for each in seconds)  # the last patch of a clip is filled up
    if most >= needed:
        return None
    return (
        f"{len(seconds)} clips of {sum(seconds):.1f} s hold at most {most} patches of sound, and {needed} code book"
        f" entries need as many: give at least {needed * patch:.0f} s, or lower num_content and num_prosody"
    )


def fit(waveforms: Sequence[Waveform], settings: Settings, *, generator: torch.Generator) -> Codebooks:
    """Fit both books to the patches of `waveforms` (16 kHz) by seeded k-means."""
    described = [describe(waveform, settings) for waveform in waveforms]
    content, prosody = (torch.cat(parts) for parts in zip(*described, strict=True))
    needed = max(settings.num_content, settings.num_prosody)
    if len(content) < needed:
        seconds = needed * settings.frames_per_patch * FRAME_SECONDS
        raise DataError(
            f"{len(waveforms)} clips hold {len(content)} patches of sound, and {needed} code book entries need as many",
            hint=f"give at least {seconds:.0f} s of sound, or lower num_content and num_prosody",
        )
    return Codebooks(
        settings,
        k_means(content, settings.num_content, generator=generator),
        k_means(prosody, settings.num_prosody, generator=generator),
    )


def k_means(points: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Centroids [count, D] of `points` [N, D]: Lloyd's algorithm from a random choice, empty cells drawn anew."""
    if len(points) < count:
        raise ValueError(f"{len(points)} points are too few for {count} centroids")
    order = torch.randperm(len(points), generator=generator)[:_MOST_POINTS]
    points = points[order]
    centroids = points[:count].clone()
    for _ in range(_ROUNDS):
        distance, cell = torch.cdist(points, centroids).min(dim=1)
        size = torch.bincount(cell, minlength=count)
        total = torch.zeros_like(centroids).index_add_(0, cell, points)
        centroids = total / size.clamp(min=1).unsqueeze(1)
        empty = (size == 0).nonzero().flatten()
        centroids[empty] = points[distance.topk(len(empty)).indices]
    return centroids


def save(books: Codebooks, path: str | Path) -> None:
    """Write `books` as one safetensors file with the settings in its metadata. Raises StorageError."""
    write_codec({"content": books.content, "prosody": books.prosody}, books.settings, path, form=_FORMAT)


def load(path: str | Path) -> Codebooks:
    """Read what `save` wrote. Raises CheckpointError for anything else."""
    settings, tensors = read_codec(path, Settings, form=_FORMAT, what="source-filter codec")
    width = settings.frames_per_patch * (NUM_CEPSTRA + 1)
    check_shapes(tensors, {"content": (settings.num_content, width), "prosody": (settings.num_prosody, 3)}, path)
    return Codebooks(settings, tensors["content"], tensors["prosody"])


def _drawn_through(semitones: Array, voiced: npt.NDArray[np.bool_], per_patch: int) -> npt.NDArray[np.float64]:
    """Semitones per frame [N * per_patch]: a line through the centres of voiced patches [N]."""
    count = len(semitones)
    centres = (np.arange(count) + 0.5) * per_patch - 0.5
    if not voiced.any():
        return np.zeros(count * per_patch)
    return np.asarray(np.interp(np.arange(count * per_patch), centres[voiced], semitones[voiced]))
