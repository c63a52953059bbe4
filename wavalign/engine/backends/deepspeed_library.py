"""DeepSpeed itself: imported late and without its words, in the process group that is there.

It writes to the terminal in many places; all of them are silenced here. Its logger `LOGGER` stays, without a handler,
for those who want its words in a file.
"""

import atexit
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist

from wavalign.engine.backends.base import Ranks
from wavalign.leaving import NativeThreads

LOGGER = "DeepSpeed"
_UNCOMPILED = "TORCHDYNAMO_DISABLE"  # PyTorch's: `torch.compile` gives back what it is given


def join_group(ranks: Ranks) -> None:
    """DeepSpeed wants a process group and its variables also where there is only one process."""
    for name, value in (("RANK", ranks.rank), ("WORLD_SIZE", ranks.size), ("LOCAL_RANK", ranks.device.index or 0)):
        os.environ.setdefault(name, str(value))
    if not dist.is_initialized():
        backend = "gloo" if ranks.device.type == "cpu" else "cpu:gloo,cuda:nccl"
        store = dist.HashStore()  # type: ignore[attr-defined]
        NativeThreads.started = True
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size)
        # DeepSpeed keeps groups of its own for the life of the process: the next run in it must find the same.
        atexit.register(dist.destroy_process_group)


def load_library(device: torch.device) -> Any:
    """The library, told what device it runs on, without a compiled helper that only its inference uses."""
    os.environ["DS_ACCELERATOR"] = device.type
    # Here and not above: the import takes seconds, looks at the variable, and most runs do without it.
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _import_uncompiled("deepspeed.runtime.zero.muon.original_muon")
    logger = logging.getLogger(LOGGER)
    for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
        logger.removeHandler(handler)
    logger.addHandler(logging.NullHandler())
    return deepspeed


def _import_uncompiled(module: str) -> None:
    """Import `module` of the library with its `@torch.compile` left out.

    Every ZeRO stage imports the optimiser Muon in order to ask whether the optimiser is one. Its decorators import
    PyTorch's whole compiler, which takes longer than the rest of the library, and no recipe can choose Muon.
    """
    before = os.environ.get(_UNCOMPILED)
    os.environ[_UNCOMPILED] = "1"
    try:
        import_module(module)
    finally:
        if before is None:
            del os.environ[_UNCOMPILED]
        else:
            os.environ[_UNCOMPILED] = before


def filter_warnings() -> None:
    """What the library's steps would warn of: its own habits, nothing a user could change."""
    warnings.filterwarnings("ignore", module=r"deepspeed(\.|$)")
    warnings.filterwarnings("ignore", message=r".torch\.distributed\.\w+. is deprecated", category=FutureWarning)


@contextmanager
def hushed() -> Iterator[None]:
    """Nothing written inside reaches the terminal, be it by Python, by a library or by a child process."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with open(os.devnull, "w", encoding="utf-8") as null, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
            with redirect_stdout(null), redirect_stderr(null):
                yield
    finally:
        for descriptor, number in zip(saved, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
