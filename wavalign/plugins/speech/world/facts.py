"""What can be asked: 213 facts that are taught, 32 that never are, and the sentences around them.

Sums and differences of 0..10 (155 taught, 32 unseen), opposites (32), capitals (16), colours (10). A fixed 97 of the
taught facts carry a misconception: one particular wrong answer of the same category that a noisy teacher prefers.
Nothing here depends on a seed, so a checkpoint trained on one machine meets the same world on another.
"""

from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np

_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_OPPOSITES = (
    "hot cold, big small, fast slow, young old, happy sad, light dark, hard soft, high low, open closed, full empty, "
    "early late, rich poor, strong weak, wet dry, left right, up down"
)
_CAPITALS = (
    "france paris, italy rome, spain madrid, germany berlin, austria vienna, england london, greece athens, "
    "russia moscow, japan tokyo, egypt cairo, cuba havana, ireland dublin, portugal lisbon, poland warsaw, "
    "peru lima, canada ottawa"
)
_COLOURS = (
    "the sky blue, the grass green, the snow white, the night black, a carrot orange, a lemon yellow, "
    "a strawberry red, a plum purple, a mouse gray, a pig pink"
)
_NUM_UNSEEN = 32
_NUM_MISCONCEIVED = 97


@final
@dataclass(frozen=True, slots=True)
class Fact:
    """A question with its answer."""

    id: str
    category: str
    """`sum`, `difference`, `opposite`, `capital` or `colour`."""
    question: str
    word: str
    """The word that carries the answer."""
    template: str = "it is {}"

    @property
    def answer(self) -> str:
        """The whole answer."""
        return self.say(self.word)

    def say(self, word: str) -> str:
        """An answer of this fact's form with `word` in it."""
        return self.template.format(word)


@final
@dataclass(frozen=True, slots=True)
class World:
    """All facts, who is taught what, and which wrong answers are plausible."""

    taught: tuple[Fact, ...]
    unseen: tuple[Fact, ...]
    misconceptions: dict[str, str]
    """Fact id -> the one wrong answer word that is widely believed."""

    def rivals(self, fact: Fact) -> list[str]:
        """Wrong answer words of the same category, sorted."""
        kin = {"sum", "difference"} if fact.category in ("sum", "difference") else {fact.category}
        return sorted({other.word for other in self.taught if other.category in kin} - {fact.word})


@cache
def world() -> World:
    """The one world."""
    generator = np.random.default_rng(20_250_101)
    arithmetic = _arithmetic()
    unseen = set(generator.choice(len(arithmetic), _NUM_UNSEEN, replace=False).tolist())
    taught = [fact for index, fact in enumerate(arithmetic) if index not in unseen] + _lexical()
    order = generator.permutation(len(taught))
    taught = [taught[index] for index in order]
    whole = World(tuple(taught), tuple(arithmetic[index] for index in sorted(unseen)), {})
    believed = generator.choice(len(taught), _NUM_MISCONCEIVED, replace=False)
    for fact in (taught[index] for index in sorted(believed)):
        whole.misconceptions[fact.id] = str(generator.choice(whole.rivals(fact)))
    return whole


def answer_sentences() -> tuple[str, ...]:
    """Every answer that can be said, right or wrong, sorted: the recogniser's language."""
    facts = (*world().taught, *world().unseen)
    return tuple(sorted({fact.answer for fact in facts}))


def words(phrases: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Every word of a question, an answer or `phrases`, sorted: what a tokenizer must know."""
    facts = (*world().taught, *world().unseen)
    sentences = [fact.question for fact in facts] + [fact.answer for fact in facts] + list(phrases)
    return tuple(sorted({word for sentence in sentences for word in sentence.split()}))


def _arithmetic() -> list[Fact]:
    """121 sums and 66 differences of 0..10."""
    numbers = _NUMBERS.split()
    sums = [
        Fact(f"sum-{a}-{b}", "sum", f"what is {numbers[a]} plus {numbers[b]}", numbers[a + b])
        for a in range(11)
        for b in range(11)
    ]
    differences = [
        Fact(f"difference-{a}-{b}", "difference", f"what is {numbers[a]} minus {numbers[b]}", numbers[a - b])
        for a in range(11)
        for b in range(a + 1)
    ]
    return sums + differences


def _lexical() -> list[Fact]:
    pairs = [tuple(pair.split()) for pair in _OPPOSITES.split(", ")]
    facts = [
        Fact(f"opposite-{one}", "opposite", f"what is the opposite of {one}", other)
        for first, second in pairs
        for one, other in ((first, second), (second, first))
    ]
    for country, city in (pair.split() for pair in _CAPITALS.split(", ")):
        facts.append(Fact(f"capital-{country}", "capital", f"what is the capital of {country}", city, "that is {}"))
    for thing, colour in (pair.rsplit(" ", 1) for pair in _COLOURS.split(", ")):
        facts.append(Fact(f"colour-{thing.split()[-1]}", "colour", f"what colour is {thing}", colour))
    return facts
