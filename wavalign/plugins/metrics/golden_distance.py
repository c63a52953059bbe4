"""How far sampled answers are from gold ones as the model sees them: can a straight line tell the two apart?

    state        last hidden states behind prompt + codes, mean over the positions of sound     [H], of gold and sampled
    golden_distance   share of states that logistic regression, fitted on other dialogues, puts on the right side
    golden_gap        |mean of gold - mean of sampled| without noise's part / root mean square distance to the own mean

0.5 is what guessing gives: the two cannot be told apart; 1 is two clouds apart. Both sides of a dialogue are in one
fold. The gap goes on where the share is at its end, and is about 0 where both are from one cloud. The states are those
of the policy that is measured, so that before and after are two measurements by two networks. SpeechAlign (arXiv
2404.05600, section 2.2) shows such states of its supervised model as a picture, and does not say which network the one
after alignment is of. Answers without sound are left out.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from wavalign.plugins.api import Measurement, Metric
from wavalign.plugins.batch import Dialogue, RolloutGroup
from wavalign.plugins.linear_probe import held_out_hits, plane
from wavalign.plugins.metrics.intervals import RESAMPLES, first_rollouts, share
from wavalign.schema.base import Params

Array = npt.NDArray[np.float64]
_SHARE = (
    "A linear probe on hidden states tells gold answers from sampled ones, held out; 0.5 is guessing, less is better."
)
_GAP = "Distance of the mean hidden states of gold and sampled answers, in units of their spread; less is better."


@final
class GoldenDistanceParams(Params):
    """How the boundary is drawn."""

    folds: int = Field(default=5, ge=2, le=100)
    """Parts of the dialogues; each is judged by a boundary drawn from the others."""
    strength: float = Field(default=1.0, gt=0.0, le=1e6)
    """How freely the boundary may bend to the points: the inverse of the penalty on its weights."""


@final
class GoldenDistance(Metric):
    """Held-out accuracy of a linear probe, with Wilson's interval over dialogues, and the clouds in a plane."""

    Params = GoldenDistanceParams
    needs = frozenset({"states"})
    params: GoldenDistanceParams

    @classmethod
    def dialogue_needs(cls, params: GoldenDistanceParams, dialogue: Dialogue) -> str | None:
        return None if dialogue.target is not None else "no target, which answers are compared with: give one"

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        states = [
            (group.target_state, None if rollout is None else rollout.state)
            for group, rollout in zip(groups, first_rollouts(groups), strict=True)
        ]
        kept = [place for place, pair in enumerate(states) if pair[0] is not None and pair[1] is not None]
        gold, sampled = (
            np.asarray([np.asarray(states[place][side], dtype=np.float64) for place in kept]) for side in (0, 1)
        )
        if len(kept) < 2:
            nothing = (None,) * len(groups)
            return [
                Measurement("golden_distance", math.nan, 0.0, 1.0, 0, items=nothing, better="less", says=_SHARE),
                Measurement("golden_gap", math.nan, math.nan, math.nan, 0, better="less", says=_GAP),
            ]
        keys = [groups[place].dialogue.id for place in kept]
        hits = held_out_hits(gold, sampled, keys, folds=self.params.folds, strength=self.params.strength).mean(axis=1)
        items: list[float | None] = [None] * len(groups)
        for place, hit in zip(kept, hits.tolist(), strict=True):
            items[place] = None if math.isnan(hit) else hit
        told = share("golden_distance", items, better="less", unit="told apart", says=_SHARE)
        return [replace(told, points=_clouds(gold, sampled, kept, len(groups)), quality=False), gap(gold, sampled)]


def gap(gold: Array, sampled: Array) -> Measurement:
    """The gap of two clouds [N, H], with a bootstrap interval over dialogues; NaN where neither has a spread.

    With d = gold - sampled of a dialogue, the squared distance of the means is the mean of d_i d_j over pairs i != j: a
    dialogue's own length |d_i|^2, which noise alone makes large, is left out, also where a draw holds it twice.
    """
    count, draws = len(gold), np.random.default_rng(0)
    drawn = [np.bincount(draws.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)]
    weights = np.stack([np.ones(count), *(each.astype(np.float64) for each in drawn)])
    products = (gold - sampled) @ (gold - sampled).T
    np.fill_diagonal(products, 0.0)
    pairs = count**2 - (weights**2).sum(axis=1)
    spread = float(sum((cloud - cloud.mean(axis=0)) ** 2 for cloud in (gold, sampled)).sum() / (2 * count))
    if spread == 0:
        return Measurement("golden_gap", math.nan, math.nan, math.nan, 0, better="less", says=_GAP)
    apart = ((weights @ products) * weights).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
    gaps = np.sqrt(np.maximum(apart, 0.0) / spread)
    low, high = np.quantile(gaps[1:], (0.025, 0.975))
    value, low, high = float(gaps[0]), float(low), float(high)
    return Measurement("golden_gap", value, low, high, count, "spreads", better="less", says=_GAP)


def _clouds(
    gold: Array, sampled: Array, kept: Sequence[int], count: int
) -> dict[str, tuple[tuple[float, float] | None, ...]]:
    """Both clouds in one plane, aligned with all groups."""
    places = plane(np.concatenate([gold, sampled]))
    found = {}
    for name, cloud in (("gold", places[: len(kept)]), ("sampled", places[len(kept) :])):
        column: list[tuple[float, float] | None] = [None] * count
        for place, (x, y) in zip(kept, cloud.tolist(), strict=True):
            column[place] = (float(f"{x:.4g}"), float(f"{y:.4g}"))
        found[name] = tuple(column)
    return found
