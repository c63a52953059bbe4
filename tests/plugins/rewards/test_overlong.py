"""The penalty for length by hand."""

import pytest
import torch
from pydantic import ValidationError

from wavalign.plugins.batch import Answer, Dialogue, Role, Rollout, TokenSequence
from wavalign.plugins.rewards.overlong import Overlong, OverlongParams

DIALOGUE = Dialogue("d", ())


def said(text: int, audio: int = 0) -> Rollout:
    """An answer of so many text tokens, their end among them, and sound behind a mark."""
    roles = [Role.TEXT] * (text - 1) + [Role.TEXT_END] * bool(text) + [Role.AUDIO_MARK] * bool(audio)
    row = torch.tensor([[*roles, *[Role.AUDIO] * audio]], dtype=torch.int8)
    return Rollout(TokenSequence(torch.zeros_like(row).long(), row), torch.zeros(row.shape), Answer("", (), True))


@pytest.mark.parametrize(
    ("length", "penalty"), [(1, 0.0), (12, 0.0), (13, -0.125), (16, -0.5), (20, -1.0), (21, -1.0), (60, -1.0)]
)
def test_nothing_up_to_the_buffer_and_all_from_the_limit_on(length: int, penalty: float) -> None:
    reward = Overlong(OverlongParams(limit=20, buffer=8))
    scored = reward.score(said(length, audio=30), DIALOGUE)
    assert (scored.value, scored.details) == (penalty, {"tokens": length})


def test_all_counts_sound_and_marks() -> None:
    reward = Overlong(OverlongParams(limit=20, buffer=8, tokens="all"))
    assert reward.score(said(6, audio=9), DIALOGUE).value == -0.5


def test_a_buffer_of_one_is_a_hard_limit() -> None:
    reward = Overlong(OverlongParams(limit=5, buffer=1))
    assert [reward.score(said(length), DIALOGUE).value for length in (3, 4, 5, 6)] == [0, 0, -1, -1]


@pytest.mark.parametrize("options", [{"limit": 4, "buffer": 5}, {"limit": 4}, {"buffer": 1}, {"limit": 0, "buffer": 1}])
def test_nonsense_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        OverlongParams.model_validate(options)
