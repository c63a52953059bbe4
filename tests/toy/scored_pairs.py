"""The toy pairs with scores, and answers that stand alone, as a plugin file."""

from collections.abc import Callable
from dataclasses import replace
from typing import final

from tests.toy.openings import Pairs
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import Dialogue


class _FromPairs:
    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Nothing to build."""

    def __len__(self) -> int:
        return 36

    def record(self, index: int) -> Dialogue:
        """Pair number `index`, changed."""
        return self.changed(index, Pairs(None, seed=0).record(index))

    def changed(self, index: int, pair: Dialogue) -> Dialogue:
        """What this source gives in the place of a pair."""
        raise NotImplementedError


@final
class ScoredPairs(_FromPairs, DataSource):
    """Scores index / 10 and -1; of every third pair that of the rejected side is not known."""

    type = "toy_scored_pairs"

    def changed(self, index: int, pair: Dialogue) -> Dialogue:
        return replace(pair, scores=(index / 10, None if index % 3 == 0 else -1.0))


@final
class LoneSides(_FromPairs, DataSource):
    """Right answers of odd sums alone, wrong ones of even sums alone, both of every third."""

    type = "toy_lone_sides"

    def changed(self, index: int, pair: Dialogue) -> Dialogue:
        if index % 3 == 0:
            return pair
        side = 0 if index % 2 else 1
        return replace(pair, targets=pair.targets[side : side + 1], members=(side,))
