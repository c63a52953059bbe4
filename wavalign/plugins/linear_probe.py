"""Whether a linear boundary tells two clouds of points apart, on pairs that it was not drawn from.

Letters: N pairs, H dimensions.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Array = npt.NDArray[np.float64]
_SMALLEST = 1e-12
"""Squared length of an axis, in units of the longest, that rounding can make."""


def held_out_hits(one: Array, other: Array, keys: Sequence[str], *, folds: int, strength: float) -> Array:
    """1 or 0 for each side [N, 2] of each pair: whether a boundary drawn without its fold puts it on its own side.

    `one` and `other` are [N, H]. Both sides of a pair, and all pairs of one key, are in one fold; which one is decided
    by the keys alone. Dimensions are standardised by the folds that a boundary is drawn from. NaN where there are not
    two folds.
    """
    placed = fold_of(keys, folds)
    hits = np.full((len(one), 2), np.nan)
    for fold in sorted(set(placed.tolist())):
        inside = placed == fold
        if inside.all():
            continue
        both = np.concatenate([one[~inside], other[~inside]])
        centre, spread = both.mean(axis=0), both.std(axis=0)
        spread[spread == 0] = 1.0
        signs = np.repeat([1.0, -1.0], (~inside).sum())
        weights, bias = logistic(_scaled(both, centre, spread), signs, strength=strength)
        for side, points in enumerate((one[inside], other[inside])):
            said = _scaled(points, centre, spread) @ weights + bias
            hits[inside, side] = said > 0 if side == 0 else said <= 0
    return hits


def fold_of(keys: Sequence[str], folds: int) -> npt.NDArray[np.int64]:
    """Fold [N] of each key: keys in the order of their sums, dealt out in turn."""
    names = sorted(set(keys), key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    places = {name: number % min(folds, len(names)) for number, name in enumerate(names)}
    return np.asarray([places[key] for key in keys], dtype=np.int64)


def logistic(points: Array, signs: Array, *, strength: float) -> tuple[Array, float]:
    """Weights [H] and bias of penalised logistic regression on `points` [M, H] with `signs` [M] of 1 and -1.

        minimise  sum log(1 + exp(-sign (w x + b)))  +  |w|^2 / (2 strength)

    Where there are more dimensions than points, w lies in the space that the points span, and is sought there.
    """
    basis = None
    if points.shape[1] > len(points):
        basis = axes(points)
        points = points @ basis.T

    def loss(theta: Array) -> tuple[float, Array]:
        weights, margin = theta[:-1], signs * (points @ theta[:-1] + theta[-1])
        pull = -signs / (1.0 + np.exp(np.minimum(margin, 700.0)))
        value = float(np.logaddexp(0.0, -margin).sum() + weights @ weights / (2 * strength))
        return value, np.append(points.T @ pull + weights / strength, pull.sum())

    start = np.zeros(points.shape[1] + 1)
    theta = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-12}).x
    weights = theta[:-1] if basis is None else basis.T @ theta[:-1]
    return weights, float(theta[-1])


def plane(points: Array) -> Array:
    """The two principal components [M, 2] of `points` [M, H]; the largest loading of each is positive."""
    centred = points - points.mean(axis=0)
    found = axes(centred, most=2)
    found = np.concatenate([found, np.zeros((2 - len(found), points.shape[1]))])
    signs = np.sign(found[np.arange(2), np.abs(found).argmax(axis=1)])
    return np.asarray(centred @ (found * np.where(signs == 0, 1.0, signs)[:, None]).T, dtype=np.float64)


def axes(points: Array, *, most: int | None = None) -> Array:
    """Orthonormal axes [K, H] of the space that `points` [M, H] span, the longest first; at most `most`.

    By the smaller of the two matrices of inner products, which is quicker than a decomposition of `points`.
    """
    wide = points.shape[1] > len(points)
    lengths, vectors = np.linalg.eigh(points @ points.T if wide else points.T @ points)
    kept = np.flatnonzero(lengths > lengths.max(initial=0.0) * _SMALLEST)[::-1][:most]
    if not wide:
        return np.asarray(vectors[:, kept].T)
    return np.asarray((vectors[:, kept] / np.sqrt(lengths[kept])).T @ points)


def _scaled(points: Array, centre: Array, spread: Array) -> Array:
    return (points - centre) / spread
