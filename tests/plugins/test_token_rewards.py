"""Values of frames, spans, tokens and words where they belong, by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from wavalign.plugins.batch import Answer, Role, Rollout, TokenSequence, Waveform
from wavalign.plugins.token_rewards import (
    Span,
    num_frames,
    over_codes,
    over_frames,
    over_spans,
    over_text,
    over_words,
)

T, E, A, M, F = Role.TEXT, Role.TEXT_END, Role.AUDIO, Role.AUDIO_MARK, Role.FORCED


def rollout(*streams: tuple[Role, ...], text: str = "", codes: int = 0, **fields: Any) -> Rollout:
    roles = torch.tensor([[int(role) for role in stream] for stream in streams], dtype=torch.int8)
    tokens = TokenSequence(torch.zeros(roles.shape, dtype=torch.int64), roles)
    return Rollout(tokens, torch.zeros(roles.shape), Answer(text, tuple(range(codes)), True), **fields)


ONE = (T, T, M, A, A, A, A, A, M)
"""Five codes: frames of two are two and a half."""
LATE = ((T, M, A, A, A, M), (F, F, F, A, A, A))
"""Two code books, the second a position later."""


def test_frames_of_one_stream() -> None:
    each = rollout(ONE)
    assert (num_frames(each), num_frames(each, codes_per_frame=2)) == (5, 3)
    assert over_frames(each, [1, 2, 3, 4, 5]).tolist() == [[0, 0, 0, 1, 2, 3, 4, 5, 0]]
    found = over_frames(each, [1, 2, 3], codes_per_frame=2)
    assert found.tolist() == [[0, 0, 0, 0.5, 0.5, 1, 1, 3, 0]]  # divided among the codes there are
    assert float(found.sum()) == 6
    assert found.dtype == torch.float64
    with pytest.raises(ValueError, match="2 values for 5 frames of sound"):
        over_frames(each, [1, 2])


def test_frames_of_streams_that_come_late() -> None:
    each = rollout(*LATE)
    assert num_frames(each) == 3
    assert over_frames(each, [2, 4, 6]).tolist() == [[0, 0, 1, 2, 3, 0], [0, 0, 0, 1, 2, 3]]
    assert over_codes(each, [1, 2, 3, 4, 5, 6]).tolist() == [[0, 0, 1, 3, 5, 0], [0, 0, 0, 2, 4, 6]]
    with pytest.raises(ValueError, match="5 values for 6 codes"):
        over_codes(each, [1] * 5)
    cut = rollout((M, A, A), (F, F, A))  # its last frame lacks a code
    assert over_codes(cut, [1, 2]).tolist() == [[0, 1, 0], [0, 0, 2]]


def test_an_answer_without_sound() -> None:
    silent = rollout((T, T, E))
    assert num_frames(silent) == 0
    assert not over_frames(silent, []).any()
    assert not over_codes(silent, []).any()
    assert num_frames(rollout(())) == 0


def test_spans_of_time() -> None:
    """Five codes over a second: their middles are at 0.1, 0.3, ... 0.9."""
    each = rollout(ONE, waveform=Waveform(np.zeros(100, np.float32), 100))
    found = over_spans(each, [Span(0.0, 0.4, 1.0), Span(0.5, 0.55, -2.0), Span(0.85, 5.0, 3.0), Span(0.85, 0.95, 1)])
    assert found.tolist() == [[0, 0, 0, 0.5, 0.5, -2, 0, 4, 0]]
    halves = over_spans(each, [Span(0.0, 0.4, 1.0)], codes_per_frame=2)  # frames of a third of a second
    assert halves.tolist() == [[0, 0, 0, 0.5, 0.5, 0, 0, 0, 0]]
    with pytest.raises(ValueError, match="the answer has none"):
        over_spans(rollout(ONE), [Span(0, 1, 1.0)])


def test_text_tokens_and_words() -> None:
    roles = (T, T, T, F, T, T, E)
    assert over_text(rollout(roles), [1, 2, 3, 4, 5]).tolist() == [[1, 2, 3, 0, 4, 5, 0]]
    with pytest.raises(ValueError, match="2 values for 5 text tokens"):
        over_text(rollout(roles), [1, 2])
    # The first token is the template's; `that` is one token and `Paris!` two; a token of a space belongs to nobody.
    said = rollout(roles, text="that's  Paris!", pieces=("[ta]", " that's", " ", " Par", "is!"))
    assert over_words(said, [1, 3]).tolist() == [[0, 1, 0, 0, 1.5, 1.5, 0]]
    with pytest.raises(ValueError, match="1 values for 2 words"):
        over_words(said, [1])
    with pytest.raises(ValueError, match="name `pieces`"):
        over_words(rollout(roles, text="a b"), [1, 2])
    with pytest.raises(ValueError, match="not made of the text"):
        over_words(rollout(roles, text="a b", pieces=("x",) * 5), [1, 2])
