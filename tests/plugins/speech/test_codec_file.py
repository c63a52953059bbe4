"""The file of a codec: what was written is read, and everything else is refused by name."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wavalign.errors import CheckpointError
from wavalign.plugins.speech.codec_file import check_shapes, read_codec, write_codec


@dataclass(frozen=True)
class Pair:
    """Sizes."""

    one: int
    two: int


BOOKS = {"book": torch.arange(6.0).view(2, 3)}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_codec(BOOKS, Pair(1, 2), tmp_path / "codec", form="pair-1")
    sizes, tensors = read_codec(tmp_path / "codec", Pair, form="pair-1", what="pair codec")
    assert sizes == Pair(1, 2)
    assert torch.equal(tensors["book"], BOOKS["book"])


@pytest.mark.parametrize("settings", [None, "{", "[]", '{"one": 1}', '{"one": 1, "two": 2, "three": 3}'])
def test_settings_that_are_none(tmp_path: Path, settings: str | None) -> None:
    metadata = {"format": "pair-1"} | ({} if settings is None else {"settings": settings})
    save_file(BOOKS, tmp_path / "codec", metadata=metadata)
    with pytest.raises(CheckpointError, match="its settings cannot be read"):
        read_codec(tmp_path / "codec", Pair, form="pair-1", what="pair codec")


def test_another_kind_and_another_file(tmp_path: Path) -> None:
    save_file(BOOKS, tmp_path / "codec", metadata={"format": "other", "settings": json.dumps({"one": 1, "two": 2})})
    with pytest.raises(CheckpointError, match="not a pair codec"):
        read_codec(tmp_path / "codec", Pair, form="pair-1", what="pair codec")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_codec(tmp_path / "text", Pair, form="pair-1", what="pair codec")


def test_shapes() -> None:
    check_shapes(BOOKS, {"book": (2, 3)}, "codec")
    with pytest.raises(CheckpointError, match=r"book is \(2, 3\), not \(3, 2\)"):
        check_shapes(BOOKS, {"book": (3, 2)}, "codec")
    with pytest.raises(CheckpointError, match="it lacks shelf"):
        check_shapes(BOOKS, {"shelf": (1,)}, "codec")
