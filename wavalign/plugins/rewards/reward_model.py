"""What a learned reward model says of an answer: R = mean over facets, by weight, of squash((r - mean) / std).

r is what the network gives, mean and std are those of its rewards on held-out answers (its card), and squash is the
logistic function, the identity, or the identity on r itself.
Source: the reward model of SpeechAlign (arXiv 2404.05600) and InstructGPT (arXiv 2203.02155), learned by a
`reward_model` stage.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, final

from pydantic import Field

from wavalign.errors import PreflightError
from wavalign.plugins.api import Reward, RewardModel, RewardModels
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.schema.base import Params, RecipePath

UNBOUNDED = (-math.inf, math.inf)


@final
class RewardModelParams(Params):
    """Which reward model, and on which scale."""

    model: RecipePath
    """Folder that a `reward_model` stage left (RUN/stages/NAME/reward_model), or its address elsewhere. Within a recipe
    write `stage: NAME` in its place."""
    output: Literal["bounded", "standardised", "raw"] = "bounded"
    """`bounded`: between 0 and 1, 0.5 for what is worth as much as held-out answers on average. `standardised`: in
    deviations from these, without bounds. `raw`: as the network gives it."""
    facets: Mapping[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(default_factory=dict)
    """Weights of the facets that count, by name; empty counts all alike."""
    batch_size: int = Field(default=16, ge=1, le=4096)
    """Answers that go through the network together."""


@final
class LearnedReward(Reward):
    """How much a learned reward model prefers an answer."""

    Params = RewardModelParams
    needs: ClassVar[frozenset[str]] = frozenset()
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    params: RewardModelParams

    def __init__(self, params: RewardModelParams) -> None:
        super().__init__(params)
        self.batch_size = params.batch_size
        if params.output != "bounded":
            self.range = UNBOUNDED  # type: ignore[misc]  # that of the class holds for the default alone
        self._model: RewardModel | None = None
        self._weights: dict[str, float] = {}

    @classmethod
    def range_of(cls, params: RewardModelParams) -> tuple[float, float] | None:
        """Bounded only where it is asked to be."""
        return None if params.output == "bounded" else UNBOUNDED

    @classmethod
    def instrument(cls, params: RewardModelParams) -> str:
        """The network."""
        return f"reward model {params.model}"

    def prepare(self, models: RewardModels) -> None:
        """Load the network; raises PreflightError for a facet that it does not judge."""
        model = models.open(self.params.model)
        names = [facet.name for facet in model.facets]
        for name in self.params.facets:
            if name not in names:
                raise PreflightError(
                    f"the reward model {self.params.model} has no facet `{name}`", hint=f"it has {', '.join(names)}"
                )
        self._weights = dict(self.params.facets) or dict.fromkeys(names, 1.0)
        self._model = model

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Of one answer."""
        return self.score_batch([rollout], [dialogue])[0]

    def score_batch(self, rollouts: Sequence[Rollout], dialogues: Sequence[Dialogue]) -> Sequence[Scored]:
        """Of several answers; one that says nothing is scored too, as the network was shown its end mark."""
        if self._model is None:
            raise RuntimeError("the reward model was not opened")
        return [self._scored(each) for each in self._model.rewards(rollouts, dialogues)]

    def _scored(self, raw: Mapping[str, float]) -> Scored:
        assert self._model is not None
        spread = {facet.name: (facet.mean, facet.std) for facet in self._model.facets}
        total = sum(self._weights.values())
        value = sum(weight * self._squashed(raw[name], *spread[name]) for name, weight in self._weights.items()) / total
        return Scored(value, details={f"raw/{name}": each for name, each in raw.items()})

    def _squashed(self, raw: float, mean: float, std: float) -> float:
        if self.params.output == "raw":
            return raw
        standard = (raw - mean) / max(std, 1e-12)
        if self.params.output == "standardised":
            return standard
        return 1 / (1 + math.exp(-standard)) if standard > -700 else 0.0
