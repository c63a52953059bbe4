"""The network a stage started from, for terms that compare with it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import final

import torch

from wavalign.engine.backends.base import Backend, Precision, autocast
from wavalign.engine.models.adapters import switched_off, trained_in_full
from wavalign.plugins.api import Policy


class Reference(ABC):
    """Gives the network as it was."""

    @abstractmethod
    def scoring(self) -> AbstractContextManager[Policy]:
        """Inside, the network as the stage started, ready to score without gradient; every rank enters alike."""


@final
class FrozenCopy(Reference):
    """A second network, made from what the policy was made from."""

    def __init__(self, policy: Policy, *, device: torch.device, precision: Precision) -> None:
        self._policy = policy.requires_grad_(False).eval()
        self._device, self._precision = device, precision

    @contextmanager
    def scoring(self) -> Iterator[Policy]:
        with torch.no_grad(), autocast(self._device, self._precision):
            yield self._policy


@final
class AdapterOff(Reference):
    """The policy itself without its adapters: they are all that training changes, but for what is kept here.

    Made before a backend takes the policy, which may cut its parameters up.
    """

    def __init__(self, policy: Policy) -> None:
        self._kept = trained_in_full(policy)
        self._backend: Backend | None = None

    def follow(self, backend: Backend) -> None:
        """Score with the policy of `backend` from now on."""
        self._backend = backend

    @contextmanager
    def scoring(self) -> Iterator[Policy]:
        assert self._backend is not None
        policy = self._backend.policy
        with self._backend.full_parameters(), torch.no_grad(), switched_off(policy, self._kept):
            yield policy
