"""What answers are worth, as far as it can be told without a judge; each value says what it counts.

| task | values |
|---|---|
| `choice` | `choice`: the letter taken is the correct one; an answer that takes none, or several, is wrong |
| `yes_no` | `yes_no`: the same of yes and no, or of (a) and (b) |
| `reference` | `exact`: nothing but an accepted answer; `contains`: one stands in it; `word_error_rate` where a whole
answer is stated |
| `transcript` | `word_error_rate` against what is stated |
| `refusal` | `refused`: the words of the answer decline |

Texts are compared by their tokens (`speech.wording`): numbers by value, no regard to case and punctuation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

from wavalign.engine.benchmarks.choices import letter, options_in, yes_or_no
from wavalign.engine.benchmarks.declining import declines
from wavalign.engine.benchmarks.questions import Question, Task, suite_letter
from wavalign.plugins.speech.word_errors import edit_distance
from wavalign.plugins.speech.wording import tokens

Unit = Literal["share", "ratio", "mean"]


@final
@dataclass(frozen=True, slots=True)
class Score:
    """What one answer is worth by one value."""

    value: float | None
    """None where it cannot be told."""
    reason: str = ""
    """Why there is no value, or why it is a failure."""
    details: Mapping[str, str | float] = field(default_factory=dict)
    weight: float = 1.0
    """Of a ratio, its denominator: `value * weight` are its errors."""


@final
@dataclass(frozen=True, slots=True)
class Measure:
    """One value of every answer."""

    name: str
    unit: Unit
    says: str
    score: Callable[[Question, str], Score]
    less: bool = False
    """Whether less is better."""
    optional: bool = False
    """Nothing is said of it where no question states what it needs."""


def measures_of(task: Task) -> tuple[Measure, ...]:
    """What can be told of answers without a judge."""
    return _MEASURES.get(task, ())


def compared_texts(text: str, wanted: Sequence[str]) -> tuple[bool, bool]:
    """Whether `text` is one of the `wanted`, and whether one stands in it."""
    said = tokens(text)
    accepted = [found for found in map(tokens, wanted) if found]
    return said in accepted, any(_stands_in(each, said) for each in accepted)


def word_errors(text: str, wanted: str) -> Score:
    """Fewest wrong, missing and added words over the words to be said; None where none are."""
    said, to_say = tokens(text), tokens(wanted)
    if not to_say:
        return Score(None, "no words to compare with")
    errors = edit_distance(said, to_say)
    return Score(errors / len(to_say), weight=float(len(to_say)), details={"errors": float(errors)})


def _choice(question: Question, text: str) -> Score:
    wanted = suite_letter(question)
    if wanted is None:
        return Score(None, "no correct letter is stated")
    found = letter(text, options_in(question.text))
    if found is None:
        return Score(0.0, "no letter taken, or several", {"correct": wanted})
    return Score(float(found == wanted), "", {"taken": found, "correct": wanted})


def _yes_no(question: Question, text: str) -> Score:
    wanted = question.correct[0].casefold().strip() if question.correct else ""
    if wanted in ("yes", "no"):
        found = yes_or_no(text)
    elif suite_letter(question) is not None:
        wanted = str(suite_letter(question)).lower()
        taken = letter(text, "AB")
        found = None if taken is None else taken.lower()
    else:
        return Score(None, "the correct answer is neither yes nor no, (a) nor (b)")
    if found is None:
        return Score(0.0, "neither is said, or both", {"correct": wanted})
    return Score(float(found == wanted), "", {"taken": found, "correct": wanted})


def _exact(question: Question, text: str) -> Score:
    wanted = _accepted(question)
    return Score(float(compared_texts(text, wanted)[0])) if wanted else Score(None, "no correct answer is stated")


def contains(question: Question, text: str) -> Score:
    """1 where an accepted answer stands in `text`, 0 elsewhere; None where none is stated."""
    wanted = question.correct or _accepted(question)
    return Score(float(compared_texts(text, wanted)[1])) if wanted else Score(None, "no correct answer is stated")


def _accepted(question: Question) -> tuple[str, ...]:
    """Whole answers that are accepted."""
    target = question.dialogue.target
    whole = (target.text,) if target is not None and target.text else ()
    return (*whole, *question.correct)


def _word_error_rate(question: Question, text: str) -> Score:
    """Against the whole answer that is stated: a word in a sentence is no transcript of it."""
    target = question.dialogue.target
    if target is None or not target.text:
        return Score(None, "no whole answer is stated")
    return word_errors(text, target.text)


def _transcribed(question: Question, text: str) -> Score:
    wanted = question.wanted
    return Score(None, "no transcript is stated") if wanted is None else word_errors(text, wanted)


def _refused(_: Question, text: str) -> Score:
    return Score(float(declines(text)), "" if text.strip() else "the answer is empty")


def _stands_in(wanted: tuple[str, ...], said: tuple[str, ...]) -> bool:
    size = len(wanted)
    return any(said[start : start + size] == wanted for start in range(len(said) - size + 1))


def is_missing(score: Score) -> bool:
    """Whether there is no number."""
    return score.value is None or math.isnan(score.value)


_ERRORS = "wrong, missing and added words over those to say"
_MEASURES: Mapping[Task, tuple[Measure, ...]] = {
    "choice": (Measure("choice", "share", "takes the correct letter; none taken, or several, is wrong", _choice),),
    "yes_no": (Measure("yes_no", "share", "says the correct one of two; neither said, or both, is wrong", _yes_no),),
    "reference": (
        Measure("exact", "share", "is an accepted answer, word by word", _exact),
        Measure("contains", "share", "has an accepted answer in it", contains),
        Measure("word_error_rate", "ratio", _ERRORS, _word_error_rate, less=True, optional=True),
    ),
    "transcript": (Measure("word_error_rate", "ratio", _ERRORS, _transcribed, less=True),),
    "refusal": (Measure("refused", "share", "declines, by its words; an empty answer does not", _refused),),
}
