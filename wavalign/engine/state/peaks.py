"""The most memory that this process held in each phase of a step.

On a GPU the tensors that PyTorch's allocator gave; on a CPU the resident set, whose highest value the kernel keeps and
lets its process set back (Linux). Where the kernel does not, nothing is measured.
"""

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PEAK = "5"
"""What, written to the first file, sets the resident set's highest value back to the present one."""


@final
@dataclass(slots=True)
class _Earlier:
    bytes: int = 0


_earlier = _Earlier()
"""The highest peak of this process that a reset has taken from what the system counts."""


@final
class Peaks:
    """One step's phases, each from where it begins to where the next one does."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._now = device, ""
        self.bytes: dict[str, int] = {}
        """By phase; nothing where it cannot be measured."""

    def switch(self, phase: str) -> None:
        """From here on memory counts as this phase's; empty ends the last one."""
        if phase == self._now:
            return
        if self._now:
            self.bytes[self._now] = max(self.bytes.get(self._now, 0), peak_since_reset(self._device))
        self._now = phase
        if phase and not reset_peak(self._device):
            self._now = ""


def reset_peak(device: torch.device) -> bool:
    """Let the next peak begin with what is held now; False where the machine does not let it."""
    _earlier.bytes = highest(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        _RESET.write_text(_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak_since_reset(device: torch.device) -> int:
    """Bytes of the fullest moment since the last reset."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def highest(device: torch.device) -> int:
    """Bytes of the fullest moment of this process, or since `forget_highest`, whatever was reset meanwhile."""
    if device.type == "cuda":
        return max(_earlier.bytes, int(torch.cuda.max_memory_allocated(device)))
    return max(_earlier.bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def forget_highest(device: torch.device) -> None:
    """Let `highest` begin with what is held now."""
    reset_peak(device)
    _earlier.bytes = 0
