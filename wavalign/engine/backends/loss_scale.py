"""Loss scaling for fp16, whose smallest numbers are above many gradients: torch's own scaler, with what a resume needs.

The loss is multiplied by a scale, the gradients are divided by it again before they are looked at. Gradients that
overflow skip the update and halve the scale; so many updates in a row without one double it. DeepSpeed's stages 1 to 3
have a scaler of their own, set to the same numbers.
"""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

INITIAL_POWER = 16
"""The first scale is 2 to the power of this."""
WINDOW = 1000
"""Updates without an overflow after which the scale doubles."""
LEAST = 1.0
"""Where gradients overflow at this scale it is not the scale's doing."""
KEY = "loss_scale"


@final
class LossScale:
    """A dynamic scale; equal on every rank, for it sees gradients that were summed over all of them."""

    def __init__(self, device: torch.device) -> None:
        self._scaler = torch.amp.GradScaler(device.type, init_scale=2.0**INITIAL_POWER, growth_interval=WINDOW)

    @property
    def value(self) -> float:
        """By which the next loss is multiplied."""
        return float(self._scaler.get_scale())

    def scaled(self, loss: Tensor) -> Tensor:
        """`loss` [] times the scale."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the optimiser's gradients by the scale, and choose the next one by whether they are finite."""
        self._scaler.unscale_(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Tensor]:
        """`loss_scale` [N] float64: the scale, and the updates since the last overflow."""
        found = self._scaler.state_dict()
        return {KEY: torch.tensor([found["scale"], found["_growth_tracker"]], dtype=torch.float64)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`, `loss_scale` [N]."""
        scale, tracker = state[KEY].tolist()
        self._scaler.load_state_dict({**self._scaler.state_dict(), "scale": scale, "_growth_tracker": int(tracker)})
