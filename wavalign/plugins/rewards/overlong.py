"""What is too long costs, softly: 0 up to `limit - buffer` tokens, then linearly down to -1 at `limit`, and -1 beyond.

r = clip((limit - buffer - |y|) / buffer, -1, 0), |y| the tokens of the answer. A reward among others: the total is
their mean by weights, so that with equal weights and `scale: [-4, 0]` beside a reward of 1 to 5 the whole penalty takes
away what a right answer earns. Where `rollout.max_new_tokens` is `limit`, `rollout.truncated: keep` leaves answers that
were cut off to this reward, and `mask` learns nothing from them (DAPO's overlong filtering).
Source: DAPO (arXiv 2503.14476, Eq. 13).
"""

from typing import ClassVar, Literal, final

from pydantic import Field, model_validator

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import TEXT_ROLES, Dialogue, Rollout, Scored
from wavalign.schema.base import Params


@final
class OverlongParams(Params):
    """Where the penalty begins and where it is whole."""

    limit: int = Field(ge=1, le=1_000_000)
    """Tokens from which on it is -1."""
    buffer: int = Field(ge=1, le=1_000_000)
    """Tokens before the limit over which it grows from 0."""
    tokens: Literal["text", "all"] = "text"
    """Text tokens and their end, or positions of all that was sampled of the answer."""

    @model_validator(mode="after")
    def _fits(self) -> "OverlongParams":
        if self.buffer > self.limit:
            raise ValueError("buffer must not be larger than limit")
        return self


@final
class Overlong(Reward):
    """A soft penalty for length, -1..0."""

    Params = OverlongParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range = (-1.0, 0.0)
    params: OverlongParams

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        length, free = self._length(rollout), self.params.limit - self.params.buffer
        return Scored(max(-1.0, min(0.0, (free - length) / self.params.buffer)), details={"tokens": float(length)})

    def _length(self, rollout: Rollout) -> int:
        if self.params.tokens == "all":
            return rollout.completion.length
        return int(sum((rollout.completion.roles == role).sum() for role in TEXT_ROLES))
