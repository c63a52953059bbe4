"""One seed, many generators: each use derives its own, so that nothing depends on what was drawn before it."""

import hashlib

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the use that `names` spell."""
    digest = hashlib.blake2b("/".join(map(str, (seed, *names))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for the use that `names` spell."""
    return torch.Generator().manual_seed(derive(seed, *names))
