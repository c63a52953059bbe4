"""What a `pairs` stage is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.feeding.pairing import Sample
from wavalign.plugins.batch import Dialogue
from wavalign.schema.pairs import PairsSection

Score = Callable[[Sequence[Sequence[Sample]]], list[list[Sample]]]
"""The same samples with what rewards say of them; those that no reward can say anything of as they are."""


@final
@dataclass(frozen=True, slots=True)
class Pairing:
    """The answers to pair and what is kept of before; equal on every rank."""

    section: PairsSection
    """With the facets that decide."""
    groups: Sequence[Sequence[Sample]]
    """Answers, those to one prompt together."""
    earlier: Sequence[Dialogue]
    """What earlier rounds made."""
    unread: Sequence[str]
    """Why records are in no group."""
    digest: str
    """Of all that is read: another one is another data set."""
    score: Score | None
    """Where rewards decide."""
    close: Callable[[], None]
    """Ends what scores."""
