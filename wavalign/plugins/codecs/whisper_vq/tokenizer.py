"""Sound to ids: chunks of 30 seconds, log-mel features, the network."""

import re
from typing import final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import WhisperFeatureExtractor

from wavalign.errors import CheckpointError
from wavalign.plugins.codecs.whisper_vq.network import FRAME_STRIDE, WhisperVq
from wavalign.plugins.codecs.whisper_vq.sizes import VqSizes, read_sizes
from wavalign.plugins.speech.codes import digest
from wavalign.storage.tensors import load_into, read_checkpoint

SAMPLE_RATE = 16_000
_MEL_HOP = 160
_CHUNK_SECONDS = 30
_PREFIX = "model.encoder."
"""Before every name where a checkpoint holds the whole speech recogniser that the tokenizer was made from."""
_UNUSED = r"(embed_positions2\.weight|ema_count|ema_weight|layer_norm\.(weight|bias))$"


@final
class WhisperVqTokenizer:
    """A tokenizer from its public checkpoint, in float32 on `device`."""

    def __init__(self, folder: str, device: str) -> None:
        self.sizes = read_sizes(folder)
        self.samples_per_code = _MEL_HOP * FRAME_STRIDE * self.sizes.pooling
        if self.sizes.positions * FRAME_STRIDE * _MEL_HOP < _CHUNK_SECONDS * SAMPLE_RATE:
            raise CheckpointError(f"{folder}: its {self.sizes.positions} positions are too few for 30 seconds")
        self._network = load_network(folder, self.sizes, device)
        self._device = device
        self._features = WhisperFeatureExtractor(  # type: ignore[no-untyped-call]
            feature_size=self.sizes.num_mels
        )

    @torch.inference_mode()
    def encode(self, samples: npt.NDArray[np.float32]) -> list[int]:
        """Ids of `samples` [N] at 16 kHz: (n - 1) // samples_per_code + 1 for each chunk of n."""
        size = _CHUNK_SECONDS * SAMPLE_RATE
        # Every chunk alone, so that ids depend on the sound and on nothing that is encoded beside it.
        return [
            code
            for start in range(0, len(samples), size)
            for code in self._chunk(samples[start : start + size], beside_others=len(samples) > size)
        ]

    def _chunk(self, samples: npt.NDArray[np.float32], *, beside_others: bool) -> list[int]:
        count = (len(samples) - 1) // self.samples_per_code + 1
        # The chunks of one sound are padded to the longest as the family does it; of what is then only padding the
        # network sees as much as its last code needs.
        found = self._features(
            samples,
            sampling_rate=SAMPLE_RATE,
            padding="max_length" if beside_others else "longest",
            pad_to_multiple_of=self.samples_per_code,
            return_attention_mask=True,
            return_tensors="pt",
        )
        frames = count * FRAME_STRIDE * self.sizes.pooling
        mel, mask = found["input_features"][:, :, :frames], found["attention_mask"][:, :frames]
        ids: list[int] = self._network.ids(mel.to(self._device), mask.to(self._device))[0, :count].tolist()
        return ids

    def fingerprint(self) -> str:
        """Changes with any weight and with the sizes."""
        return digest(self._network.state_dict(), repr(self.sizes))


def load_network(folder: str, sizes: VqSizes, device: str) -> WhisperVq:
    """The network with the weights in `folder`."""
    with torch.device("meta"):
        network = WhisperVq(sizes)
    network.to_empty(device=device)
    whole = f"{_PREFIX}codebook.weight" in read_checkpoint(folder)
    kept = "|".join(str(index) for index in range(sizes.layers))
    prefix = re.escape(_PREFIX) if whole else ""
    ignored = (rf"^{prefix}{_UNUSED}", rf"^{prefix}layers\.(?!({kept})\.)", r"^model\.decoder\.", r"^proj_out\.")
    load_into(_named_from_above(network) if whole else network, folder, ignored)
    return network.eval().requires_grad_(False)


def _named_from_above(network: WhisperVq) -> nn.Module:
    """Parents around `network` that put the prefix before its names."""
    parent: nn.Module = network
    for name in reversed(_PREFIX.rstrip(".").split(".")):
        parent = nn.ModuleDict({name: parent})
    return parent
