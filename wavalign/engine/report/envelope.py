"""A sound's envelope in characters: the loudest sample of every piece, one character each."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

BLOCKS, ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
WIDTH = 48
"""Characters of the longest sound beside it."""


def envelope(samples: npt.NDArray[np.float32], share: float, *, plain: bool = False) -> str:
    """`samples` [N] over `share` (0..1) of the width; full height is the loudest sample, silence is blank.

    Drawn on a root scale, for ears hear levels rather than amplitudes; `plain` has letters that every terminal has.
    """
    width, steps = max(1, round(WIDTH * min(1.0, share))), ASCII if plain else BLOCKS
    edges = np.linspace(0, len(samples), width + 1).astype(int)
    peaks = np.array([float(np.abs(samples[a:b]).max()) if b > a else 0.0 for a, b in pairwise(edges)])
    loudest = float(peaks.max())
    if loudest <= 0:
        return steps[0] * width
    levels = np.ceil(np.sqrt(peaks / loudest) * (len(steps) - 1)).astype(int)
    return "".join(steps[level] for level in levels)
