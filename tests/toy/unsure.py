"""Judges that say how far they err, and gates with a value for each prompt, as a plugin file."""

from collections.abc import Mapping
from typing import Any, ClassVar, final

from torch import Tensor

from wavalign.plugins.api import Gate, GateReading, Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.schema.base import Params


@final
class Unsure(Reward):
    """Something of every answer, surer of some than of others, and of some it does not say."""

    type = "toy_unsure"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 6.0)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Sum of letters modulo seven; its variance by the length of the answer."""
        letters = sum(map(ord, rollout.answer.text))
        return Scored(float(letters % 7), variance=None if letters % 5 == 0 else 0.5 * (letters % 4))


class EachParams(Params):
    """Values by prompt."""

    values: tuple[float, ...]
    """Of prompt 0, 1, ..."""
    own: bool = True
    """Whether prompts have them, or their mean."""


@final
class Each(Gate):
    """Values that the recipe states."""

    type = "toy_each"
    Params = EachParams
    needs_rewards = False

    @property
    def per_prompt(self) -> bool:
        """As the recipe says."""
        return bool(self.params.own)

    def update(self, rewards: Tensor | None, *, progress: float, noise: Tensor | None = None) -> GateReading:
        """The same in every step."""
        values: tuple[float, ...] = self.params.values
        return GateReading(sum(values) / len(values), {}, values if self.params.own else ())

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""
