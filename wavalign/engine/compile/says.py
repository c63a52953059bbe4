"""What the plugins of an objective say about themselves, as a graph needs to know it."""

from dataclasses import dataclass
from typing import Literal, final


@final
@dataclass(frozen=True, slots=True)
class RewardNeeds:
    """What a reward says about itself."""

    type: str
    needs: frozenset[str]


@final
@dataclass(frozen=True, slots=True)
class AdvantageSays:
    """What an advantage says about itself."""

    type: str = ""
    unit: Literal["answer", "token"] = "answer"
    needs: frozenset[str] = frozenset()
    """Values beside rewards."""
    compares_answers: bool = True
    """Whether a prompt must have two answers or more."""

    @property
    def columns(self) -> frozenset[str]:
        """Columns of rows that it needs and that are shown in metrics beside those of terms."""
        return frozenset({"old_logprobs", "ref_logprobs"}) if "ref_logprobs" in self.needs else frozenset()


@final
@dataclass(frozen=True, slots=True)
class GateSays:
    """What a gate says about itself."""

    type: str
    reads_rewards: bool = True
    needs_noise: bool = False
    per_prompt: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Values that it reads."""
        return ("rewards",) * self.reads_rewards + ("reward_noise",) * self.needs_noise
