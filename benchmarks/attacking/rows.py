"""Which rewards are attacked, with which options; and which are tested elsewhere.

What each is expected to say stands in docs/rewards/attacks.md: a row there for every row here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from wavalign.plugins.api import Reward
from wavalign.plugins.registry import Registry


@final
@dataclass(frozen=True, slots=True)
class Row:
    """A built-in reward with options."""

    type: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def reward(self) -> Reward:
        """Made as a recipe makes it."""
        plugin = Registry().get("reward", self.type)
        assert issubclass(plugin, Reward)
        return plugin(plugin.Params.model_validate(self.options))


@final
@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A reward that cannot be asked here."""

    type: str
    test: str
    """`FILE::NAME` of the test that attacks it."""
    why: str


_CONTAINS = {"reference": "answer", "contains": 5}
ROWS: dict[str, Row] = {
    "answer_match": Row("answer_match"),
    "answer_match, contains: 5": Row("answer_match", _CONTAINS),
    "answer_match, alternatives": Row("answer_match", {**_CONTAINS, "alternatives": "others"}),
    "asr_consistency": Row("asr_consistency"),
    "aligned_words": Row("aligned_words"),
    "target_codes": Row("target_codes"),
    "speaking_style": Row("speaking_style"),
    "speech_quality": Row("speech_quality"),
    "frame_quality": Row("frame_quality"),
    "overlong": Row("overlong", {"limit": 40, "buffer": 20}),
}
ELSEWHERE: tuple[Elsewhere, ...] = (
    Elsewhere(
        "judge",
        "tests/plugins/judging/test_reward.py::test_an_injected_instruction_moves_nothing",
        "what it says depends on who judges: an order in the text does not reach the judge as one",
    ),
    Elsewhere(
        "reward_model",
        "tests/engine/stages/test_reward_model.py::test_degenerate_answers_have_a_number_within_the_range",
        "it says what it has learned to say; attack the one you have trained",
    ),
)
