"""The state of a batch that is being sampled, and the form of it whose step can be recorded once and replayed."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any, final

from torch import Tensor


class DecodingState(ABC):
    """A batch of answers being sampled: caches, layout state, what comes next. Lives for one sampling call.

    The sampler's loop is: read `heads`, `hidden()` and `forced()`, choose `ids`, `append(ids)`, drop rows that
    `finished()` names with `keep`. Rows are [P * G], the G answers of a prompt adjacent. This is all that an
    architecture needs; one that is to run at an accelerator's pace derives from `StaticDecodingState`.
    """

    @abstractmethod
    def heads(self) -> tuple[int, ...]:
        """Per stream, the index in `TokenSpace.heads` of the head that predicts the coming token, alike in all rows."""

    @abstractmethod
    def hidden(self) -> Tensor:
        """Hidden states [B, S, H] from which those heads predict the coming token."""

    @abstractmethod
    def forced(self) -> Tensor:
        """Ids [B, S] the layout puts next, -1 where the model chooses."""

    @abstractmethod
    def append(self, ids: Tensor) -> Tensor:
        """Take the chosen `ids` [B, S] and return their roles [B, S] int8."""

    @abstractmethod
    def finished(self) -> Tensor:
        """Bool [B]: rows that are complete (end of turn, or nothing that was asked for can still come)."""

    def text_over(self) -> Tensor:
        """Bool [B]: rows whose text is complete, whatever else may follow; the same however `need` is."""
        return self.finished()

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices [B'] into the present batch) only."""


@final
class Buffers:
    """Tensors by name that a step changes in place."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name."""
        return self._tensors[name]

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        """Put another tensor there: between steps only."""
        self._tensors[name] = tensor

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._tensors

    def get(self, name: str) -> Tensor | None:
        """The tensor of that name, if there is one."""
        return self._tensors.get(name)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def shapes(self, *, first: int = 0) -> Hashable:
        """Name, type and shape, from dimension `first` on, of every tensor."""
        return tuple((name, tensor.dtype, tuple(tensor.shape[first:])) for name, tensor in self._tensors.items())

    def addresses(self) -> dict[str, int]:
        """Where each tensor lies."""
        return {name: tensor.data_ptr() for name, tensor in self._tensors.items()}

    def select(self, rows: Tensor) -> None:
        """Keep or repeat `rows` (indices into the first dimension) of every tensor."""
        for name, tensor in self._tensors.items():
            self._tensors[name] = tensor.index_select(0, rows)

    def first(self, rows: int | None = None) -> "Buffers":
        """The first `rows` of the same tensors, or the same tensors."""
        other = Buffers()
        for name, tensor in self._tensors.items():
            other[name] = tensor[:rows]
        return other

    def move_into(self, place: "Buffers", rows: Tensor | None = None) -> None:
        """Copy everything, or `rows` of it, into the tensors of `place`, and go on with those."""
        for name, tensor in self._tensors.items():
            # Rows may move within one tensor: they are copied out of it first.
            place[name].copy_(tensor if rows is None else tensor.index_select(0, rows))
            self._tensors[name] = place[name]

    def copy(self, *, but: str | None = None, only: str = "") -> dict[str, Tensor]:
        """Copies of all tensors, or of those whose names begin with `only` and not with `but`."""
        return {
            name: tensor.clone()
            for name, tensor in self._tensors.items()
            if name.startswith(only) and not (but and name.startswith(but))
        }

    def restore(self, copies: dict[str, Tensor]) -> None:
        """Write `copies` back, in place."""
        for name, tensor in copies.items():
            self._tensors[name].copy_(tensor)


class StaticDecodingState(DecodingState):
    """A state whose step changes tensors of fixed size in place, so that it can be recorded once and replayed.

    A step is `hidden()`, `forced()`, `take(ids)`, `finished()`, `text_over()`; `advance()` ends it. Between `settle`
    and the next `keep` a step must

    - write to tensors of `rows` and `shared` in place and put no other tensor there,
    - read no value of a tensor into Python: no `bool(x)`, `int(x)`, `x.tolist()`, no indexing by a mask,
    - use what Python knows of the step only as far as `phase()` says it: equal phases do equal work,
    - leave `host` alone; `advance()` alone replaces it.

    A sampler that cannot or need not record runs the same step as it stands.
    """

    host: Any
    """What Python knows: an immutable value (counters, whose turn it is)."""

    def __init__(self) -> None:
        self.rows, self.shared = Buffers(), Buffers()
        """Tensors [B, ...] with a row an answer, and tensors that all rows share. What is appended to and never read
        before it is written again, such as cached keys, has a name that begins with `slots`."""

    @abstractmethod
    def settle(self, steps: int, *, slots: int = 1) -> None:
        """Make room for `steps` more tokens; from here on a step replaces no tensor.

        With `slots` above 1 attention looks at a multiple of so many slots, those not filled yet hidden by a mask, and
        every place is taken from tensors, so that a phase comes again. Otherwise it looks at the filled ones.
        """

    @abstractmethod
    def fuse(self) -> None:
        """Join projections that share an input, for the steps to come; the weights must stay as they are meanwhile.

        Called once, right after the prompts were run. What is computed may differ by rounding.
        """

    @abstractmethod
    def phase(self) -> Hashable:
        """What Python knows of the coming step and the step depends on, apart from `constants`."""

    @abstractmethod
    def constants(self) -> Hashable:
        """What a step depends on and no step changes: what was asked for, ids of the layout, fused or not."""

    @abstractmethod
    def take(self, ids: Tensor) -> Tensor:
        """Take the chosen `ids` [B, S] and return their roles [B, S] int8; the tensors' part of `append`."""

    @abstractmethod
    def advance(self) -> None:
        """Replace `host` by what it is behind the step."""

    def append(self, ids: Tensor) -> Tensor:
        """Take the chosen `ids` [B, S] and return their roles [B, S] int8."""
        self.hidden()  # its keys and values belong to the step, whoever reads the states
        roles = self.take(ids)
        self.advance()
        return roles

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""
        self.rows.select(rows)
