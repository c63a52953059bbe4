"""Folders of Hugging Face datasets: saved ones, and copies of repositories."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest
from pyarrow import ipc, parquet

from tests.plugins.data.sounds import level, ready, streamed, wav
from wavalign.errors import DataError
from wavalign.plugins.data.hf_dataset import HfDataset, HfDatasetParams

COLUMNS = {"text": "q", "audio": "sound", "target_text": "a"}


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"q": f"q{i}", "sound": {"bytes": wav(i / 100), "path": None}, "a": f"a{i}"}
        for i in range(first, first + count)
    ]


def save(folder: Path, *parts: list[dict[str, Any]]) -> str:
    """What `save_to_disk` leaves: Arrow streams and a list of them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        table = pyarrow.Table.from_pylist(part)
        with ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return str(folder)


def source(path: str, **options: Any) -> HfDataset:
    return HfDataset(HfDatasetParams.model_validate({"path": path, "columns": COLUMNS, **options}), seed=0)


def questions(path: str, **options: Any) -> list[str]:
    return [each.messages[0].text for each in ready(source(path, **options))]


def test_a_saved_dataset(tmp_path: Path) -> None:
    path = save(tmp_path / "d", rows(3), rows(2, first=3))
    found = ready(source(path))
    assert [each.messages[0].text for each in found] == ["q0", "q1", "q2", "q3", "q4"]
    assert [level(each.messages[0].audio) for each in found] == [0.0, 0.01, 0.02, 0.03, 0.04]
    assert streamed(source(path, streaming=True)) == found
    with pytest.raises(DataError, match="without splits") as caught:
        ready(source(path, split="train"))
    assert "leave `split` out" in caught.value.hint


def test_a_saved_dataset_with_splits(tmp_path: Path) -> None:
    save(tmp_path / "train", rows(2))
    save(tmp_path / "test", rows(1, first=7))
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert questions(str(tmp_path), split="test") == ["q7"]
    for split, hint in ((None, "set split to one of: train, test"), ("dev", "it has: train, test")):
        with pytest.raises(DataError) as caught:
            ready(source(str(tmp_path), split=split))
        assert caught.value.hint == hint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_datasets_saves_is_read(tmp_path: Path) -> None:
    """Against the package itself."""
    datasets = pytest.importorskip("datasets")
    (tmp_path / "x.wav").write_bytes(wav(0.25))
    columns = {"q": ["a", "b", "c"], "sound": [str(tmp_path / "x.wav")] * 3, "a": ["1", "2", "3"]}
    made = datasets.Dataset.from_dict(columns).cast_column("sound", datasets.Audio(decode=False))
    datasets.DatasetDict({"train": made.select([2, 0])}).save_to_disk(str(tmp_path / "saved"))
    found = ready(source(str(tmp_path / "saved")))
    assert [each.messages[0].text for each in found] == ["c", "a"]
    assert level(found[1].messages[0].audio) == 0.25


@pytest.fixture
def hub() -> Iterator[str]:
    """A repository on a file system that is no disk."""
    system = fsspec.filesystem("memory")
    for name, part in (("data/train-0", rows(2)), ("data/train-1", rows(1, first=2)), ("data/test-0", rows(1, 9))):
        with system.open(f"/hub/{name}.parquet", "wb") as file:
            parquet.write_table(pyarrow.Table.from_pylist(part), file)
    yield "memory://hub"
    system.rm("/hub", recursive=True)


def test_splits_of_a_repository_by_their_paths(hub: str) -> None:
    assert questions(hub, split="train") == ["q0", "q1", "q2"]
    assert questions(f"{hub}/", split="test") == ["q9"]
    (last,) = ready(source(hub, split="test"))
    assert level(last.messages[0].audio) == 0.09
    with pytest.raises(DataError, match="has no split 'dev'") as caught:
        ready(source(hub, split="dev"))
    assert caught.value.hint == "it has: test, train"


CARD = """---
license: mit
configs:
- config_name: spoken
  default: true
  data_files:
  - split: train
    path: data/train-*
  - split: held_out
    path: [data/test-0.parquet]
- config_name: written
  data_files: more/*.jsonl
---
# A dataset
"""


def test_splits_of_a_repository_by_its_card(hub: str) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/hub/README.md", CARD.encode())
    system.pipe("/hub/more/x.jsonl", b'{"q": "only", "a": "b"}\n')
    assert questions(hub, split="held_out") == ["q9"]
    assert questions(hub, config="written") == ["only"]
    with pytest.raises(DataError, match="has no config 'sung'"):
        ready(source(hub, config="sung"))
    system.pipe("/hub/README.md", b"---\nconfigs: [\n---\n")
    with pytest.raises(DataError, match=r"README\.md: its front matter"):
        ready(source(hub, split="train"))


def test_a_folder_that_says_nothing_is_one_split(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "x"}\n')
    assert questions(str(tmp_path)) == ["x"]


def test_arrow_files_are_local_and_whole(tmp_path: Path) -> None:
    path = save(tmp_path / "d", rows(1))
    (tmp_path / "d/data-00000-of-00001.arrow").write_bytes(b"no arrow")
    with pytest.raises(DataError, match=r"\.arrow: cannot be read as Arrow"):
        ready(source(path))
    system = fsspec.filesystem("memory")
    system.pipe("/saved/state.json", b'{"_data_files": [{"filename": "x.arrow"}]}')
    system.pipe("/saved/x.arrow", b"")
    with pytest.raises(DataError, match="on a disk of this machine"):
        ready(source("memory://saved"))
    system.rm("/saved", recursive=True)
    (tmp_path / "d/state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state\.json: not what save_to_disk writes"):
        ready(source(path))
