"""Log-probs of rows of data under a reference, computed once and kept on disk.

An entry hangs on all that its numbers come from: the weights, the network's program and its settings, precision, device
and threads, and the row's own tokens, roles, sound and scored positions. A row is scored alone, never beside others:
what stands next to a row moves the last bits of its numbers, and then a hit would not equal a miss. So a run gives the
same numbers with a full cache, an empty one, and none of its own.

Letters: S streams, E further heads, T tokens, N scored positions.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

import wavalign
from wavalign.plugins.batch import TokenBatch
from wavalign.storage.cache import BlobCache

FILE = "reference_logprobs.sqlite"
"""Within the cache folder."""


@final
class ReferenceCache:
    """Log-probs of single rows by all that they hang on."""

    def __init__(self, path: Path, *, about: Mapping[str, Any]) -> None:
        """`about` says, as JSON, what all rows have in common: weights, network, precision, device."""
        self._kept = BlobCache(path, table="logprobs", column="numbers", what="reference log-probs")
        common = {**about, "program": program(), "torch": torch.__version__, "threads": torch.get_num_threads()}
        self._common = json.dumps(common, sort_keys=True).encode()

    def key(self, batch: TokenBatch, select: Tensor) -> str:
        """Of one row: `batch` of it alone, `select` bool [B, S + E, T] of B = 1 what is scored, both on the host."""
        digest = hashlib.sha256(self._common)
        for each in (batch.ids, batch.roles, batch.sources, select):
            digest.update(f"{tuple(each.shape)} {each.dtype}".encode())
            digest.update(_bytes(each))
        for sound in (sound for row in batch.sounds for sound in row):
            digest.update(f"{sound.start} {sound.length} {tuple(sound.values.shape)} {sound.values.dtype}".encode())
            digest.update(_bytes(sound.values))
        return digest.hexdigest()

    def get(self, key: str, select: Tensor) -> Tensor | None:
        """Log-probs [S + E, T] where `select` [B, S + E, T] of B = 1, 0 elsewhere; None where they are not kept."""
        found = self._kept.get(key)
        if found is None:
            return None
        here, numbers = select[0], np.frombuffer(found, dtype=np.float32)
        if len(numbers) != int(here.sum()):
            return None  # a file cut short: computed again
        scored = torch.zeros(here.shape)
        scored[here] = torch.from_numpy(numbers.copy())
        return scored

    def put(self, key: str, scored: Tensor, select: Tensor) -> None:
        """Keep log-probs `scored` [S + E, T], float32 on the host, where `select` [B, S + E, T] of B = 1."""
        self._kept.put(key, _bytes(scored[select[0]].float()))

    def close(self) -> None:
        """Free the file."""
        self._kept.close()


@functools.cache
def program() -> str:
    """Sum of the text of this package: numbers of another version of it are not taken for its own."""
    digest, folder = hashlib.sha256(), Path(wavalign.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    """What a tensor [...] holds."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
