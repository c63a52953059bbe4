"""Why a process was ended by a signal, as far as its machine tells: read after the end, beside counters from before."""

import os
import re
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

SHARED_MEMORY = Path("/dev/shm")
NATIVE = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""Signals that a fault of native code raises; Python's stack at that moment stands in the process's log."""
_OFTEN = {
    signal.SIGKILL: "; often: out of memory",
    signal.SIGBUS: "; often: shared memory is full",
    signal.SIGXCPU: "; a limit on CPU time",
    signal.SIGXFSZ: "; a limit on the size of files",
    **dict.fromkeys((signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL), "; a fault in native code"),
}
_LITTLE = 64 << 20
"""Bytes of shared memory below which it counts as full."""


@final
@dataclass(frozen=True, slots=True)
class Machine:
    """What the kernel had counted when the processes were started; made before them."""

    counters: tuple[Path, ...] = field(default_factory=lambda: (*_cgroup_files(), Path("/proc/vmstat")))
    """Files that count kills for lack of memory; the first that can be read is believed, the narrower group first."""
    before: int | None = field(init=False)
    """Such kills so far; None where nothing readable counts them."""

    def __post_init__(self) -> None:
        """Read the counters."""
        object.__setattr__(self, "before", self._kills())

    def cause(self, number: int) -> str:
        """What is known of an end by signal `number`, for a message; empty where that is nothing."""
        if number == signal.SIGKILL:
            now = self._kills()
            if self.before is None or now is None:
                return ""
            if now > self.before:
                return f"the kernel killed {now - self.before} for lack of memory on this machine since the start"
            return (
                "the kernel counted no kill for lack of memory since the start: a limit of a batch system, or a person"
            )
        if number == signal.SIGBUS and SHARED_MEMORY.is_dir():
            usage = shutil.disk_usage(SHARED_MEMORY)
            size = f"{SHARED_MEMORY} has {usage.free >> 20} of {usage.total >> 20} MiB free"
            return size + (" (containers: --shm-size)" if usage.free < _LITTLE else "")
        return ""

    def _kills(self) -> int | None:
        return next((count for path in self.counters if (count := _counted(path)) is not None), None)


def signal_text(number: int) -> str:
    """`9 (SIGKILL; often: out of memory)`."""
    try:
        known = signal.Signals(number)
    except ValueError:
        return str(number)
    return f"{number} ({known.name}{_OFTEN.get(known, '')})"


def _counted(path: Path) -> int | None:
    """The number of out-of-memory kills in a file of the kernel's."""
    try:
        found = re.search(r"^oom_kill (\d+)$", path.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _cgroup_files() -> tuple[Path, ...]:
    """Where the control group of this process counts, by either version of control groups."""
    try:
        lines = Path(f"/proc/{os.getpid()}/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    groups = [line.split(":", 2) for line in lines]
    root = Path("/sys/fs/cgroup")
    return tuple(
        root / kinds / name.lstrip("/") / ("memory.oom_control" if kinds else "memory.events")
        for _, kinds, name in groups
        if kinds in ("", "memory")
    )
