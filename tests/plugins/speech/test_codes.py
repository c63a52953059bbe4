"""Flat ids of several code books, by hand; digests."""

import numpy as np
import pytest
import torch

from wavalign.errors import DataError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.codes import digest, flat_ids, refuse_other_rate, whole_frames

SIZES = (4, 3, 5)  # ids 0..3, 4..6, 7..11


def test_frames_stand_one_after_the_other_and_each_book_has_its_range() -> None:
    assert flat_ids([[0, 0, 0], [3, 2, 4]], SIZES) == [0, 4, 7, 3, 6, 11]
    assert whole_frames([0, 4, 7, 3, 6, 11], SIZES) == [[0, 0, 0], [3, 2, 4]]
    assert flat_ids([], SIZES) == []
    assert whole_frames([], SIZES) == []


@pytest.mark.parametrize(
    ("ids", "frames"),
    [
        ([4, 7, 3, 6, 11], [[3, 2, 4]]),  # a beginning is missing
        ([3, 6, 11, 3, 6], [[3, 2, 4]]),  # an end is missing
        ([3, 6, 12, 3, 6, 11], [[3, 2, 4]]),  # 12 is of no book
        ([3, 3, 6, 11, -1], [[3, 2, 4]]),
        ([6, 3, 11], []),
        ([3, 6], []),
    ],
)
def test_what_is_no_whole_frame_is_left_out(ids: list[int], frames: list[list[int]]) -> None:
    assert whole_frames(ids, SIZES) == frames


def test_one_book_keeps_every_id_of_its_own() -> None:
    assert whole_frames([5, 9, -1, 0, 10], (10,)) == [[5], [9], [0]]


def test_another_rate() -> None:
    refuse_other_rate(Waveform(np.zeros(3, np.float32), 16_000), 16_000)
    with pytest.raises(DataError, match="takes 16000 Hz, the sound has 22050 Hz"):
        refuse_other_rate(Waveform(np.zeros(3, np.float32), 22_050), 16_000)


def test_a_digest_changes_with_everything_that_is_in_it() -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(2, dtype=torch.int64)}
    first = digest(weights, "x")
    assert digest({"b": weights["b"], "a": weights["a"].clone()}, "x") == first
    others = [
        digest({**weights, "a": weights["a"].view(3, 2)}, "x"),
        digest({**weights, "a": weights["a"] + 1e-6}, "x"),
        digest({"c": weights["a"], "b": weights["b"]}, "x"),
        digest({**weights, "a": weights["a"].to(torch.bfloat16)}, "x"),
        digest(weights, "y"),
        digest(weights),
    ]
    assert len({first, *others}) == 7
