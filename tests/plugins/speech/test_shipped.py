import hashlib
from pathlib import Path

import pytest

from wavalign.errors import PluginError
from wavalign.plugins.speech.shipped import Shipped

CONTENT = b"weights"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "some_voice"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('it must not be imported')")
    (folder / "voice.onnx").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def shipped(path: str = "voice.onnx", module: str = "some_voice") -> Shipped:
    return Shipped("some-voice==1.0", module, path, hashlib.sha256(CONTENT).hexdigest(), "the voice")


def test_the_known_file_is_given_without_an_import(module: Path) -> None:
    assert shipped().file() == module / "voice.onnx"


def test_another_file_is_refused_with_both_digests(module: Path) -> None:
    (module / "other.onnx").write_bytes(CONTENT + b"!")
    with pytest.raises(PluginError, match=r"other\.onnx is not the file that some-voice==1\.0 ships") as caught:
        shipped("other.onnx").file()
    assert hashlib.sha256(CONTENT + b"!").hexdigest() in str(caught.value)
    assert caught.value.hint is not None and "some-voice==1.0" in caught.value.hint


def test_a_package_that_is_absent_or_incomplete_is_named(module: Path) -> None:
    with pytest.raises(PluginError, match=r"the voice needs the package some-voice==1\.0") as caught:
        shipped(module="no_voice_here").file()
    assert caught.value.hint is not None and "natural" in caught.value.hint
    with pytest.raises(PluginError, match=r"lacks .*absent\.onnx"):
        shipped("absent.onnx").file()
