"""Data files with bytes changed, lost, doubled and cut off: each is read or refused by name."""

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.plugins.data.sounds import wav
from tests.plugins.data.test_parquet import rows, source, write
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import AudioClip, Dialogue
from wavalign.plugins.data.jsonl import Jsonl, JsonlParams
from wavalign.plugins.data.research_jsonl import ResearchJsonl, ResearchJsonlParams

ODD = (b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b'"', b"}", b"\\ud800", b"NaN", b"\r")
SAMPLE, ALL = 60, 3000


def jsonl(file: Path) -> bytes:
    """A right file of JSON lines."""
    record = {
        "messages": [{"role": "user", "text": "how many é?", "audio": "q.wav"}],
        "target": {"text": "twelve"},
        "metadata": {"answer": [12, None, {"a": -1.5e3}], "told": True},
    }
    return b"".join(json.dumps({"id": str(i), **record}, ensure_ascii=i % 2 == 0).encode() + b"\n" for i in range(8))


def research(file: Path) -> bytes:
    """Records of the research code."""
    record = {
        "messages": [{"role": "user", "content": "<|audio|>"}],
        "audios": ["q.wav"],
        "sft_target_text": "it is twelve",
        "task_type": "s2t",
    }
    return b"".join(json.dumps(record).encode() + b"\n" for _ in range(8))


def parquet(file: Path) -> bytes:
    """A right table with sound inside."""
    return Path(write(file, rows(6))).read_bytes()


FORMATS: dict[str, tuple[Callable[[Path], bytes], Callable[[str], DataSource]]] = {
    "jsonl": (jsonl, lambda path: Jsonl(JsonlParams(path=path), seed=0)),
    "ndjson": (jsonl, lambda path: Jsonl(JsonlParams(path=path, on_bad="drop"), seed=0)),
    "research": (research, lambda path: ResearchJsonl(ResearchJsonlParams(path=path), seed=0)),
    "parquet": (parquet, source),
}


def spoilt(content: bytes, rng: random.Random) -> bytes:
    """One to four changes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 100))
        match rng.randrange(6):
            case 0:
                data[at : at + length] = rng.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at:at] = rng.choice(ODD)
            case 4:
                del data[at:]
            case _:
                if at < len(data):
                    data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def complaint(made: DataSource, file: Path) -> str:
    """What is wrong with how a file is read or refused; empty for nothing."""
    try:
        for _, found in made.inspect():
            if isinstance(found, DataError) and file.name not in found.message:
                return f"no file is named: {found.message}"
            for turn in found.messages if isinstance(found, Dialogue) else ():
                if turn.audio is not None and turn.audio.url.startswith("cell://"):
                    _heard(turn.audio)
    except DataError as error:
        return "" if file.name in error.message else f"no file is named: {error.message}"
    except Exception as error:  # noqa: BLE001 - whatever else comes out is what is looked for
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


def _heard(clip: AudioClip) -> None:
    """Sound in a spoilt table is read or refused too."""
    try:
        audio.read(clip, sample_rate=None)
    except DataError as error:
        assert error.message  # noqa: PT017 - reading it may also succeed


def spoil(folder: Path, kind: str, seeds: range) -> list[str]:
    """Seeds whose file is not refused well."""
    make, opened = FORMATS[kind]
    (folder / "q.wav").write_bytes(wav(0.1))
    suffix = {"research": "jsonl"}.get(kind, kind)
    content, found = make(folder / f"right.{suffix}"), []
    for seed in seeds:
        file = folder / f"spoilt{seed}.{suffix}"
        file.write_bytes(spoilt(content, random.Random(seed)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrong = complaint(opened(str(file)), file)
        if wrong:
            found.append(f"seed {seed}: {wrong}")
        file.unlink()
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_spoilt_files_are_read_or_refused_by_name(kind: str, tmp_path: Path) -> None:
    assert spoil(tmp_path, kind, range(SAMPLE)) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_thousands_of_spoilt_files(kind: str, tmp_path: Path) -> None:
    assert spoil(tmp_path, kind, range(ALL)) == []


def test_a_damaged_footer_does_not_end_the_process(tmp_path: Path) -> None:
    """pyarrow ends the process where it is asked for statistics of a column whose type in the footer is damaged."""
    assert spoil(tmp_path, "parquet", range(2798, 2799)) == []
