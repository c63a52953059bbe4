"""Features of sound, computed once: the latest in memory, the others in the cache folder.

An entry hangs on the content of the sound file and on all that its numbers come from: the program, its libraries, the
processor and its threads, and what an extractor says of itself. So a run gives the same numbers with a full cache, an
empty one, and none.
"""

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip
from wavalign.storage.cache import BlobCache, Recent, cache_folder

FILE = "features.sqlite"
"""Within the cache folder."""
AT_HAND = 256 * 2**20
"""Bytes of features that stay in memory; ten seconds take 0.4 to 2.6 MB."""
Extract = Callable[[AudioClip, bytes], Tensor]
"""A clip and the content of its file -> features [N, D] float32."""


@final
class ClipFeatures:
    """Features by clip."""

    def __init__(self, extract: Extract, identity: Callable[[], str]) -> None:
        """`identity` says, once it is asked, all that the features of a file hang on."""
        self._extract, self._identity = extract, identity
        self._recent: Recent[Tensor] = Recent(AT_HAND)
        self._kept: tuple[str, BlobCache] | None = None

    def __call__(self, clip: AudioClip) -> Tensor:
        """Features [N, D] float32 of `clip`; raises DataError where it cannot be read."""
        found = self._recent.get(clip.url)
        if found is None:
            with torch.inference_mode(False):  # learning from them later takes tensors of the usual kind
                found = self._looked_up(clip)
            self._recent.put(clip.url, found, size=found.nbytes)
        return found

    def _looked_up(self, clip: AudioClip) -> Tensor:
        """Features [N, D] from the disk, or computed and kept there."""
        content = audio.read_bytes(clip)
        if self._kept is None:
            blobs = BlobCache(cache_folder() / FILE, table="features", column="numbers", what="features of sound")
            self._kept = self._identity(), blobs
        identity, blobs = self._kept
        key = f"{identity}:{hashlib.sha256(content).hexdigest()}"
        if (stored := blobs.get(key)) is not None:
            numbers = np.frombuffer(stored, dtype=np.float32, offset=4).copy()
            return torch.from_numpy(numbers.reshape(-1, int.from_bytes(stored[:4], "little")))
        features = self._extract(clip, content)
        blobs.put(key, features.shape[1].to_bytes(4, "little") + features.contiguous().numpy().tobytes())
        return features


def computed_by(files: Sequence[str], libraries: Sequence[str], *more: str) -> str:
    """A digest of the program in `files`, of its libraries, of this machine's arithmetic and of `more`."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes() + b"\0")
    arithmetic = f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    for each in (*(f"{name} {version(name)}" for name in libraries), arithmetic, *more):
        digest.update(each.encode() + b"\0")
    return digest.hexdigest()[:32]
