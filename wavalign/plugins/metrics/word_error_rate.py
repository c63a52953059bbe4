"""Word error rate of what a recogniser hears in the answers, against the words they should say.

    WER = sum of (substitutions + deletions + insertions) / sum of reference words      over all answers together

Words are compared as `speech.wording` says: case and punctuation away, numbers by value; what Whisper hears by its
sound (`speech.sounding`). An answer without sound says nothing, and every word of its reference is missing.
PocketSphinx knows only the words of the given sentences; what a recogniser mishears in the gold answers, decoded from
their tokens, is the floor to compare with. Less is better.

Intervals resample answers, for a long one brings more words. An item's value is its errors over the mean number of
reference words, so that their mean is the rate and two runs can be compared answer by answer.
"""

import math
from collections.abc import Sequence
from typing import Self, final

import numpy as np
from pydantic import Field, model_validator

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Dialogue, RolloutGroup, Waveform
from wavalign.plugins.metrics.intervals import bootstrap_ratio, first_rollouts
from wavalign.plugins.speech.hearing import Listener, check_listener, hearing, instrument_of
from wavalign.plugins.speech.needs import needs_reference
from wavalign.plugins.speech.word_errors import word_errors
from wavalign.plugins.speech.wording import references
from wavalign.schema.base import Params, RecipePath

_NOTHING = Waveform(np.zeros(0, np.float32), 16_000)
_SAYS = (
    "Wrong, missing and added words that a recogniser hears in the sound, over the words to be said; less is better."
)


@final
class WordErrorRateParams(Params):
    """Who listens, and for which words."""

    reference: str | None = "reference"
    """Metadata key of the words to be said (of several the nearest count); null takes the target's text."""
    recognizer: Listener = "pocketsphinx"
    """Who listens: a recogniser of given sentences, or `whisper` (extra `natural`), which hears any English."""
    sentences: RecipePath | None = None
    """Text file of sentences whose words the recogniser knows, one a line; null takes the embedded world's answers."""
    processes: int = Field(default=2, ge=1, le=64)
    """Listening processes; threads of whisper."""

    @model_validator(mode="after")
    def _sentences_are_looked_at(self) -> Self:
        check_listener(self.recognizer, self.sentences)
        return self


@final
class WordErrorRate(Metric):
    """Word errors over reference words, with a bootstrap interval over answers."""

    Params = WordErrorRateParams
    needs = frozenset({"waveform"})
    params: WordErrorRateParams

    @classmethod
    def dialogue_needs(cls, params: WordErrorRateParams, dialogue: Dialogue) -> str | None:
        return needs_reference(dialogue, params.reference, or_target=True)

    @classmethod
    def instrument(cls, params: WordErrorRateParams) -> str:
        return instrument_of(params.recognizer, params.sentences)

    def __init__(self, params: WordErrorRateParams) -> None:
        super().__init__(params)
        self._hearing = hearing(params.recognizer, sentences=params.sentences, workers=params.processes)

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        return self.conclude(groups, self.observe(groups))

    def observe(self, groups: Sequence[RolloutGroup]) -> list[str]:
        sounds = [(rollout and rollout.waveform) or _NOTHING for rollout in first_rollouts(groups)]
        return self._hearing.ears.recognize_all(sounds)

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[str]) -> list[Measurement]:
        said = [
            None if rollout is None else heard for rollout, heard in zip(first_rollouts(groups), observed, strict=True)
        ]
        counts = [
            None if heard is None else word_errors(heard, self._wanted(group.dialogue), by=self._hearing.words)
            for group, heard in zip(groups, said, strict=True)
        ]
        return [error_rate(counts, said)]

    def _wanted(self, dialogue: Dialogue) -> tuple[str, ...]:
        if self.params.reference is None:
            return () if dialogue.target is None else references(dialogue.target.text)
        return references(dialogue.metadata.get(self.params.reference))


def error_rate(counts: Sequence[tuple[int, int] | None], heard: Sequence[str | None]) -> Measurement:
    """The rate over all answers, from errors and words of each; None where one is left out."""
    known = [pair for pair in counts if pair is not None]
    errors, words = ([pair[place] for pair in known] for place in (0, 1))
    low, high = bootstrap_ratio(errors, words)
    typical = sum(words) / len(words) if words else math.nan
    return Measurement(
        "word_error_rate",
        sum(errors) / sum(words) if words else math.nan,
        low,
        high,
        len(known),
        "errors a word",
        items=tuple(None if pair is None else pair[0] / typical for pair in counts),
        details={
            "heard": tuple(heard),
            "word_errors": tuple(None if pair is None else f"{pair[0]} of {pair[1]}" for pair in counts),
        },
        better="less",
        says=_SAYS,
    )
