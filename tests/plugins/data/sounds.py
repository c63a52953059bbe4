"""Short sounds and sources for the tests of data."""

import io
from pathlib import Path

import numpy as np
import soundfile

from wavalign.plugins import audio
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import AudioClip, Dialogue


def wav(level: float, samples: int = 800) -> bytes:
    """A constant, told by its level."""
    file = io.BytesIO()
    soundfile.write(file, np.full(samples, level), 8000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def level(clip: AudioClip | None) -> float:
    """What a clip of `wav` was made with."""
    assert clip is not None
    return round(float(audio.read(clip, sample_rate=None).samples.mean()), 4)


def ready(source: DataSource) -> list[Dialogue]:
    """Every dialogue of a source, prepared."""
    source.prepare(lambda *_: None)
    return [source.record(index) for index in range(len(source))]


def streamed(source: DataSource) -> list[Dialogue]:
    """Every dialogue of a stream, in the order of its shards."""
    source.prepare(lambda *_: None)
    stream = source.stream()
    assert stream is not None
    return [record.dialogue for shard in range(len(stream.shards())) for record in stream.open(shard, ())]


def write_wav(path: Path, value: float) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav(value))
    return str(path)
