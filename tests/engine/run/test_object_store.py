"""A run's copy in a store that speaks S3: moto's server in a process of its own, s3fs as a user has it."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

import boto3
import fsspec
import pytest
import s3fs

from tests.e2e.runs import command, environment
from tests.engine.run.test_copying import EVERY, cut
from tests.engine.run.test_trainer import Signals, assert_same_run, run
from tests.toy.compiled import Change, compiled, put
from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine import api
from wavalign.engine.api import Resume
from wavalign.errors import CheckpointError, PreflightError
from wavalign.storage import copies
from wavalign.storage.copies import Copies

NOBODY = "http://127.0.0.1:1"


@final
@dataclass(frozen=True, slots=True)
class Server:
    """S3 at an endpoint, and somebody else's client of it, who knows nothing of what this process listed."""

    endpoint: str
    client: Any

    def keys(self, run: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket="bucket", Prefix=f"{run}/").get("Contents", [])
        return [each["Key"].removeprefix(f"{run}/") for each in found]

    def content(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket="bucket", Key=key)["Body"].read())

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket="bucket", Key=key, Body=content)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket="bucket", Key=key)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        _wait_for(endpoint, process)
        keys = {"aws_access_key_id": "one", "aws_secret_access_key": "two", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=endpoint, **keys)
        client.create_bucket(Bucket="bucket")
        yield Server(endpoint, client)
        client.close()
    finally:
        process.kill()
        process.wait()


def _wait_for(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("moto's server did not start")


@pytest.fixture
def place(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run's folder in the bucket, and the variables that lead there."""
    variables = {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "one",
        "AWS_SECRET_ACCESS_KEY": "two",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(copies, "FIRST_PAUSE", 0.001)
    fresh()
    return f"runs/{uuid.uuid4().hex}"


def fresh() -> None:
    """fsspec keeps file systems, with the endpoint and keys they were opened by."""
    s3fs.S3FileSystem.clear_instance_cache()


def there(place: str) -> Change:
    return put("runtime.checkpoint_store", f"s3://bucket/{place}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), EVERY)


def test_a_killed_run_goes_on_on_an_empty_machine(whole: Path, server: Server, place: str, tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, checkpoint_every=1)
    recipe["runtime"]["checkpoint_store"] = f"s3://bucket/{place}"
    process = subprocess.Popen(
        command("run", write_recipe(tmp_path, recipe)),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 120
        while "checkpoints/step-2/checkpoint.json" not in server.keys(place):
            assert process.poll() is None and time.monotonic() < end, "no checkpoint was copied"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "run/finished.json").exists()
    shutil.rmtree(tmp_path / "run")
    api.run(compiled(tmp_path, EVERY, there(place)), resume=Resume(at=f"s3://bucket/{place}"))
    assert_same_run(tmp_path / "run", whole)
    for name in (
        "finished.json",
        "metrics.jsonl",
        "model/model.safetensors",
        "checkpoints/step-6/training.safetensors",
    ):
        assert server.content(f"{place}/{name}") == (tmp_path / "run" / name).read_bytes(), name
    assert {name.split("/")[1] for name in server.keys(place) if name.startswith("checkpoints/")} == {
        "step-5",
        "step-6",
    }
    (tmp_path / "two").mkdir()
    with pytest.raises(PreflightError, match="holds the copy of another run"):
        run(tmp_path / "two", EVERY, there(place))


def test_what_is_kept_here_is_kept_there(server: Server, place: str, tmp_path: Path) -> None:
    """The last, every third and the best one; a run that goes on from the copy knows which was the best."""
    keep = (
        put("evaluation.every", 1),
        put("optim.learning_rate", 0.03),
        put("steps", 8),
        put("runtime.keep_checkpoints", 1),
        put("runtime.keep_every", 3),
        put("runtime.keep_best", {"metric": "heldout/accuracy", "mode": "min"}),
    )
    whole = run(tmp_path / "whole", EVERY, *keep)
    cut(tmp_path, *keep, there(place), at=6)
    shutil.rmtree(tmp_path / "run")
    plan = compiled(tmp_path, EVERY, *keep, there(place))
    api.run(plan, resume=Resume(at=f"s3://bucket/{place}"))
    assert_same_run(tmp_path / "run", whole)
    here = {path.name for path in (whole / "checkpoints").iterdir()}
    best = json.loads((whole / "best.json").read_text())["step"]
    assert best not in (3, 6, 8) and here == {"step-3", "step-6", "step-8", f"step-{best}"}
    kept = {name.split("/")[1] for name in server.keys(place) if name.startswith("checkpoints/")}
    assert kept == here
    assert server.content(f"{place}/best.json") == (whole / "best.json").read_bytes()


def test_broken_copies(server: Server, place: str, tmp_path: Path) -> None:
    """A checkpoint without a manifest is none; one whose files are not what it says is refused."""
    cut(tmp_path, there(place))
    shutil.rmtree(tmp_path / "run")
    key = f"{place}/checkpoints/step-3/training.safetensors"
    content = server.content(key)
    at = Resume(at=f"s3://bucket/{place}")
    flipped = bytearray(content)
    flipped[-1] ^= 1
    for broken in (content[:-7], bytes(flipped)):
        server.put(key, broken)
        with pytest.raises(CheckpointError, match="checkpoint of step 3 is damaged"):
            api.run(compiled(tmp_path, EVERY, there(place)), resume=at)
        shutil.rmtree(tmp_path / "run")
    server.remove(f"{place}/checkpoints/step-3/checkpoint.json")
    watcher = Signals(-1)
    api.run(compiled(tmp_path, EVERY, there(place)), resume=at, observer=watcher)
    assert any("with its checkpoint step-2" in text for text in watcher.said)


def test_a_server_that_goes_away_takes_nothing(
    whole: Path, server: Server, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watcher(Signals):
        def step(self, values: Any, steps_done: int) -> None:
            if steps_done == 3:
                store = fsspec.filesystem("s3")
                store._endpoint, store.endpoint_url = NOBODY, NOBODY
                store.connect(refresh=True)

    watcher = Watcher(-1)
    plan = compiled(tmp_path, EVERY, there(place))
    api.run(plan, resume=False, observer=watcher)
    assert_same_run(tmp_path / "run", whole)
    assert sum("nothing is lost here" in text and "Error" in text for text in watcher.said) == 1, watcher.said
    assert any("copies are missing there" in text for text in watcher.said)
    assert "finished.json" not in server.keys(place)
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOBODY)
    fresh()
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(CheckpointError, match="EndpointConnectionError"):
        api.run(plan, resume=Resume(at=f"s3://bucket/{place}"))


def test_what_the_store_refuses_ends_the_run_before_its_first_step(
    server: Server, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = compiled(tmp_path, EVERY, put("runtime.checkpoint_store", "s3://no-such-bucket/run"))
    with pytest.raises(PreflightError, match="there is no such place") as caught:
        api.run(plan, resume=False)
    assert "does the bucket exist" in caught.value.hint and not (tmp_path / "run/metrics.jsonl").exists()
    shutil.rmtree(tmp_path / "run")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fresh()
    with pytest.raises(PreflightError, match="no credentials") as caught:
        api.run(compiled(tmp_path, EVERY, there(place)), resume=False)
    assert "AWS_" in caught.value.hint


def test_what_another_process_wrote_is_seen(server: Server, place: str, tmp_path: Path) -> None:
    """s3fs keeps what it listed."""
    (tmp_path / "a").write_bytes(b"0123")
    mine = Copies(f"s3://bucket/{place}")
    mine.put(tmp_path / "a", "x/a")
    assert mine.names() == {"x/a": 4}
    server.put(f"{place}/x/b", b"01")
    assert mine.names() == {"x/a": 4, "x/b": 2}
    server.put(f"{place}/x/a", b"012345")
    mine.get("x/a", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == b"012345"


def test_a_file_in_several_parts(server: Server, place: str, tmp_path: Path) -> None:
    size = (100 << 20) + 3
    with (tmp_path / "large").open("wb") as file:
        file.truncate(size)
        file.seek(size - 5)
        file.write(b"12345")
    Copies(f"s3://bucket/{place}").put(tmp_path / "large", "large")
    found = server.client.head_object(Bucket="bucket", Key=f"{place}/large")
    assert found["ContentLength"] == size
    assert "-" in found["ETag"], "the sum of a file that went in parts names their number"


def test_the_protocols_package_is_named() -> None:
    if find_spec("gcsfs") is not None:
        pytest.skip("gcsfs is installed")
    with pytest.raises(CheckpointError, match="needs a package that is not installed") as caught:
        Copies("gs://bucket/run")
    assert caught.value.hint == "pip install gcsfs"
