"""The sampling loop."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, final

import torch
from torch import Tensor, nn

from wavalign.plugins.samplers.batch import Batch
from wavalign.plugins.samplers.drawing import row_uniforms


class Stepping(Protocol):
    """How the steps of a batch are run."""

    every: int
    """Steps between looks at which rows are finished."""

    def step(self, batch: Batch) -> None:
        """Run one step."""

    def look(self, batch: Batch) -> None:
        """Settle what the steps since the last look have left open."""

    def keep(self, batch: Batch, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""


@final
class PlainSteps:
    """Steps as they stand, over just the rows and slots that there are."""

    def __init__(self, every: int) -> None:
        self.every = every

    def step(self, batch: Batch) -> None:
        """Run one step."""
        batch.step()
        batch.advance()

    def look(self, batch: Batch) -> None:
        """Nothing is left open."""

    def keep(self, batch: Batch, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""
        batch.keep(rows)


def sample_rows(batch: Batch, stepping: Stepping, steps: int, *, compact_below: float) -> None:
    """Sample until every row of `batch` is finished or `steps` tokens of each are drawn.

    Finished rows leave the batch once the live ones are less than `compact_below` of it.
    """
    for step in range(1, steps + 1):
        stepping.step(batch)
        if step % stepping.every and step < steps:
            continue
        stepping.look(batch)
        alive = batch.live()
        count = int(alive.sum())
        if count == 0:
            break
        if count < compact_below * len(alive) and step < steps:
            stepping.keep(batch, alive.nonzero()[:, 0])


def unique_names(ids: Sequence[str]) -> list[str]:
    """One name a prompt: a dialogue that comes again is told apart by how often it came before."""
    seen: Counter[str] = Counter()
    names = []
    for name in ids:
        names.append(f"{name}\0{seen[name]}")
        seen[name] += 1
    return names


def uniforms_of(seed: int, names: Sequence[str], group_size: int, shape: tuple[int, int]) -> Tensor:
    """Uniform numbers [P * G, S, T], every row from a stream of its own."""
    return torch.stack([row_uniforms(seed, f"{name}\0{index}", shape) for name in names for index in range(group_size)])


@contextmanager
def evaluation_mode(policy: nn.Module) -> Iterator[None]:
    """Put `policy` in eval mode, then every module of it back into the mode it was in."""
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
