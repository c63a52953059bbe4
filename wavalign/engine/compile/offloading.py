"""What a recipe asks DeepSpeed to keep elsewhere, against the engine and the ZeRO stage that would do it."""

from collections.abc import Callable

from wavalign.schema.marks import Path
from wavalign.schema.runtime import EngineSection

Note = Callable[[str, str, Path, str], None]


def check_offload(engine: EngineSection, note: Note) -> None:
    """Note settings of DeepSpeed's that the engine or its stage would not look at."""
    if engine.type == "plain":
        asked = {
            "zero": bool(engine.zero),
            "offload_optimizer": engine.offload_optimizer,
            "offload_parameters": engine.offload_parameters,
        }
        for name in (name for name, value in asked.items() if value):
            message = f"{name} is DeepSpeed's, and the engine is plain"
            note("conflict", message, ("runtime", "engine", name), "set runtime.engine.type: deepspeed")
        return
    _check_nvme(engine, note)
    if engine.offload_optimizer and engine.zero == 0:
        message, path = "offload_optimizer needs a ZeRO stage of 1 or more", ("runtime", "engine", "offload_optimizer")
        note("conflict", message, path, "set runtime.engine.zero: 2")
    if engine.offload_parameters and engine.zero < 3:
        message = f"offload_parameters needs ZeRO stage 3, which holds them in parts, and the stage is {engine.zero}"
        note("conflict", message, ("runtime", "engine", "offload_parameters"), "set runtime.engine.zero: 3")


def _check_nvme(engine: EngineSection, note: Note) -> None:
    """Note what is to lie on NVMe, with what DeepSpeed would make of it."""
    if engine.offload_optimizer == "nvme":
        message = "an optimiser on NVMe is not offered: a transfer that fails there counts as done: weights are wrong"
        if engine.zero in (1, 2):
            message = f"stage {engine.zero} of DeepSpeed does not move an optimiser to NVMe: it stays in host memory"
        hint = "take offload_optimizer: true, which keeps it in host memory (docs/scaling.md shows why)"
        note("conflict", message, ("runtime", "engine", "offload_optimizer"), hint)
    if engine.offload_parameters == "nvme":
        message = "parameters on NVMe are not offered: a transfer that fails there counts as done: weights are wrong"
        hint = "take offload_parameters: true, which keeps them in host memory (docs/scaling.md shows why)"
        note("conflict", message, ("runtime", "engine", "offload_parameters"), hint)
