"""Weights by token kind: w_t = text, audio or marks, by the role of position t.

Source: token-subset scores, arXiv 2604.14932, Eq. 6, with a weight in the place of membership.
"""

from typing import Annotated, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor

from wavalign.plugins.api import Mask
from wavalign.plugins.batch import Role
from wavalign.schema.base import Params

_Weight = Annotated[float, Field(ge=0, le=1e6)]


@final
class RolesParams(Params):
    """A weight per token kind; 0 takes the kind out of the sum and of what it is divided by."""

    text: _Weight = 0.0
    """Weight of text tokens."""
    audio: _Weight = 0.0
    """Weight of audio tokens."""
    marks: _Weight = 0.0
    """Weight of the marks around audio; what closes an answer behind its sound is one of them."""
    text_end: _Weight | None = None
    """Weight of the token that ends an answer's text directly behind it; null follows `text`."""

    @model_validator(mode="after")
    def _selects_something(self) -> Self:
        if not (self.text or self.audio or self.marks or self.text_end):
            raise ValueError("selects no token: give at least one of text, audio or marks a weight above 0")
        return self


@final
class Roles(Mask):
    """Weights from roles alone."""

    Params = RolesParams
    params: RolesParams

    @property
    def text_alone(self) -> bool:
        return not (self.params.audio or self.params.marks)

    def weights(self, roles: Tensor) -> Tensor:
        chosen = self.params
        table = torch.zeros(len(Role), dtype=torch.float32)
        table[Role.TEXT] = chosen.text
        table[Role.TEXT_END] = chosen.text if chosen.text_end is None else chosen.text_end
        table[Role.AUDIO] = chosen.audio
        table[Role.AUDIO_MARK] = chosen.marks
        return table.to(roles.device)[roles.long()]
