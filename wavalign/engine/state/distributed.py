"""All processes of a run as one object; a single process needs no process group at all."""

import json
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Literal, final

import torch
import torch.distributed as dist
from torch import Tensor

from wavalign.engine.state.side_channel import Meeting, SideChannel
from wavalign.engine.state.watch import Watch, store_of
from wavalign.errors import RankLostError, UsageError
from wavalign.leaving import NativeThreads

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others: longer than the slowest step's sampling and rewards on one of them."""
_LATER = timedelta(minutes=1)
"""How much later the process group itself gives up, which cannot say whom it waited for."""
_TRIES = 3
"""How often ranks that found one another try to connect."""
_LOST = ("peer", "connection", "timed out", "timeout", "socket", "gloo", "nccl", "store")
"""Words of the messages by which a process group says that it is broken."""
_SPEAKING = (os.path.join("torch", "distributed"), "deepspeed")
"""Packages that speak to other ranks."""


@final
class World:
    """The ranks of a run: rank r of `size`, and what they do together. Every rank calls every method alike."""

    __slots__ = ("_met_at", "_patience", "_watch", "device", "local_rank", "rank", "size")

    def __init__(self, *, rank: int, size: int, local_rank: int, device: torch.device) -> None:
        self.rank, self.size, self.local_rank, self.device = rank, size, local_rank, device
        self._watch: Watch | None = None
        self._met_at = ("", 0)
        self._patience = PATIENCE

    @classmethod
    def single(cls, device: Literal["cpu", "cuda"] = "cpu") -> "World":
        """One process on its own."""
        return cls(rank=0, size=1, local_rank=0, device=_device(device, 0))

    @classmethod
    def from_environment(
        cls,
        device: Literal["cpu", "cuda"],
        *,
        environment: Mapping[str, str] = os.environ,
        patience: timedelta = PATIENCE,
    ) -> "World":
        """Join the ranks that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe.

        Without WORLD_SIZE, or with 1, this process is alone. Raises UsageError for an incomplete environment and
        RankLostError when the others do not come within `patience`. From then on a wait that is longer ends with who is
        missing (`watch.py`).
        """
        size = int(environment.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls.single(device)
        missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environment]
        if missing:
            raise UsageError(f"WORLD_SIZE is {size} but {', '.join(missing)} is not set", hint="use the launcher")
        rank, local_rank = int(environment["RANK"]), int(environment["LOCAL_RANK"])
        world = cls(rank=rank, size=size, local_rank=local_rank, device=_device(device, local_rank))
        address = f"tcp://{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}"
        backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
        with _rank_lost("the start"):
            _join(backend, address, rank=rank, size=size, patience=patience)
            store = store_of(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]))
        world._met_at, world._patience = (environment["MASTER_ADDR"], int(environment["MASTER_PORT"])), patience
        world._watch = Watch(store, rank=rank, size=size, patience=patience.total_seconds())
        world._watch.start()
        dist.distributed_c10d._set_pg_timeout(patience + _LATER)
        return world

    def alone(self) -> "World":
        """This process as if there were no other, where the others do not come along."""
        return World(rank=0, size=1, local_rank=self.local_rank, device=self.device)

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> None:
        """Replace `tensor` [...] by its sum over ranks."""
        if self.size > 1:
            with self._meeting("a sum"):
                dist.all_reduce(tensor)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum of `tensor` [...] over ranks, in a new tensor."""
        result = tensor.clone()
        self.sum_(result)
        return result

    def broadcast_(self, tensor: Tensor) -> None:
        """Replace `tensor` [...] by that of rank 0."""
        if self.size > 1:
            with self._meeting("a broadcast"):
                dist.broadcast(tensor, src=0)

    def all_gather_rows(self, tensor: Tensor) -> Tensor:
        """`tensor` [N, ...] of every rank, the ranks in order: [size * N, ...]; N must be equal on all of them."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        with self._meeting("a gather"):
            dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def gather(self, value: Any) -> list[Any]:
        """The JSON `value` of every rank, on every rank, in order."""
        if self.size == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = self.all_gather_rows(torch.tensor([len(data)])).tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(data)] = data
        rows = self.all_gather_rows(padded[None])
        return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes, strict=True)]

    def to_first(self, data: bytes) -> list[memoryview] | None:
        """`data` of every rank, in order, on the first one; None on the others: for what is large."""
        sizes = self.all_gather_rows(torch.tensor([len(data)])).tolist()
        if not self.is_first:
            with self._meeting("a hand-over"):
                dist.send(torch.frombuffer(bytearray(data), dtype=torch.uint8), dst=0)
            return None
        parts = [memoryview(data)]
        for rank, size in enumerate(sizes[1:], 1):
            part = torch.empty(size, dtype=torch.uint8)
            with self._meeting("a hand-over"):
                dist.recv(part, src=rank)
            parts.append(part.numpy().data)
        return parts

    def broadcast(self, value: Any) -> Any:
        """The JSON `value` of rank 0, on every rank."""
        return self.gather(value if self.is_first else None)[0]

    def any_true(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank."""
        return bool(self.all_reduce_sum(torch.tensor([int(flag)])).item())

    def barrier(self) -> None:
        """Go on when every rank has come here."""
        self.any_true(False)

    def joint(self, doing: str) -> AbstractContextManager[None]:
        """Inside, a library speaks to the other ranks by itself; RankLostError where it loses one."""
        return nullcontext() if self.size == 1 else self._meeting(doing, by=_SPEAKING)

    def beside(self) -> Meeting:
        """Where threads of all ranks meet while these go on; every rank calls it."""
        if self.size == 1:
            return self
        with _rank_lost("the start of its checkpoints"):
            store = store_of(*self._met_at)
        return SideChannel(store, rank=self.rank, size=self.size, patience=self._patience.total_seconds())

    def close(self) -> None:
        """Leave the group; harmless when there is none.

        A process that is alone keeps the group that a library wanted: it remembers it, and its next run needs it.
        """
        if self._watch is not None:
            self._watch.stop()
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()  # before anything waits: the others may meet again at the same place
        if self._watch is not None:
            self._watch.close()

    @contextmanager
    def _meeting(self, doing: str, *, by: Sequence[str] = ()) -> Iterator[None]:
        """Inside, this rank meets the others; RankLostError, with whose fault that is where it is known."""
        if self._watch is None:
            with _rank_lost(doing, by=by):
                yield
            return
        try:
            with _rank_lost(doing, by=by), self._watch.meeting(doing):
                yield
        except RankLostError as error:
            if self._watch.verdict:
                raise RankLostError(error.message, hint=self._watch.verdict) from error
            raise


def _join(backend: str, address: str, *, rank: int, size: int, patience: timedelta) -> None:
    """Make the process group of ranks that meet at `address`.

    On a busy machine gloo's first connections break now and then (a connection that is refused or closed is not tried
    again by the other end). Every rank says how its try ended; where one broke, all try again together.
    """
    store, rank, size = next(dist.rendezvous(address, rank, size, timeout=patience))  # type: ignore[attr-defined]
    broken: RuntimeError | None = None
    for attempt in range(_TRIES):
        own = dist.PrefixStore(f"try{attempt}", store)  # type: ignore[attr-defined]
        NativeThreads.started = True
        try:
            dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=patience)
            broken = None
        except RuntimeError as error:
            broken = error
        own.set(f"ended{rank}", "broken" if broken else "joined")
        if all(own.get(f"ended{other}") == b"joined" for other in range(size)):
            return
        if not broken:
            dist.destroy_process_group()
        dist.distributed_c10d._world.group_count = 0  # names the next group, alike on all ranks
    raise broken or RuntimeError(f"connections to other ranks broke {_TRIES} times")


def _device(kind: Literal["cpu", "cuda"], local_rank: int) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UsageError(
            f"process {local_rank} has no GPU: this machine shows {count}",
            hint=f"set runtime.processes to at most {count}" if count else "set runtime.device to cpu",
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@contextmanager
def _rank_lost(doing: str, *, by: Sequence[str] = ()) -> Iterator[None]:
    """Of much code inside, `by` are the packages in which an error that counts is raised."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in _LOST) or (by and not _raised_in(by, error)):
            raise
        raise RankLostError(
            f"another process of this run was lost during {doing}",  # the library's own words say no more
            hint="the log of the process that stopped first says why",
        ) from error


def _raised_in(packages: Sequence[str], error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(f"{os.sep}{package}{os.sep}" in frames[-1].filename for package in packages)
