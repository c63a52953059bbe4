"""Learning rate of an update: linear warm-up, then the decay's shape, down to a fraction of the full rate."""

import math

from wavalign.schema.optim import OptimSection


def learning_rate(optim: OptimSection, time: float, steps: int, *, each: float = 1.0) -> float:
    """Rate of the update that begins at `time` (in steps from 0) of `steps`, and is the part `each` of a step."""
    schedule = optim.schedule
    if time < schedule.warmup_steps:
        return optim.learning_rate * (time + each) / schedule.warmup_steps
    if schedule.shape == "constant":
        return optim.learning_rate
    span = max(each, steps - each - schedule.warmup_steps)
    progress = min(1.0, (time - schedule.warmup_steps) / span)
    shape = 1 - progress if schedule.shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return optim.learning_rate * (schedule.final_fraction + (1 - schedule.final_fraction) * shape)
