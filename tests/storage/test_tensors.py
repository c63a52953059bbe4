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
from wavalign.storage.tensors import load_into, read_checkpoint, save_weights


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


# Pickles


class Trap:
    """Runs code when it is read carelessly."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/trapped",)


def test_pickles_that_are_allowed_are_read_like_any_other(tmp_path: Path) -> None:
    weights = {name: x.to(torch.bfloat16) for name, x in network().state_dict().items()}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    torch.save({"other": torch.zeros(1)}, tmp_path / "training_args.bin")
    header = read_checkpoint(str(tmp_path), pickles=True)["0.weight"]
    assert (header.shape, header.dtype) == ((2, 3), "BF16")
    target = network()
    load_into(target, str(tmp_path), (), pickles=True)
    assert all(torch.equal(x, weights[name].float()) for name, x in target.state_dict().items())
    with pytest.raises(CheckpointError, match="can run code"):
        load_into(target, str(tmp_path), ())
    save_weights(network().state_dict(), str(tmp_path))
    load_into(target, str(tmp_path), ())  # where there are safetensors nobody looks at pickles


def test_sharded_pickles_are_found_by_their_index(tmp_path: Path) -> None:
    weights = network().state_dict()
    shards = {"pytorch_model-1.bin": ["0.weight"], "pytorch_model-2.bin": ["0.bias", "1.weight"]}
    for file, names in shards.items():
        torch.save({name: weights[name].clone() for name in names}, tmp_path / file)
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    target = network()
    load_into(target, str(tmp_path), (), pickles=True)
    assert all(torch.equal(x, weights[name]) for name, x in target.state_dict().items())
    (tmp_path / "pytorch_model-2.bin").unlink()
    with pytest.raises(CheckpointError, match=r"lacks pytorch_model-2\.bin"):
        read_checkpoint(str(tmp_path), pickles=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0.weight": Trap()}, "holds more than tensors and was not read"),
        ({"0.weight": torch.zeros(1), "epoch": 3}, "holds more than tensors: epoch"),
        ([torch.zeros(1)], "holds a list"),
    ],
)
def test_pickles_of_anything_else_are_refused_by_name(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(str(tmp_path), pickles=True)
    assert "model.pt" in caught.value.message
    assert not Path("/tmp/trapped").exists()


def test_a_torn_pickle_and_several_without_an_index(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:400])
    with pytest.raises(CheckpointError, match=r"a\.pt cannot be read"):
        read_checkpoint(str(tmp_path), pickles=True)
    torch.save({}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt, b\.pt and no"):
        read_checkpoint(str(tmp_path), pickles=True)


# Shards


def test_shards_hold_no_more_than_they_may_and_read_back(tmp_path: Path) -> None:
    weights = network().state_dict()  # 24, 8 and 32 bytes
    save_weights(weights, str(tmp_path), max_shard_bytes=32)
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(os.listdir(tmp_path)) == [*names, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_parameters": 16, "total_size": 64},
        "weight_map": {"0.weight": names[0], "0.bias": names[0], "1.weight": names[1]},
    }
    target = network()
    load_into(target, str(tmp_path), ())
    assert all(torch.equal(x, weights[name]) for name, x in target.state_dict().items())
    save_weights(weights, str(tmp_path), max_shard_bytes=8)  # a tensor larger than that has a file of its own
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    save_weights(weights, str(tmp_path))
    assert os.listdir(tmp_path) == ["model.safetensors"], "no shard of an earlier writing is left"


def test_shards_that_fail_leave_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights(network().state_dict(), str(tmp_path))
    before = (tmp_path / "model.safetensors").read_bytes()
    synced = 0

    def full(_: int) -> None:
        nonlocal synced
        synced += 1
        if synced > 2:  # the first shard and its folder are written
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save_weights(network().state_dict(), str(tmp_path), max_shard_bytes=8)
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/../../x", "", ".", "..\\x", "a\0b", "a\nb"])
def test_an_index_names_files_beside_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="points outside its folder, or at nothing"):
        read_checkpoint(str(tmp_path))
