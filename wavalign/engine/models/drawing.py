"""Random weights drawn in parts: of every weight a rank keeps its share, and whole is only the one being drawn.

Every rank draws all numbers, in the order and from the generator in which it would draw a network that it keeps whole:
the weights are the same to the last bit. When the next weight is drawn the memory of the last one is given back but for
this rank's part; one that is worked on again, or placed at last, is put together from the parts of all ranks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wavalign.engine.backends.base import Ranks

_OVERWRITING = frozenset({"aten::normal_", "aten::uniform_", "aten::zero_", "aten::fill_"})
"""Operations that leave nothing of what was there."""
_ALIASES = frozenset({"aten::detach", "aten::alias"})
"""Operations that look at no memory; other views want it to be there."""


@final
@dataclass(slots=True, eq=False)
class _Divided:
    """Memory that tensors share, of which this rank keeps a part."""

    storage: torch.UntypedStorage
    size: int
    """Bytes of the whole."""
    part: Tensor | None = None
    """This rank's bytes [N] uint8; None where nothing was written yet, or all of it is there."""


@final
class DrawnInParts(TorchDispatchMode):
    """Inside, memory that `torch.empty` gives on the host is divided among `ranks`; every rank does the same inside."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ranks = ranks
        self._divided: dict[int, _Divided] = {}
        self._whole: list[_Divided] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.ops.aten.empty.memory_format:
            made = func(*args, **named)
            if made.device.type == "cpu" and made.numel():
                storage = made.untyped_storage()
                self._divided[storage._cdata] = _Divided(storage, storage.nbytes())
                storage.resize_(0)
            return made
        if func._schema.name not in _ALIASES:
            self._bring(list(self._among((args, named))), overwritten=self._overwritten(func, args))
        return func(*args, **named)

    def whole(self, tensor: Tensor) -> None:
        """Give `tensor` [...] back all of its memory, for good."""
        found = self._divided.pop(tensor.untyped_storage()._cdata, None)
        self._bring([] if found is None else [found])
        self._whole = []

    def all_whole(self, *, but: set[int]) -> None:
        """Give everything its memory back that is in none of the storages `but`: what is no parameter stays whole."""
        for key in [key for key in self._divided if key not in but]:
            self._bring([self._divided.pop(key)])
            self._whole = []

    def _among(self, values: object) -> Iterator[_Divided]:
        """Divided memory of the tensors among `values`, once each."""
        tensors = (each for each in tree_leaves(values) if isinstance(each, Tensor))
        keys = dict.fromkeys(each.untyped_storage()._cdata for each in tensors)
        return (self._divided[key] for key in keys if key in self._divided)

    def _bring(self, wanted: list[_Divided], *, overwritten: int = 0) -> None:
        """Make `wanted` whole and nothing else; the values of the storage `overwritten` are not asked for."""
        if not wanted:
            return
        for each in self._whole:
            if each not in wanted:
                self._cut(each)
        for each in wanted:
            if each not in self._whole:
                self._restore(each, values=each.storage._cdata != overwritten)
        self._whole = wanted

    def _overwritten(self, func: Any, args: tuple[Any, ...]) -> int:
        """The storage that `func` writes all of without looking at it; 0 where there is none."""
        if func._schema.name not in _OVERWRITING or not isinstance(args[0], Tensor):
            return 0
        tensor, key = args[0], int(args[0].untyped_storage()._cdata)
        size = tensor.numel() * tensor.element_size()
        covers = key in self._divided and tensor.is_contiguous() and size == self._divided[key].size
        return key if covers else 0

    def _cut(self, divided: _Divided) -> None:
        divided.part = _bytes(divided)[self._share(divided)].clone()
        divided.storage.resize_(0)

    def _restore(self, divided: _Divided, *, values: bool) -> None:
        divided.storage.resize_(divided.size)
        if values and divided.part is not None:
            whole = _bytes(divided).zero_()
            whole[self._share(divided)] = divided.part
            self._ranks.sum_(whole)  # as bytes: of each all ranks but one have 0
        divided.part = None

    def _share(self, divided: _Divided) -> slice:
        each = -(-divided.size // self._ranks.size)
        return slice(self._ranks.rank * each, (self._ranks.rank + 1) * each)


def _bytes(divided: _Divided) -> Tensor:
    """The memory as bytes [N] uint8."""
    return torch.empty(0, dtype=torch.uint8).set_(divided.storage, 0, (divided.size,), (1,))
