"""What a stage reads, leaves and learns, by its `type`: all that others need to know of its kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

Artifact = Literal["weights", "codec", "dataset", "reward_model"]


@final
@dataclass(frozen=True, slots=True)
class StageKind:
    """One kind of stage."""

    leaves: Artifact | None
    """What later stages find under its name; None where it leaves nothing but what it logs."""
    headings: frozenset[str]
    """Headings of `data` that it may read: what shared sections say under others is of no concern to it."""
    network: bool
    """Whether it builds the policy."""
    learns: bool = False
    """Whether it optimises the objective, over `steps`."""
    measures: bool = False
    """Whether it measures the held-out splits."""
    pairs: bool = False
    """Whether those are pairs, measured by which answer it prefers; else prompts, measured by the metrics."""
    rewards: bool = False
    """Whether it may ask rewards: what shared sections say of them is of no concern to others."""

    @property
    def is_start(self) -> bool:
        """Whether a later stage may start from it."""
        return self.leaves in ("weights", "codec")


KINDS: Mapping[str, StageKind] = {
    "train": StageKind(
        "weights",
        frozenset({"prompts", "demonstrations", "families", "evaluation"}),
        network=True,
        learns=True,
        measures=True,
        rewards=True,
    ),
    "fit_codec": StageKind("codec", frozenset({"demonstrations"}), network=False),
    "generate": StageKind("dataset", frozenset({"prompts"}), network=True),
    "pairs": StageKind("dataset", frozenset({"samples", "demonstrations"}), network=False, rewards=True),
    "reward_model": StageKind(
        "reward_model",
        frozenset({"demonstrations", "families", "evaluation"}),
        network=True,
        learns=True,
        measures=True,
        pairs=True,
    ),
    "evaluate": StageKind(None, frozenset({"evaluation"}), network=True, measures=True, rewards=True),
}
