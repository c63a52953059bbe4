"""The value loss against a loop in NumPy, and its gradient by finite differences."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.loss_inputs import loss_inputs
from wavalign.plugins.losses.value import Value, ValueParams

GENERATOR = torch.Generator().manual_seed(2)
VALUES, OLD, RETURNS = torch.randn(3, 4, 6, generator=GENERATOR, dtype=torch.float64)
STREAMS = 2


def compute(values: Tensor, clip: float | None) -> dict[str, Tensor]:
    wide = (4, STREAMS, 6)
    logprobs = torch.zeros(wide, dtype=torch.float64)
    columns = {"values": values, "returns": RETURNS[:, None].expand(wide)}
    if clip is not None:
        columns["old_values"] = OLD[:, None].expand(wide)
    output = Value(ValueParams(clip=clip)).compute(loss_inputs(logprobs, **columns))
    return {"values": output.values, **output.metrics}


def by_loop(clip: float | None) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    found = np.zeros((4, 6))
    for b in range(4):
        for t in range(6):
            v, old, goal = float(VALUES[b, t]), float(OLD[b, t]), float(RETURNS[b, t])
            plain = (v - goal) ** 2
            held = plain if clip is None else (min(max(v, old - clip), old + clip) - goal) ** 2
            found[b, t] = 0.5 * max(plain, held)
    return found


@pytest.mark.parametrize("clip", [None, 0.2, 1.0])
def test_values(clip: float | None) -> None:
    found = compute(VALUES, clip)
    for stream in range(STREAMS):
        assert found["values"][:, stream].numpy() == pytest.approx(by_loop(clip), abs=1e-12)
    assert found["return"].shape == found["value"].shape == (4, STREAMS, 6)
    if clip is not None:
        share = float(found["clipped"].mean())
        assert 0 < share < 1
        assert share == pytest.approx(np.mean(by_loop(clip) > by_loop(None) + 1e-15))


@pytest.mark.parametrize("clip", [None, 0.2])
def test_gradient(clip: float | None) -> None:
    assert torch.autograd.gradcheck(lambda each: compute(each, clip)["values"], VALUES.clone().requires_grad_())


def test_what_is_needed() -> None:
    assert Value(ValueParams()).needs == {"values", "returns", "old_values"}
    assert Value(ValueParams(clip=None)).needs == {"values", "returns"}
    assert Value(ValueParams()).inert_on_policy == "clip"
