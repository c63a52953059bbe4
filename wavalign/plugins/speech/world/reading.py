"""What a neural voice reads aloud to learn its own phones from: the world's sentences, and words it does not hold."""

from collections.abc import Sequence

import numpy as np

from wavalign.plugins.speech.sounding import dictionary_words
from wavalign.plugins.speech.world.facts import answer_sentences, world
from wavalign.plugins.speech.world.styles import STYLES

_SHARES = (0.65, 0.88)
"""Answers up to the first, questions up to the second, random words beyond."""
_WORDS = 5


def training_texts(given: Sequence[str] | None, count: int, *, seed: int) -> list[str]:
    """`count` sentences, of `given` where there are some; the same seed gives the same ones."""
    generator = np.random.default_rng(seed)
    if given is not None:
        return [_written(given[index]) for index in generator.integers(len(given), size=count)]
    answers, vocabulary = answer_sentences(), dictionary_words()
    questions = [fact.question for fact in (*world().taught, *world().unseen)]
    requests = ["", *(f" {style.request}" for style in STYLES)]
    texts = []
    for index in range(count):
        place = index / count
        if place < _SHARES[0]:
            texts.append(_written(answers[index % len(answers)]))
        elif place < _SHARES[1]:
            question = questions[int(generator.integers(len(questions)))]
            texts.append(_written(question + requests[int(generator.integers(len(requests)))], "?"))
        else:
            texts.append(_written(" ".join(vocabulary[i] for i in generator.integers(len(vocabulary), size=_WORDS))))
    return texts


def _written(words: str, mark: str = ".") -> str:
    return f"{words[:1].upper()}{words[1:]}{mark}"
