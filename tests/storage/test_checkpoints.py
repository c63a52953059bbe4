"""Checkpoints that lie elsewhere: against real servers on this machine, and fsspec's memory."""

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from tests.storage.servers import Served, serving
from wavalign.errors import CheckpointError, StorageError
from wavalign.storage import checkpoints as remote
from wavalign.storage.checkpoints import Want, local_folder, read_headers
from wavalign.storage.tensors import read_checkpoint

SHARDS = {"model-1-of-2.safetensors": "a", "model-2-of-2.safetensors": "b"}
SIZE = 50_000


def silent(what: str, done: int, total: int) -> None:
    """Progress nobody watches."""


def fetch(address: str, want: Want = "weights", *, pickles: bool = False) -> Path:
    return Path(local_folder(address, want=want, pickles=pickles, progress=silent))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WAVALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A sharded checkpoint with a sub-folder."""
    folder = tmp_path / "source"
    (folder / "encoder").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "encoder" / "config.json").write_text("{}")
    (folder / "encoder" / "model.pt").write_bytes(b"0" * 1000)
    for file, name in SHARDS.items():
        save_file({f"{name}.weight": torch.full((SIZE // 4, 1), 3.0)}, str(folder / file))
    weights = {f"{name}.weight": file for file, name in SHARDS.items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


@pytest.fixture
def web(source: Path) -> Iterator[Served]:
    with serving(source) as served:
        yield served


@pytest.fixture
def hub(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with serving(source, hub=True) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        yield served


@pytest.fixture
def memory(source: Path) -> Iterator[str]:
    """The checkpoint in fsspec's memory."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(source), "/store", recursive=True)
    yield "memory://store"
    filesystem.rm("/store", recursive=True)


def test_a_local_folder_is_given_back(source: Path) -> None:
    assert fetch(str(source)) == source
    assert fetch(f"file://{source}") == source
    assert read_headers(f"file://{source}") == read_checkpoint(str(source))


def test_what_is_wanted_comes_and_nothing_else(memory: str, source: Path) -> None:
    layout = fetch(memory, "layout")
    small = {"config.json", "tokenizer.json", "encoder/config.json", "model.safetensors.index.json"}
    assert set(content(layout)) == small
    assert fetch(memory, "weights") == layout
    assert set(content(layout)) == small | set(SHARDS)
    assert fetch(memory, "everything") == layout
    assert content(layout) == content(source)


def test_what_is_here_is_not_fetched_again_and_what_changed_is(web: Served, source: Path) -> None:
    folder = fetch(web.address)
    assert read_checkpoint(str(folder)).keys() == {"a.weight", "b.weight"}
    web.sent = 0
    fetch(web.address)
    assert web.sent < 1000, "only first bytes and the index are asked for"
    save_file({"a.weight": torch.full((SIZE // 4, 1), 4.0)}, str(source / "model-1-of-2.safetensors"))
    fetch(web.address)
    assert SIZE < web.sent < 2 * SIZE
    assert (folder / "model-1-of-2.safetensors").read_bytes() == (source / "model-1-of-2.safetensors").read_bytes()


def test_a_file_that_was_cut_off_goes_on_where_it_stopped(web: Served, source: Path, caches: Path) -> None:
    web.cut["model-2-of-2.safetensors"] = 30_000
    with pytest.raises(CheckpointError):
        fetch(web.address)
    (folder,) = [path for path in (caches / "checkpoints").iterdir() if path.is_dir()]
    assert not (folder / "model-2-of-2.safetensors").exists(), "complete or absent"
    web.asked.clear()
    fetch(web.address)
    ranges = [each for path, each in web.asked if path == "model-2-of-2.safetensors" and each != "bytes=0-0"]
    assert ranges == ["bytes=30000-"]
    whole = (source / "model-2-of-2.safetensors").read_bytes()
    assert (folder / "model-2-of-2.safetensors").read_bytes() == whole
    assert not list(folder.rglob(".*"))


def test_headers_come_without_tensors(web: Served, memory: str, source: Path) -> None:
    for address in (web.address, memory):
        found = read_headers(address)
        assert found is not None
        wanted = read_checkpoint(str(source))
        assert {name: (x.shape, x.dtype) for name, x in found.items()} == {
            name: (x.shape, x.dtype) for name, x in wanted.items()
        }
        assert found["a.weight"].file == f"{address}/model-1-of-2.safetensors"
    assert web.sent < 2000


def test_a_server_without_ranges(web: Served, source: Path) -> None:
    web.ranges = False
    assert content(fetch(web.address))["config.json"] == (source / "config.json").read_bytes()
    found = read_headers(web.address)
    assert found is not None and set(found) == {"a.weight", "b.weight"}


def test_a_header_that_is_none(memory: str) -> None:
    fsspec.filesystem("memory").pipe("/store/model-1-of-2.safetensors", b"<html>not found</html>")
    with pytest.raises(CheckpointError, match=r"model-1-of-2.safetensors is no safetensors file"):
        read_headers(memory)


def test_missing_shards_are_named_before_anything_large_comes(memory: str) -> None:
    fsspec.filesystem("memory").rm("/store/model-2-of-2.safetensors")
    for look in (read_headers, fetch):
        with pytest.raises(CheckpointError, match=r"lacks model-2-of-2\.safetensors"):
            look(memory)


def test_an_index_does_not_lead_out_of_its_folder(memory: str, caches: Path) -> None:
    index = {"weight_map": {"a": "../../outside.safetensors"}}
    fsspec.filesystem("memory").pipe("/store/model.safetensors.index.json", json.dumps(index).encode())
    with pytest.raises(CheckpointError, match="outside its folder"):
        fetch(memory)
    assert not list(caches.parent.rglob("outside*"))


def test_pickles_come_where_they_are_allowed(memory: str, source: Path) -> None:
    store = fsspec.filesystem("memory")
    for name in (*SHARDS, "model.safetensors.index.json"):
        store.rm(f"/store/{name}")
    store.pipe("/store/pytorch_model.bin", b"anything")
    for look in (read_headers, fetch):
        with pytest.raises(CheckpointError, match="can run code") as caught:
            look(memory)
        assert "allow_pickles" in caught.value.hint
    assert read_headers(memory, pickles=True) is None
    assert (fetch(memory, pickles=True) / "pytorch_model.bin").read_bytes() == b"anything"


def test_offline_goes_on_with_what_was_fetched(source: Path) -> None:
    told: list[str] = []
    with serving(source) as served:
        folder, address = fetch(served.address), served.address
    again = local_folder(address, want="layout", progress=lambda what, done, total: told.append(what))
    assert Path(again) == folder
    assert told == [f"{address} cannot be reached; the copy fetched before is taken"]
    assert read_headers(address) == read_checkpoint(str(folder))
    with pytest.raises(CheckpointError, match="was not fetched before"):
        fetch(address, "everything")


def test_what_a_web_server_refuses(web: Served, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere/config\.json: the server answers 404"):
        fetch(f"{web.address}/nowhere")
    web.password = "Basic dXNlcjpvcGVu"  # user:open
    with pytest.raises(CheckpointError, match="answers 401") as caught:
        fetch(web.address)
    assert "netrc" in caught.value.hint
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password open\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert fetch(web.address).is_dir()


@pytest.mark.parametrize(
    "address",
    ["https://user:secret@host/x", "https://host/x?sig=secret", "s3://key:secret@bucket/x", "https://secret@h/x"],
)
def test_no_secret_in_an_address_or_in_a_message(address: str) -> None:
    with pytest.raises(CheckpointError, match="password or a key") as caught:
        fetch(address)
    assert "secret" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(("address", "package"), [("s3://bucket/x", "s3fs"), ("gs://bucket/x", "gcsfs")])
def test_a_package_that_is_missing_is_named(address: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError(f"install {package}")  # as fsspec does, whether or not it is installed here

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(CheckpointError, match="not installed") as caught:
        fetch(address)
    assert caught.value.hint == f"pip install {package}"


def test_a_scheme_that_nobody_knows() -> None:
    with pytest.raises(CheckpointError, match="nothing here knows smoke://"):
        fetch("smoke://signals/x")


def test_a_disk_that_is_too_small_is_found_first(memory: str, monkeypatch: pytest.MonkeyPatch, caches: Path) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr("wavalign.storage.checkpoints.shutil.disk_usage", lambda folder: Usage)
    with pytest.raises(StorageError, match="are free") as caught:
        fetch(memory)
    assert "WAVALIGN_CACHE" in caught.value.hint
    assert not list(caches.rglob("*.safetensors"))


def _fetch_in_process(address: str, cache: str) -> None:
    os.environ["WAVALIGN_CACHE"] = cache
    fetch(address)


def test_one_process_fetches_and_the_others_wait(web: Served, caches: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "tests.storage.test_checkpoints"])
    processes = [context.Process(target=_fetch_in_process, args=(web.address, str(caches))) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    for shard in SHARDS:
        assert [each for path, each in web.asked if path == shard and each != "bytes=0-0"] == ["bytes=0-"]


def test_threads_of_one_process_do_not_mix(memory: str, source: Path) -> None:
    found: list[dict[str, bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(content(fetch(memory, "everything")))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content(source)] * 4


# The hub: its own library against a small server that speaks its protocol


def test_a_model_of_the_hub(hub: Served, source: Path, caches: Path) -> None:
    found = read_headers("hf://org/name")
    assert found is not None and set(found) == {"a.weight", "b.weight"}
    assert hub.sent < 10_000
    layout = fetch("hf://org/name", "layout")
    assert not (layout / "model-1-of-2.safetensors").exists()
    folder = fetch("hf://org/name@main")
    assert folder == layout
    wanted = {name: data for name, data in content(source).items() if name != "encoder/model.pt"}
    assert content(folder) == wanted
    assert not list(caches.rglob("*.safetensors")), "the hub's own cache holds it"
    sub = fetch("hf://org/name/encoder", "everything")
    assert content(sub) == content(source / "encoder")


def test_the_hub_offline(hub: Served, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = fetch("hf://org/name", "layout")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert fetch("hf://org/name", "layout") == layout
    with pytest.raises(CheckpointError, match=r"hf://org/name cannot be reached.* was not fetched before") as caught:
        fetch("hf://org/name", "weights")
    assert "connection" in caught.value.hint
    with pytest.raises(CheckpointError, match="was not fetched before"):
        read_headers("hf://org/name")
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    fetch("hf://org/name", "weights")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert (fetch("hf://org/name", "weights") / "model-1-of-2.safetensors").exists()
    assert read_headers("hf://org/name") == read_checkpoint(str(layout))


@pytest.mark.parametrize(
    ("address", "message", "hint"),
    [
        ("hf://org/nothing", "no model org/nothing", "HF_TOKEN"),
        ("hf://org/name@elsewhere", "has no revision elsewhere", "branch"),
        ("hf://org/gated", "accepted its terms", "HF_TOKEN"),
        ("hf://name", "names no model", "hf://org/name"),
        ("hf://datasets/org/name", "names no model", "hf://org/name"),
        ("hf://org/na me!", "names no model", "hf://org/name"),
    ],
)
def test_what_the_hub_refuses(
    hub: Served, address: str, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch(address)
    assert hint in caught.value.hint
    assert "hf_secret" not in caught.value.message


def test_progress_counts_megabytes(web: Served, source: Path) -> None:
    save_file({"a.weight": torch.zeros(5_000_000)}, str(source / "model-1-of-2.safetensors"))
    told: list[tuple[str, Any, Any]] = []
    local_folder(web.address, want="weights", progress=lambda *each: told.append(each))
    assert ("fetching model-1-of-2.safetensors (MB)", 20, 20) in told


def test_the_record_of_the_cache_holds_no_more_than_it_says(memory: str, caches: Path) -> None:
    fetch(memory, "layout")
    record = json.loads(next((caches / "checkpoints").glob("*.json")).read_text())
    assert record["wants"] == ["layout"]
    assert set(record["files"]) == set(content(remote._mirror(remote._store(memory))))
