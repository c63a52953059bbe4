"""Ours against the original GLM-4-Voice tokenizer: ids of recorded mel frames, padded rows included."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import GoldenPair
from wavalign.plugins.codecs.whisper_vq.network import WhisperVq
from wavalign.plugins.codecs.whisper_vq.sizes import sizes_of_config
from wavalign.plugins.codecs.whisper_vq.tokenizer import load_network
from wavalign.storage.tensors import save_weights


def weights_of(pair: GoldenPair) -> dict[str, Tensor]:
    return {name.removeprefix("weights."): x for name, x in pair.tensors.items() if name.startswith("weights.")}


def load(pair: GoldenPair, folder: Path) -> WhisperVq:
    """The recorded network, from a folder as the public one is."""
    (folder / "config.json").write_text(json.dumps(pair.settings["config"]))
    save_weights(weights_of(pair), str(folder))
    return load_network(str(folder), sizes_of_config(pair.settings["config"], "recording"), "cpu")


@pytest.fixture
def pairs(golden_pairs: Callable[[str], list[GoldenPair]]) -> list[GoldenPair]:
    return golden_pairs("glm4voice_tokenizer_")


def test_ids_are_the_originals(pairs: list[GoldenPair], tmp_path: Path) -> None:
    for pair in pairs:
        network, valid = load(pair, tmp_path), pair.tensors["token_mask"].bool()
        assert not bool(valid.all()), "a row is padded"
        with torch.inference_mode():
            found = network.ids(pair.tensors["mel"], pair.tensors["mel_mask"])
        assert found.shape == pair.tensors["token_ids"].shape
        assert torch.equal(found[valid], pair.tensors["token_ids"][valid])


def test_a_row_alone_has_the_same_ids(pairs: list[GoldenPair], tmp_path: Path) -> None:
    """Without the padding that stood behind it in the recorded batch."""
    for pair in pairs:
        network = load(pair, tmp_path)
        stride = 2 * network.sizes.pooling
        for mel, mask, ids in zip(*(pair.tensors[name] for name in ("mel", "mel_mask", "token_ids")), strict=True):
            count = -(-int(mask.sum()) // stride)
            with torch.inference_mode():
                found = network.ids(mel[None, :, : count * stride], mask[None, : count * stride])
            assert found[0].tolist() == ids[:count].tolist()
