"""Rewards of single tokens, as a plugin file: every text token by its letters."""

from typing import Any, ClassVar, final

import torch

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.token_rewards import over_text
from wavalign.schema.base import Params


class LettersParams(Params):
    """How to misbehave, and whom to leave out."""

    misbehave: str = ""
    """Empty, or `shape`, `nan`, `range`, `word`."""
    absent: tuple[str, ...] = ()
    """Dialogues whose names end so have no reward."""
    whole: bool = False
    """Say the answer's worth alone."""


def letters(piece: str) -> float:
    """From -1 to 1."""
    return (sum(map(ord, piece)) % 5 - 2) / 2


@final
class Letters(Reward):
    """Every text token by its letters; the answer is worth their mean."""

    type = "toy_letters"
    Params = LettersParams
    needs: ClassVar[frozenset[str]] = frozenset({"text", "pieces"})
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    params: LettersParams

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Values of the tokens, and their mean."""
        if dialogue.id.endswith(self.params.absent):
            return Scored(None, "left out")
        assert rollout.pieces is not None
        found = [letters(piece) for piece in rollout.pieces]
        tokens: Any = over_text(rollout, found)
        match self.params.misbehave:
            case "shape":
                tokens = tokens[:, :-1]
            case "nan":
                tokens = torch.full_like(tokens, torch.nan)
            case "range":
                tokens = torch.full_like(tokens, 1.5)
            case "word":
                tokens = "much"
        return Scored(sum(found) / max(len(found), 1), tokens=None if self.params.whole else tokens)
