"""A reward's word as its calibration corrects it, before anything else is done with it."""

from dataclasses import replace

import numpy as np

from wavalign.engine.report.corrections import corrected, corrected_variance
from wavalign.plugins.batch import Scored
from wavalign.schema.calibration import Correction


def corrected_word(word: Scored, found: Correction | None) -> Scored:
    """`word` on the people's scale, with the variance of its own error; a missing value stays missing.

    What it says of single tokens is multiplied by the slope of a line; of a curve, which has none, it is left out: the
    answer is then paid for at its end.
    """
    if found is None or word.value is None:
        return word
    raw = word.value
    if found.noise is not None and word.variance is None:
        word = replace(word, variance=found.noise)
    if found.line is None and found.curve is None:
        return word
    value, variance = np.array(raw), word.variance
    if variance is not None:
        variance = float(corrected_variance(value, np.array(variance), found))
    tokens = None if found.line is None or word.tokens is None else word.tokens * found.line.slope
    details = {**word.details, "uncorrected": raw}
    return replace(word, value=float(corrected(value, found)), variance=variance, tokens=tokens, details=details)
