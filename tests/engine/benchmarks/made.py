"""Questions and answers for the tests of benchmarks."""

from collections.abc import Mapping
from typing import Any

from wavalign.engine.benchmarks.answer_file import Given
from wavalign.engine.benchmarks.questions import Question
from wavalign.plugins.batch import Dialogue, Message
from wavalign.plugins.speech.wording import references


def question(
    text: str = "Which?\nA. red\nB. blue",
    answer: Any = None,
    *,
    place: int = 0,
    suite: str = "voicebench",
    row: Mapping[str, Any] | None = None,
    target: str | None = None,
) -> Question:
    """A question whose correct answer is `answer`."""
    wanted = None if target is None else Message("assistant", target)
    dialogue = Dialogue(f"q{place}", (Message("user", text),), wanted)
    return Question(place, dialogue, suite, {} if row is None else row, references(answer))


def given(text: str, place: int = 0, audio: str | None = None, *, finished: bool = True) -> Given:
    """An answer to the question at `place`."""
    return Given(place, f"q{place}", text, finished, None if audio is None else 1.0, audio)
