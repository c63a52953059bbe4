"""Is the written answer the right one? Equal words score highest; two near misses have grades of their own.

r = 5 for an accepted answer, `partial` for its sentence with another word where the answer stands, `contains` for a
longer answer that says all of it, else 1. Texts are compared as `speech.wording` says: case, punctuation and Unicode
forms do not count, numbers are equal in words and digits, signs and decimal points count.

`partial`: the same words up to the last. So it takes a reference of two words, or of three characters in a script
without spaces; one that is a single word has no near miss. `contains`: the reference, word by word, within the answer,
which negates no more often than the reference does (`it is not twelve` does not contain `twelve`, nor does `it is
twelve, not ten`: a negation anywhere counts, in English and the few other languages `speech.wording` knows) and
where no sign ties it to another number (`12` is not in `12 %`, `10-12` or `2^12`). An answer that says more than one
thing contains none, unless `lenient`: it hedges (`twelve or thirteen`, `maybe`), denies (`twelve is wrong`), names
another number than the question's where a number is asked for, or one of `alternatives`. A list of names is found by
`alternatives` alone. Answers of a policy's own are looked for word by word: what a reference should match in a sentence
must not be a sentence itself (`twelve`, not `it is twelve`).

Source: own; a verifier in the sense of reinforcement learning from verifiable rewards (arXiv 2411.15124).
"""

from collections.abc import Iterator
from typing import final

from pydantic import Field

from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.speech.hedging import says_any, says_more
from wavalign.plugins.speech.needs import needs_reference
from wavalign.plugins.speech.wording import is_unspaced, negations, references, tokens
from wavalign.schema.base import Params

_LOWEST, _HIGHEST = 1.0, 5.0
_FEWEST_SHARED = 1
_FEWEST_SHARED_CHARACTERS = 2
_TYING = frozenset({"-", "/", "^", ":", "%", "‰", "°", "plus", "times"})
"""What makes another value of the number beside it."""


@final
class AnswerMatchParams(Params):
    """Grades between a wrong answer (1) and the right one (5)."""

    partial: float = Field(default=1.0, ge=1.0, le=5.0)
    """Grade of an answer that is the reference but for its last word, the one that answers."""
    contains: float = Field(default=1.0, ge=1.0, le=5.0)
    """Grade of an answer that says the whole reference among other words, and neither negates it nor says more."""
    lenient: bool = False
    """Whether `contains` counts, too, where the answer hedges, denies, or names other numbers or `alternatives`."""
    alternatives: str | None = None
    """Metadata key of answers that are wrong, a text or a list of them, such as the other options of a multiple choice:
    what says one of them contains no right one."""
    reference: str | None = "reference"
    """Metadata key of the right answer: a text, a number, true or false, or a list of accepted ones; null compares with
    the text of the dialogue's target."""


@final
class AnswerMatch(Reward):
    """Grade the text 1..5."""

    Params = AnswerMatchParams
    needs = frozenset({"text"})
    range = (_LOWEST, _HIGHEST)
    params: AnswerMatchParams

    @classmethod
    def dialogue_needs(cls, params: AnswerMatchParams, dialogue: Dialogue) -> str | None:
        return needs_reference(dialogue, params.reference, or_target=True)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        accepted = self._references(dialogue)
        if not accepted:
            key = self.params.reference
            where = "target text" if key is None else f"metadata.{key} that is a text, a number, true, false or a list"
            return Scored(None, f"dialogue {dialogue.id} has no reference answer (no {where})")
        return Scored(max(self._grade(rollout.answer.text, reference, dialogue) for reference in accepted))

    def _references(self, dialogue: Dialogue) -> tuple[str, ...]:
        if self.params.reference is not None:
            return references(dialogue.metadata.get(self.params.reference))
        return references(dialogue.target.text if dialogue.target is not None else None)

    def _grade(self, text: str, reference: str, dialogue: Dialogue) -> float:
        said, wanted = tokens(text), tokens(reference)
        if said == wanted:
            return _HIGHEST
        grades = [_LOWEST]
        if len(said) == len(wanted) and said[:-1] == wanted[:-1] and _is_sentence(wanted):
            grades.append(self.params.partial)
        if self.params.contains > _LOWEST and any(_places(said, wanted)) and self._is_sole(text, reference, dialogue):
            grades.append(self.params.contains)
        return max(grades)

    def _is_sole(self, text: str, reference: str, dialogue: Dialogue) -> bool:
        """Whether `text`, which has `reference` in it, stands by it, and by it alone."""
        if negations(text) > negations(reference):
            return False
        if self.params.lenient:
            return True
        turns = (turn.text for turn in dialogue.messages if turn.role == "user")
        question = " ".join((*turns, str(dialogue.metadata.get("question_text", ""))))
        key = self.params.alternatives
        others = () if key is None else references(dialogue.metadata.get(key))
        return not says_more(text, reference, question) and not says_any(text, others)


def _is_sentence(wanted: tuple[str, ...]) -> bool:
    """Whether enough stands before the last token of `wanted` for an answer to share."""
    fewest = _FEWEST_SHARED_CHARACTERS if is_unspaced(wanted[-1]) else _FEWEST_SHARED
    return len(wanted) - 1 >= fewest


def _places(said: tuple[str, ...], wanted: tuple[str, ...]) -> Iterator[bool]:
    """True for every place of `said` where `wanted` stands and no sign ties it to what is beside it."""
    for start in range(len(said) - len(wanted) + 1):
        end = start + len(wanted)
        if said[start:end] == wanted:
            beside = (*said[max(0, start - 1) : start], *said[end : end + 1])
            yield _TYING.isdisjoint(beside)
