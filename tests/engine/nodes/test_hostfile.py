"""Hostfiles: what is one, and where what is wrong stands."""

from pathlib import Path

import pytest

from wavalign.engine.nodes.hostfile import Host, read_hostfile
from wavalign.errors import UsageError


def written(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text, encoding="utf-8")
    return path


def test_machines_in_their_order(tmp_path: Path) -> None:
    text = "# two machines\n\nworker-2.site slots=8   # the fast one\n\t10.0.0.1   slots=4\n"
    assert read_hostfile(written(tmp_path, text)) == (Host("worker-2.site", 8), Host("10.0.0.1", 4))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a slots=1\nb\n", 2, "`b` lacks its slots"),
        ("a slots=1\n\na slots=1\n", 3, "a stands in line 1 already"),
        ("a slots=0\n", 1, "slots=0: a whole number"),
        ("a slots=-2\n", 1, "slots=-2: a whole number"),
        ("a slots=2.5\n", 1, "slots=2.5: a whole number"),
        ("a slots=\n", 1, "`slots=` is not slots=N"),
        ("a slots = 4\n", 1, "says too much"),
        ("a gpus=4\n", 1, "`gpus=4` is not slots=N"),
        ("a slots=4 max_slots=8\n", 1, "says too much"),
        ("-oProxyCommand=x slots=4\n", 1, "`-oProxyCommand=x` is no name of a machine"),
        ("a;b slots=4\n", 1, "`a;b` is no name of a machine"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_hostfile(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "# nobody\n\n"])
def test_a_file_without_machines(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="names no machine"):
        read_hostfile(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_hostfile(tmp_path / "none")
