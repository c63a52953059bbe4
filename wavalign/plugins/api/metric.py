"""Metrics on held-out answers."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from wavalign.plugins.api.base import Plugin
from wavalign.plugins.batch import Dialogue, RolloutGroup

Detail = str | float | None
"""Something to show of one held-out item, e.g. the transcript that was heard; None where there is nothing to show."""


@final
@dataclass(frozen=True, slots=True)
class Measurement:
    """A named value with its interval and count, and what it was made of."""

    name: str
    value: float
    low: float
    high: float
    count: int
    unit: str = ""
    items: tuple[float | None, ...] = ()
    """Outcome of every group handed to `measure`, in its order: 1 or 0 for a share, the number for a mean, None where
    the group was left out. Two runs are compared item by item; empty where that makes no sense."""
    details: Mapping[str, tuple[Detail, ...]] = field(default_factory=dict)
    """By name, what to show beside an item's outcome, aligned with the groups likewise."""
    points: Mapping[str, tuple[tuple[float, float] | None, ...]] = field(default_factory=dict)
    """Clouds in a plane by their names, each with a place for every group or None: a picture for the page."""
    better: Literal["more", "less"] = "more"
    """Whether more or less of it is better; of a share that is less, an item's 1 is what went wrong."""
    quality: bool = True
    """Whether answers are better by it, as `better` says: while the reward rises, a value that gets worse is an alarm.
    False for what only describes them (how long, how varied, how far from where the run began)."""
    says: str = ""
    """The value in one sentence, for people; without one, the class's docstring is shown."""


class Metric(Plugin):
    """Held-out rollouts (one a prompt) to named values. The engine also shows it the gold answers: the ceiling.

    Every process of a run has one, and the first measures all rollouts. What takes long to find out about a single
    one (what a recogniser hears) belongs into `observe`, which each process calls for its share.
    """

    kind = "metric"
    needs: ClassVar[frozenset[str]]
    """What of an answer it looks at: `text`, `waveform`, `states` (the hidden states of answer and target), and `start`
    (the divergence of its distributions from those of the weights that the run started from)."""

    def __init__(self, params: Any) -> None:
        self.params = params

    @classmethod
    def dialogue_needs(cls, params: Any, dialogue: Dialogue) -> str | None:
        """What a held-out `dialogue` lacks for being measured, and the remedy; None where it has all."""
        return None

    @classmethod
    def instrument(cls, params: Any) -> str:
        """What it measures with, and the settings that matter, in a few words; empty for a plain comparison.

        A recipe in which a reward and a metric name the same one is warned: they share their errors.
        """
        return ""

    def observe(self, groups: Sequence[RolloutGroup]) -> Sequence[Any] | None:
        """What `conclude` wants to know of each of `groups`, as a JSON value that depends on this group alone.

        None, as here, where `measure` finds out by itself.
        """
        return None

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[Any]) -> list[Measurement]:
        """`measure`, where `observe` has found `observed` of the `groups`."""
        return self.measure(groups)

    @abstractmethod
    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        """Values with 95 % intervals; says on how many items (items without a value are left out and counted)."""

    def close(self) -> None:
        """Free what the metric holds; called once."""
        return
