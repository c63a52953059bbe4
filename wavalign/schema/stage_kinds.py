"""What a stage reads, leaves and learns, by its `type`: all that others need to know of its kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

Artifact = Literal["weights", "codec", "dataset"]


@final
@dataclass(frozen=True, slots=True)
class StageKind:
    """One kind of stage."""

    leaves: Artifact
    """What later stages find under its name."""
    headings: frozenset[str]
    """Headings of `data` that it may read: what shared sections say under others is of no concern to it."""
    network: bool
    """Whether it builds the policy."""
    learns: bool = False
    """Whether it optimises the objective, over `steps`."""

    @property
    def is_start(self) -> bool:
        """Whether a later stage may start from it."""
        return self.leaves != "dataset"


KINDS: Mapping[str, StageKind] = {
    "train": StageKind(
        "weights", frozenset({"prompts", "demonstrations", "families", "evaluation"}), network=True, learns=True
    ),
    "fit_codec": StageKind("codec", frozenset({"demonstrations"}), network=False),
    "generate": StageKind("dataset", frozenset({"prompts"}), network=True),
}
