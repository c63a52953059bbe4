"""Pairs of the toy world that a reward model learns from, as a plugin file."""

from collections.abc import Callable
from typing import Literal, final

from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import Dialogue, Message
from wavalign.schema.base import Params

WORDS = ("zero", "one", "two", "three", "four", "five")


class PreferencesParams(Params):
    """Which pairs."""

    part: Literal["learned", "heldout"] = "learned"
    """Even sums are learned from, odd ones are held out."""
    about: Literal["phrase", "brevity"] = "phrase"
    """Whole sentences are better than single words, or the other way round."""
    single: bool = False
    """Only one answer a record, which is no pair."""


@final
class Preferences(DataSource):
    """Answers to sums, the better one first."""

    type = "toy_preferences"
    Params = PreferencesParams

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Nothing to build."""

    def __len__(self) -> int:
        return 18

    def record(self, index: int) -> Dialogue:
        """Pair number `index` of its part."""
        a, b = divmod(2 * index + (self.params.part == "heldout"), 6)
        word = WORDS[(a + b) % 6]
        long, short = Message("assistant", f"it is {word}"), Message("assistant", word)
        targets = (long, short) if self.params.about == "phrase" else (short, long)
        question = (Message("user", f"{WORDS[a]} plus {WORDS[b]}"),)
        if self.params.single:
            return Dialogue(f"one-{a}-{b}", question, targets[0])
        if self.params.part == "heldout":  # the numbers say which is which, not the order
            return Dialogue(f"pair-{a}-{b}", question, targets=targets[::-1], members=(1, 0))
        return Dialogue(f"pair-{a}-{b}", question, targets=targets)
