"""Learning rate of a step: linear warm-up, then the decay's shape, down to a fraction of the full rate."""

import math

from wavalign.schema.optim import OptimSection


def learning_rate(optim: OptimSection, index: int, steps: int) -> float:
    """Rate of step `index` (from 0) of `steps`."""
    schedule = optim.schedule
    if index < schedule.warmup_steps:
        return optim.learning_rate * (index + 1) / schedule.warmup_steps
    if schedule.shape == "constant":
        return optim.learning_rate
    span = max(1, steps - 1 - schedule.warmup_steps)
    progress = min(1.0, (index - schedule.warmup_steps) / span)
    shape = 1 - progress if schedule.shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return optim.learning_rate * (schedule.final_fraction + (1 - schedule.final_fraction) * shape)
