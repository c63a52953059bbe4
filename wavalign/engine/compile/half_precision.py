"""How fast a CPU multiplies bfloat16, measured: some have instructions for it (AMX, AVX-512 BF16), and others emulate.

Without such instructions a product in bfloat16 can take 50 times that of one in float32, and nothing else tells.
"""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

SMALL, LARGE, REPEATS = 256, 1024, 3
"""Width of square matrices; large ones are multiplied only where small ones are not slow."""
WORTH = 1.5
"""So many times the speed of float32 makes bfloat16 worth a word to those who do not use it."""
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16", "svebf16")
"""As Linux names them, on x86 and on Arm."""


@final
@dataclass(frozen=True, slots=True)
class Products:
    """Rates of matrix products on the CPU with the threads that there are, in 10^9 operations a second."""

    float32: float
    bf16: float
    instructions: tuple[str, ...]
    """Those of `INSTRUCTIONS` that the CPU has."""

    @property
    def ratio(self) -> float:
        """How many times as fast bfloat16 is."""
        return self.bf16 / self.float32

    @property
    def text(self) -> str:
        """In words."""
        there = f"; {', '.join(self.instructions)}" if self.instructions else "; no instructions for it"
        times = f"{self.ratio:.1f} times as fast" if self.ratio >= 1 else f"{1 / self.ratio:.0f} times as slow"
        return f"matrix products: float32 {self.float32:.0f}, bf16 {self.bf16:.1f} GFLOP/s, {times}{there}"

    @property
    def advice(self) -> str:
        """What that means for `runtime.precision` on the CPU."""
        if self.ratio >= WORTH:
            return "runtime.precision: bf16 pays here"
        return "keep runtime.precision: float32 for runs on this CPU"


@functools.cache
def cpu_products() -> Products:
    """Measured once a process, in a tenth of a second."""
    found = _rates(SMALL)
    if found[1] > 0.5 * found[0]:
        found = _rates(LARGE)
    return Products(*found, instructions())


def instructions(path: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of `INSTRUCTIONS` that `path` names; none where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    named = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return tuple(each for each in INSTRUCTIONS if each in named.split())


def _rates(width: int) -> tuple[float, float]:
    """Of float32 and of bfloat16."""
    matrix = torch.linspace(-1, 1, width * width).view(width, width)
    return _rate(matrix), _rate(matrix.to(torch.bfloat16))


def _rate(matrix: torch.Tensor) -> float:
    """10^9 operations a second of `matrix` [N, N] times itself, the best of several."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - began)
    return 2e-9 * float(len(matrix)) ** 3 / best
