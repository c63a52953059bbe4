"""The network a stage started from, for terms that compare with it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, final

import torch
from torch import Tensor

from wavalign.engine.backends.base import Backend, Placement, Precision, autocast
from wavalign.engine.models.adapters import switched_off, trained_in_full
from wavalign.engine.models.scored_policy import Score, score_batch, score_used
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import TokenBatch, TokenSpace


class Scorer(Protocol):
    """A network whose weights lie in parts."""

    def score(
        self, batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> Tensor:
        """[B, S, T] of `select` [B, S, T], as `Backend.score`: every rank calls it as often."""


class Reference(ABC):
    """Gives the log-probs of the network as it was."""

    together = False
    """Whether every rank must score as often as the others, for each of them holds but a part of the network."""

    @abstractmethod
    def scoring(self) -> AbstractContextManager[Score]:
        """Inside, what scores by the network as the stage started; every rank enters alike."""


@final
class FrozenCopy(Reference):
    """A second network, made from what the policy was made from, whole on every rank."""

    def __init__(self, policy: Policy, space: TokenSpace, *, device: torch.device, precision: Precision) -> None:
        self._policy, self._space = policy.requires_grad_(False).eval(), space
        self._device, self._precision = device, precision

    @contextmanager
    def scoring(self) -> Iterator[Score]:
        with torch.no_grad(), autocast(self._device, self._precision):
            yield _whole(self._policy, self._space)


@final
class DividedCopy(Reference):
    """The same, of which every rank holds a part."""

    together = True

    def __init__(self, network: Scorer) -> None:
        self._network = network

    @contextmanager
    def scoring(self) -> Iterator[Score]:
        with torch.no_grad():
            yield _divided(self._network)


@final
class AdapterOff(Reference):
    """The policy itself without its adapters: they are all that training changes, but for what is kept here.

    Made before a backend takes the policy, which may cut its parameters up.
    """

    def __init__(self, policy: Policy, space: TokenSpace, placement: Placement | None = None) -> None:
        self._kept, self._space = trained_in_full(policy, placement), space
        self.together = placement is not None and placement.among is not None
        self._backend: Backend | None = None

    def follow(self, backend: Backend) -> None:
        """Score with the policy of `backend` from now on."""
        self._backend = backend

    @contextmanager
    def scoring(self) -> Iterator[Score]:
        backend = self._backend
        assert backend is not None
        policy = backend.policy
        if self.together:
            with torch.no_grad(), backend.exchanged(self._kept), switched_off(policy, {}):
                yield _divided(backend)
            return
        with backend.full_parameters(), torch.no_grad(), switched_off(policy, self._kept):
            yield _whole(policy, self._space)


def _whole(policy: Policy, space: TokenSpace) -> Score:
    def score(
        batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> Tensor:
        """As `Score` says: [B, S, T]."""
        return score_batch(policy, batch, select, space, temperature=temperature, support=support)

    return score


def _divided(network: Scorer) -> Score:
    def score(
        batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> Tensor:
        """As `Score` says: [B, S, T]."""
        return score_used(network.score, batch, select, temperature=temperature, support=support)

    return score
