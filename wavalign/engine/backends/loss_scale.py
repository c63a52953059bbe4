"""Loss scaling for fp16, whose smallest numbers are above many gradients: torch's own scaler, with what a resume needs.

The loss is multiplied by a scale, the gradients are divided by it again before they are looked at. Gradients that
overflow skip the update and halve the scale; so many updates in a row without one double it. DeepSpeed's stages 1 to 3
have a scaler of their own, set to the same numbers.
"""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

INITIAL_POWER = 16
"""The first scale is 2 to the power of this."""
WINDOW = 1000
"""Updates without an overflow after which the scale doubles."""
LEAST = 1.0
"""Where gradients overflow at this scale it is not the scale's doing."""
KEY = "loss_scale"
_SCALE, _SINCE, _HYSTERESIS = "loss_scale", "updates_since_overflow", "cur_hysteresis"
"""In a checkpoint."""


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

    def numbers(self) -> dict[str, float]:
        """What a checkpoint holds of it, by the names that every engine reads."""
        scale, since = self.state()[KEY].tolist()
        return {_SCALE: scale, _SINCE: since}

    def take(self, numbers: Mapping[str, float]) -> None:
        """Restore `numbers()`, or those of DeepSpeed's scaler."""
        if _SCALE in numbers:
            self.load({KEY: torch.tensor([numbers[_SCALE], numbers[_SINCE]], dtype=torch.float64)})


def scaler_numbers(scaler: Mapping[str, Any]) -> dict[str, float]:
    """The same of what DeepSpeed's dynamic scaler has; empty where that is nothing."""
    if not scaler:
        return {}
    hysteresis = {_HYSTERESIS: scaler[_HYSTERESIS]}
    return {_SCALE: scaler["cur_scale"], _SINCE: scaler["cur_iter"] - scaler["last_overflow_iter"] - 1, **hysteresis}


def scaler_state(scaler: Mapping[str, Any], numbers: Mapping[str, float]) -> dict[str, Any]:
    """What such a scaler has to be given; empty where there is none, or nothing was kept."""
    if not scaler or _SCALE not in numbers:
        return {}
    state = {"cur_scale": numbers[_SCALE], "cur_iter": int(numbers[_SINCE]), "last_overflow_iter": -1}
    return state | {_HYSTERESIS: int(numbers.get(_HYSTERESIS, scaler[_HYSTERESIS]))}
