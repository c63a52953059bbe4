"""What a checkpoint holds a step up for: written at once, and beside the steps from a copy in host memory.

    python benchmarks/checkpoints.py [--megabytes 200] [--folder DIR]

A network of so many megabytes of float32 weights is trained by the plain backend's optimiser for a step, then a
checkpoint (weights and two moments, three times as much) is written both ways. *wait* is what the step waits for,
*done* when the checkpoint is there, *beside* how much longer a product of matrices takes while one is written.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from wavalign.engine.backends.base import AdamSettings
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.state.background import Background
from wavalign.engine.state.checkpoint import CheckpointStore
from wavalign.engine.state.distributed import World

WIDTH = 1024
BYTES = 4
PRODUCT = 1024
"""Rows of the matrices that are multiplied meanwhile."""


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One way to write."""

    name: str
    wait: float
    """Seconds that the step waits."""
    done: float
    """Seconds until the checkpoint is there."""
    beside: float
    """Time of a product meanwhile, over that without; 1 where nothing goes on meanwhile."""
    load: float
    """Seconds of a resume: read, checked and restored."""


def measured(megabytes: int, folder: Path) -> list[Row]:
    """A checkpoint of `megabytes` of weights both ways; the second of each counts, when memory has been taken."""
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(max(1, megabytes * 10**6 // (BYTES * WIDTH**2)))))
    world, settings = World.single(), AdamSettings((0.9, 0.99), 1e-8, 0.0, 1.0)
    policy: Any = module  # no token is ever scored: the optimiser and its checkpoint alone are looked at
    backend = PlainBackend(module, policy=policy, optimizer=settings, precision="float32", ranks=world)
    backend.begin_update(1)
    backend.backward(module(torch.randn(1, WIDTH)).square().mean())
    backend.step(1e-4)
    rows = []
    for name, write in (("at once", _at_once), ("beside", _beside)):
        store = CheckpointStore(folder / name.replace(" ", "-"), keep=1)
        write(store, backend, world, 1)
        wait, done, beside = write(store, backend, world, 2)
        checkpoint = store.latest()
        assert checkpoint is not None
        began = time.perf_counter()
        store.load(checkpoint, backend.load, world=world)
        rows.append(Row(name, wait, done, beside, time.perf_counter() - began))
    return rows


def _at_once(store: CheckpointStore, backend: PlainBackend, world: World, step: int) -> tuple[float, float, float]:
    took = _seconds(lambda: store.save(step, backend.save, meta={}, world=world))
    return took, took, 1.0


def _beside(store: CheckpointStore, backend: PlainBackend, world: World, step: int) -> tuple[float, float, float]:
    background, matrix = Background(), torch.randn(PRODUCT, PRODUCT)
    before = _product(matrix, lambda: True, least=5)

    def start() -> None:
        store.prepare(step, world=world)
        write = backend.snapshot()
        background.start(lambda: store.complete(step, write, meta={}, world=world))

    began = time.perf_counter()
    wait = _seconds(start)
    meanwhile = _product(matrix, lambda: background.ends_within(0.0), least=1)
    background.wait()
    return wait, time.perf_counter() - began, meanwhile / before


def _product(matrix: Tensor, is_over: Callable[[], bool], *, least: int) -> float:
    """Mean seconds of a product of `matrix` [N, N] with itself, again and again until `is_over`."""
    count, began = 0, time.perf_counter()
    while count < least or not is_over():
        matrix @ matrix
        count += 1
    return (time.perf_counter() - began) / count


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200, help="of weights")
    parser.add_argument("--folder", default=None, help="on the disk that checkpoints go to")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rows = measured(asked.megabytes, Path(folder))
    print(f"{asked.megabytes} MB of weights, {3 * asked.megabytes} MB a checkpoint\n")
    print("| written | wait, s | done, s | a product beside it | resume, s |\n|---|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.wait:.2f} | {row.done:.2f} | x {row.beside:.2f} | {row.load:.2f} |")


if __name__ == "__main__":
    main()
