"""Settings of the process that a plugin's code may not leave changed: what is learned hangs on them.

`torch.set_default_dtype`, `torch.set_grad_enabled(False)` and their like, left behind by a reward or by a library that
a plugin imports, change everybody's numbers, or break a step somewhere else. What was changed is put back; the number
of threads without a word, since libraries set it as a matter of course, the rest with an error that names the plugin.
Random generators are not among them: every draw of the engine has one of its own.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, final

import torch


@final
class Settings:
    """What was set at one moment."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found = _read()

    def put_back(self) -> str:
        """Restore what has changed since; gives in words what nobody may change, empty where nothing was."""
        now = _read()
        if now == self._found:
            return ""
        said = []
        for name, was, is_now in zip(NAMES, self._found, now, strict=True):
            if was != is_now:
                if name in BACK:
                    BACK[name](was)
                if name != THREADS:
                    said.append(f"{name} from {was} to {is_now}")
        return ", ".join(said)


THREADS = "torch's number of threads"
NAMES = (
    "torch's default dtype",
    "torch's default device",
    "whether torch takes gradients",
    "whether torch is in inference mode",
    "whether torch is deterministic",
    "torch's precision of matrix products",
    "torch's autocast on the CPU",
    "torch's autocast on CUDA",
    "whether standard output is closed",
    "whether standard error is closed",
    THREADS,
)


def _read() -> tuple[Any, ...]:
    made = torch.empty(0)  # says both, and costs less than asking for the device
    return (
        made.dtype,
        made.device,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
        sys.stdout is not None and sys.stdout.closed,
        sys.stderr is not None and sys.stderr.closed,
        torch.get_num_threads(),
    )


def _device_back(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


BACK: Mapping[str, Callable[[Any], object]] = {
    "torch's default dtype": torch.set_default_dtype,
    "torch's default device": _device_back,
    "whether torch takes gradients": torch.set_grad_enabled,
    "whether torch is deterministic": torch.use_deterministic_algorithms,
    "torch's precision of matrix products": torch.set_float32_matmul_precision,
    "torch's autocast on the CPU": partial(torch.set_autocast_enabled, "cpu"),
    "torch's autocast on CUDA": partial(torch.set_autocast_enabled, "cuda"),
    THREADS: torch.set_num_threads,
}
"""By name, how it is put back; the rest cannot be."""
