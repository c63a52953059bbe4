"""A policy that answers prompts: no backend, no optimiser, no objective."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.step.rollouts import Roller
from wavalign.plugins.api import Policy, SamplingOptions
from wavalign.plugins.batch import Dialogue


@final
@dataclass(frozen=True, slots=True)
class Answering:
    """What answers, and what is answered; equal on every rank."""

    policy: Policy
    roller: Roller
    prompts: Sequence[Dialogue]
    """With ids of their own, in the order of the data."""
    options: SamplingOptions
    note: str = ""
    """What a person should know of the prompts."""
