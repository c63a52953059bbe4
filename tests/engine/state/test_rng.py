"""Random states come back exactly, through JSON."""

import json
import random

import numpy as np
import torch

from wavalign.engine.state.rng import decode_state, encode_state, restore_rng, rng_state


def draw() -> list[float]:
    """Numbers from every generator; the odd count of Gaussians leaves one cached in `random` and NumPy."""
    numbers = [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn())]
    return [*numbers, *torch.randn(3).tolist()]


def test_the_same_numbers_come_again() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    draw()
    state = json.loads(json.dumps(rng_state()))
    first, second = draw(), draw()
    assert first != second
    restore_rng(state)
    assert draw() == first
    assert draw() == second


def test_a_generator_of_ones_own() -> None:
    generator = torch.Generator().manual_seed(5)
    torch.rand(7, generator=generator)
    text = encode_state(generator.get_state())
    expected = torch.rand(4, generator=generator)
    again = torch.Generator()
    again.set_state(decode_state(text))
    assert torch.equal(torch.rand(4, generator=again), expected)
