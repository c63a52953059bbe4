"""The lines of the table, and the clock that cuts it off."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One line."""

    what: str
    value: str
    aim: str = ""
    holds: bool | None = None
    """Whether the aim is met; None where there is none."""

    def __str__(self) -> str:
        verdict = {None: "", True: "yes", False: "NO"}[self.holds]
        return f"| {self.what} | {self.value} | {self.aim} | {verdict} |"


@final
@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how large."""

    device: torch.device
    dtype: torch.dtype
    small: bool
    """Sizes that a CPU can do: shows that the script runs, and measures nothing worth keeping."""
    bandwidth: float
    """Bytes a second that a copy moves here, read and written."""
    matrix_rate: float
    """Floating-point operations a second of a large product in `dtype` here."""

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object], repeats: int = 3) -> float:
        """The shortest of `repeats` calls."""
        best = float("inf")
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            call()
            self.wait()
            best = min(best, time.perf_counter() - began)
        return best


def ceilings(device: torch.device, dtype: torch.dtype, *, small: bool) -> Setting:
    """What this device reaches: a copy between two tensors, and a square product."""
    blank = Setting(device, dtype, small, 0.0, 0.0)
    moved, rate = _copying(blank), _multiplying(blank)
    return Setting(device, dtype, small, moved, rate)


def _copying(setting: Setting) -> float:
    count = 1 << (22 if setting.small else 30)
    source = torch.ones(count, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * count / setting.seconds(lambda: target.copy_(source), 10)


def _multiplying(setting: Setting) -> float:
    side = 512 if setting.small else 8192
    left, right = (torch.randn(side, side, device=setting.device, dtype=setting.dtype) for _ in range(2))
    torch.mm(left, right)
    return 2 * side**3 / setting.seconds(lambda: torch.mm(left, right), 10)
