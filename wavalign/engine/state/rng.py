"""Random states of a process as JSON, for an exact resume."""

import base64
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def encode_state(state: Tensor) -> str:
    """A generator's state [N] uint8 as text."""
    return base64.b64encode(state.cpu().numpy().tobytes()).decode("ascii")


def decode_state(text: str) -> Tensor:
    """The state [N] uint8 that `encode_state` made text of."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def rng_state() -> dict[str, Any]:
    """States of `random`, NumPy, torch and this process's GPU."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": encode_state(torch.get_rng_state()),
        "cuda": encode_state(torch.cuda.get_rng_state()) if torch.cuda.is_initialized() else None,
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` gave; a GPU's state needs a GPU."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(decode_state(state["torch"]))
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(decode_state(state["cuda"]))


def seed_rng(seed: int) -> None:
    """Begin the states that `rng_state` gives anew, all by `seed`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
