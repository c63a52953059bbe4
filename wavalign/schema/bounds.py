"""Bounds of numbers and names that sections and plugins share: what the program can honour, and no more.

Wide enough for every sensible value; what lies beyond is a slip of the pen that would end as an overflow, a crash of a
library or a run that never ends.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

MOST_STEPS = 10**9
MOST_ROWS = 1 << 20
"""Of a step, and of what a sampler holds at once."""
MOST_TOKENS = 1 << 17
"""Of one answer: hours of sound."""
MOST_FORWARD_TOKENS = 1 << 31
"""Of all rows that go through a network at once."""
MOST_WEIGHT = 1e6
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
STAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9][A-Za-z0-9_-]*)*$"
MOST_ROUNDS = 100
MOST_LETTERS = 64
"""Of a name that becomes a folder, a file or a part of a metric's name."""
DAY = 86_400
COOLEST = 1e-4
"""Lowest temperature but 0: below it, logits divided by it overflow."""


def _cool_enough(value: float) -> float:
    if 0 < value < COOLEST:
        raise ValueError(f"a temperature is 0 (greedy) or at least {COOLEST:g}")
    return value


Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=MOST_LETTERS)]
"""Of a split, reward, metric or term."""
StageName = Annotated[str, Field(pattern=STAGE_PATTERN, max_length=MOST_LETTERS)]
"""Of a stage; one of a round has the round's name and a dot before its own."""
Temperature = Annotated[float, Field(ge=0, le=100), AfterValidator(_cool_enough)]
"""Where 0 is allowed and means the likeliest id."""
TopK = Annotated[int, Field(ge=0, le=1 << 24)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=MOST_WEIGHT)]
Width = Annotated[int, Field(ge=1, le=1 << 20)]
"""Of a layer or vocabulary."""
Layers = Annotated[int, Field(ge=1, le=1024)]
Heads = Annotated[int, Field(ge=1, le=4096)]
Steps = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Position = Annotated[int, Field(ge=0, le=1 << 20)]
"""Tokens of a layout or places of a delay."""
Seed = Annotated[int, Field(ge=0, le=(1 << 63) - 1)]
