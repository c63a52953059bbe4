"""Sound in characters: as long as it is, as high as it is loud."""

import numpy as np

from wavalign.engine.report.envelope import WIDTH, envelope


def test_length_and_height() -> None:
    samples = np.concatenate([np.full(100, 0.5), np.zeros(100), np.full(100, -0.125)]).astype(np.float32)
    drawn = envelope(samples, 0.5)
    assert len(drawn) == WIDTH // 2
    assert drawn == "█" * 8 + " " * 8 + "▄" * 8  # a quarter of the loudest is half as high
    assert envelope(samples, 0.5, plain=True) == "@" * 8 + " " * 8 + "=" * 8


def test_silence_and_a_single_sample() -> None:
    assert envelope(np.zeros(10, np.float32), 1.0) == " " * WIDTH
    assert envelope(np.array([0.3], np.float32), 0.0) == "█"
