"""Plugins that let their secret slip in every way that they are given one."""

import base64
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final
from urllib.parse import quote

from torch import Tensor

from wavalign.plugins.api import Gate, GateReading, Measurement, Metric, Reward
from wavalign.plugins.batch import Dialogue, Rollout, RolloutGroup, Scored
from wavalign.schema.base import Params


def disguises(secret: str) -> list[str]:
    """A secret as it comes back from URLs, JSON, repr, base64 and headers."""
    data = secret.encode()
    return [
        secret,
        repr(secret),
        repr(data),
        json.dumps({"key": secret}),
        json.dumps(json.dumps(secret)),
        quote(secret, safe=""),
        secret.swapcase(),
        base64.b64encode(data).decode(),
        base64.urlsafe_b64encode(b"user:" + data).decode(),
        base64.b64encode(b"me:" + data).decode(),
        data.hex(),
        f"https://user:{quote(secret, safe='')}@host/x",
        f"Authorization: Bearer {secret}",
    ]


class LeakyParams(Params):
    """What is let slip, and where."""

    api_key: str
    """The secret."""
    crash: bool = False
    """Raise in the metric."""


@final
class LeakyReward(Reward):
    """Prints, warns, raises and details its secret."""

    type = "leaky_reward"
    Params = LeakyParams
    params: LeakyParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """A different slip for every other dialogue."""
        secret = self.params.api_key
        slips = disguises(secret)
        text = slips[int(dialogue.id[-1]) % len(slips)] + slips[int(dialogue.id[-3]) + 6]
        print(f"judge: {text}")
        sys.stderr.write(f"judge: {text}\n")
        thread = threading.Thread(target=self._die, args=(text,))
        thread.start()
        thread.join()
        if dialogue.id.endswith(("1", "3")):
            raise RuntimeError(f"the judge refused {text}")
        return Scored(0.5, "", {"header": text, f"with {secret}": 1.0})

    def _die(self, text: str) -> None:
        raise RuntimeError(text)


@final
class LeakyGate(Gate):
    """Remembers its secret."""

    type = "leaky_gate"
    Params = LeakyParams
    params: LeakyParams

    def update(self, rewards: Tensor | None, *, progress: float, noise: Tensor | None = None) -> GateReading:
        """Half, with a telling name."""
        return GateReading(0.5, {f"for {' '.join(self.params.api_key.split())}": 1.0})

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"key": self.params.api_key, "all": disguises(self.params.api_key)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""


@final
class LeakyMetric(Metric):
    """Names its value by the secret."""

    type = "leaky_metric"
    Params = LeakyParams
    params: LeakyParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        """One half."""
        if self.params.crash:
            raise ZeroDivisionError(" ".join(disguises(self.params.api_key)))
        name = " ".join(self.params.api_key.split())  # a name is one line
        return [Measurement(f"seen by {name}", 0.5, 0.4, 0.6, len(groups))]
