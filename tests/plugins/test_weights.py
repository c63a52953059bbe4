"""Weights on disk: what fits, what is refused, and that a file is complete or absent."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wavalign.errors import CheckpointError, StorageError
from wavalign.plugins.weights import load_into, read_checkpoint, save_weights


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4, bias=False))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    one, other = network(), network()
    save_weights(one.state_dict(), str(tmp_path))
    load_into(other, str(tmp_path), ())
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in one.state_dict().items())
    assert os.listdir(tmp_path) == ["model.safetensors"]
    header = read_checkpoint(str(tmp_path))["0.weight"]
    assert (header.shape, header.dtype) == ((2, 3), "F32")


def test_weights_have_the_permissions_of_any_new_file(tmp_path: Path, open_mode: int) -> None:
    for _ in range(2):  # also the one that replaces another
        save_weights(network().state_dict(), str(tmp_path))
        assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == open_mode


def test_shards_are_found_by_their_index_and_converted(tmp_path: Path) -> None:
    weights = {name: x.to(torch.bfloat16) for name, x in network().state_dict().items()}
    shards = {"a.safetensors": ["0.weight"], "b.safetensors": ["0.bias", "1.weight"]}
    for file, names in shards.items():
        save_file({name: weights[name] for name in names}, str(tmp_path / file))
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    target = network()
    load_into(target, str(tmp_path), ())
    assert all(torch.equal(x, weights[name].float()) for name, x in target.state_dict().items())
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks b\.safetensors"):
        read_checkpoint(str(tmp_path))


def test_every_misfit_is_named_at_once_and_nothing_changes(tmp_path: Path) -> None:
    save_weights({"0.weight": torch.zeros(2, 3), "1.weight": torch.zeros(4, 3), "extra": torch.zeros(1)}, str(tmp_path))
    target = network()
    before = {name: x.clone() for name, x in target.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_into(target, str(tmp_path), ())
    for line in ("missing: 0.bias [2]", "unexpected: extra [1]", "shape: 1.weight is [4, 3], wanted [4, 2]"):
        assert line in caught.value.message
    assert "3 tensors" in caught.value.message
    assert all(torch.equal(x, before[name]) for name, x in target.state_dict().items())


def test_ignored_tensors_may_be_there(tmp_path: Path) -> None:
    weights: dict[str, Tensor] = {**network().state_dict(), "model.rotary_emb.inv_freq": torch.zeros(2)}
    save_weights(weights, str(tmp_path))
    load_into(network(), str(tmp_path), (r"rotary_emb\.inv_freq$",))
    with pytest.raises(CheckpointError, match="unexpected: model"):
        load_into(network(), str(tmp_path), ())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match="can run code") as caught:
        read_checkpoint(str(tmp_path))
    assert "model.allow_pickles: true" in caught.value.hint


def test_an_empty_folder_and_a_torn_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        read_checkpoint(str(tmp_path))
    save_weights(network().state_dict(), str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(str(tmp_path))


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(network().state_dict(), str(tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save_weights(network().state_dict(), str(tmp_path))
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before
