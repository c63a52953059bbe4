"""One seed, many generators: each use derives its own, so that nothing depends on what was drawn before it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the use that `names` spell."""
    digest = hashlib.blake2b("/".join(map(str, (seed, *names))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the use that `names` spell."""
    return torch.Generator().manual_seed(derive(seed, *names))


@contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the global generators of the CPU and of `device` start from `seed`; afterwards they go on as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
