"""Each rank's share of a held-out split: which dialogues it answers, and how the answers reach the first rank."""

import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, final

import numpy as np
import torch
from torch import Tensor

from wavalign.plugins.batch import Dialogue, RolloutGroup

T = TypeVar("T")


class Ranks(Protocol):
    """Those who measure together. Every rank calls every method alike."""

    @property
    def rank(self) -> int:
        """This one's place."""

    @property
    def size(self) -> int:
        """How many there are."""

    def to_first(self, data: bytes) -> Sequence[Any] | None:
        """`data` of every rank, in order, on the first one; None on the others."""


@final
@dataclass(frozen=True, slots=True)
class Alone:
    """A rank without others."""

    rank: int = 0
    size: int = 1

    def to_first(self, data: bytes) -> list[bytes]:
        """Its own."""
        return [data]


@final
@dataclass(frozen=True, slots=True)
class Share:
    """What one rank knows of its dialogues."""

    places: Sequence[int]
    """Of each group, the place of its dialogue in the split."""
    groups: Sequence[RolloutGroup]
    observed: Mapping[str, Sequence[Any] | None]
    """By metric, what `observe` found of each group; None where the metric observes nothing."""


def own_places(dialogues: Sequence[Dialogue], ranks: Ranks) -> list[int]:
    """Places of the dialogues that this rank answers, in order.

    Dialogues of one id stay together: a sampler tells them apart by how often the id came before, and must give each
    the answer that it has where one rank samples all.
    """
    numbers = {each: number for number, each in enumerate(dict.fromkeys(dialogue.id for dialogue in dialogues))}
    return [place for place, each in enumerate(dialogues) if numbers[each.id] % ranks.size == ranks.rank]


def joined(shares: Sequence[Share]) -> Share:
    """All shares as one, in the order of the split."""
    names = dict.fromkeys(name for share in shares for name in share.observed)
    return Share(
        sorted(place for share in shares for place in share.places),
        _by_place([(share.places, share.groups) for share in shares]),
        {name: _observations(name, [share for share in shares if share.places]) for name in names},
    )


def _observations(name: str, shares: Sequence[Share]) -> list[Any] | None:
    found = [(share.places, seen) for share in shares if (seen := share.observed[name]) is not None]
    return _by_place(found) if len(found) == len(shares) else None


def _by_place(parts: Sequence[tuple[Sequence[int], Sequence[T]]]) -> list[T]:
    placed = [pair for places, values in parts for pair in zip(places, values, strict=True)]
    return [value for _, value in sorted(placed, key=lambda pair: pair[0])]


def to_first(ranks: Ranks, share: Share, dialogues: Sequence[Dialogue]) -> Share | None:
    """The shares of all ranks as one, on the first rank; None on the others.

    `dialogues` are the split's, which every rank has: they do not travel.
    """
    if ranks.size == 1:
        return share
    parts = ranks.to_first(b"" if ranks.rank == 0 else _packed(share, dialogues))
    if parts is None:
        return None
    return joined([share, *(_Reader(io.BytesIO(part), dialogues).load() for part in parts[1:])])


def _packed(share: Share, dialogues: Sequence[Dialogue]) -> bytes:
    """Pickled: the ranks of a run are one program, and nothing of it reaches a file."""
    with io.BytesIO() as file:
        _Writer(file, dialogues).dump(share)
        return file.getvalue()


@final
class _Writer(pickle.Pickler):
    """Dialogues by their place in the split, and of a tensor only what it shows of its storage."""

    def __init__(self, file: io.BytesIO, dialogues: Sequence[Dialogue]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._places = {id(each): place for place, each in enumerate(dialogues)}

    def persistent_id(self, obj: Any) -> int | None:
        """The place of a dialogue of the split."""
        return self._places.get(id(obj)) if type(obj) is Dialogue else None

    def reducer_override(self, obj: Any) -> Any:
        """A tensor as an array of numpy, where that has its dtype."""
        if type(obj) is not Tensor or obj.dtype is torch.bfloat16:
            return NotImplemented
        return torch.from_numpy, (np.ascontiguousarray(obj.detach().numpy()).reshape(obj.shape),)


@final
class _Reader(pickle.Unpickler):
    """The other end of `_Writer`."""

    def __init__(self, file: io.BytesIO, dialogues: Sequence[Dialogue]) -> None:
        super().__init__(file)
        self._dialogues = dialogues

    def persistent_load(self, pid: Any) -> Dialogue:
        """This rank's own dialogue at a place."""
        place: int = pid
        return self._dialogues[place]
