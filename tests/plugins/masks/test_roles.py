"""Weights by role."""

import pytest
import torch
from pydantic import ValidationError

from wavalign.plugins.batch import Role
from wavalign.plugins.masks.roles import Roles, RolesParams

EVERY_ROLE = torch.tensor([[list(Role)]], dtype=torch.int8)


def weights(**options: float) -> dict[Role, float]:
    values = Roles(RolesParams.model_validate(options)).weights(EVERY_ROLE)
    assert values.shape == EVERY_ROLE.shape
    assert values.dtype == torch.float32
    return dict(zip(Role, values.flatten().tolist(), strict=True))


def test_every_role_has_its_weight() -> None:
    assert weights(text=1.0, audio=0.25, marks=0.5) == {
        Role.PAD: 0.0,
        Role.PROMPT: 0.0,
        Role.TEXT: 1.0,
        Role.TEXT_END: 1.0,
        Role.AUDIO: 0.25,
        Role.AUDIO_MARK: 0.5,
        Role.FORCED: 0.0,
    }


def test_the_end_of_text_follows_text_unless_told() -> None:
    assert weights(text=0.5)[Role.TEXT_END] == 0.5
    assert weights(text=0.5, text_end=0.0)[Role.TEXT_END] == 0.0
    assert weights(text_end=2.0) == {role: 2.0 if role is Role.TEXT_END else 0.0 for role in Role}


@pytest.mark.parametrize("options", [{}, {"text": 0.0, "audio": 0.0}])
def test_a_mask_that_selects_nothing_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="selects no token"):
        RolesParams.model_validate(options)


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ValidationError):
        RolesParams(text=-1.0)
