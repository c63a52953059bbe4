"""What ranks do together, on one and on two."""

import os
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.distributed import free_port, run_ranks
from wavalign.engine.state.distributed import World
from wavalign.errors import RankLostError, UsageError


def together(world: World) -> None:
    """Every operation, checked on every rank."""
    ranks = range(world.size)
    own = torch.tensor([1.0 + world.rank, 10.0])
    total = world.all_reduce_sum(own)
    assert total.tolist() == [sum(1.0 + rank for rank in ranks), 10.0 * world.size]
    assert own.tolist() == [1.0 + world.rank, 10.0], "the argument is left alone"
    world.sum_(own)
    assert torch.equal(own, total)

    # A view that is not contiguous, as a transposed matrix of rewards would be.
    rows = torch.arange(6).view(3, 2).T + 100 * world.rank
    assert world.all_gather_rows(rows).tolist() == [
        [100 * rank + start, 100 * rank + start + 2, 100 * rank + start + 4] for rank in ranks for start in (0, 1)
    ]

    value = {"rank": world.rank, "text": "ä" * (1 + 50 * world.rank), "none": None, "list": [1.5] * world.rank}
    gathered = world.gather(value)
    assert [entry["rank"] for entry in gathered] == list(ranks)
    assert gathered[world.rank] == value
    assert world.broadcast({"from": world.rank}) == {"from": 0}

    parts = world.to_first(bytes([world.rank]) * (1 + 70_000 * world.rank))
    wanted = [bytes([rank]) * (1 + 70_000 * rank) for rank in ranks]
    assert (parts is None) if world.rank else ([bytes(each) for each in parts or ()] == wanted)

    tensor = torch.full((2,), float(world.rank))
    world.broadcast_(tensor)
    assert tensor.tolist() == [0.0, 0.0]
    assert world.any_true(world.rank == world.size - 1)
    assert not world.any_true(False)
    assert world.is_first == (world.rank == 0)
    assert world.device == torch.device("cpu")


def alone(_: World) -> None:
    world = World.from_environment("cpu", environment={})
    assert (world.rank, world.size, world.local_rank) == (0, 1, 0)
    together(world)
    assert not torch.distributed.is_initialized()
    world.close()


def test_one_process_needs_no_group() -> None:
    """In a process of its own: a library may have made a group in this one."""
    run_ranks(alone, 1)


def test_two_processes() -> None:
    run_ranks(together, 2)


def deserted(world: World) -> str:
    """Rank 1 leaves without a word."""
    if world.rank == 1:
        world.close()
        return "left"
    time.sleep(0.2)
    with pytest.raises(RankLostError, match="lost during a sum") as caught:
        world.all_reduce_sum(torch.ones(1))
    world.size = 1
    return caught.value.hint


def test_a_lost_rank_is_named_as_such() -> None:
    assert run_ranks(deserted, 2) == ["the log of the process that stopped first says why", "left"]


def breaking(first: World, tries: int, port: int) -> str:
    """Join once more, where gloo's connections of rank 0 break `tries` times, and sum."""
    first.close()
    os.environ["MASTER_PORT"] = str(port)
    left = [tries if first.rank == 0 else 0]

    class Broken(dist.ProcessGroupGloo):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            left[0] -= 1
            if not left[0]:
                patch.undo()
            raise RuntimeError("Gloo connectFullMesh failed with Connection closed by peer")

    with pytest.MonkeyPatch.context() as patch:
        if left[0]:
            patch.setattr(dist.distributed_c10d, "ProcessGroupGloo", Broken)
        try:
            world = World.from_environment("cpu", patience=timedelta(seconds=30))
        except RankLostError as error:
            return str(error)
    assert left == [0]
    total = int(world.all_reduce_sum(torch.tensor([world.rank + 1])))
    world.close()
    return str(total)


def test_connections_that_break_at_the_start_are_made_again() -> None:
    assert run_ranks(breaking, 2, 2, free_port()) == ["3", "3"]


def test_connections_that_always_break() -> None:
    assert run_ranks(breaking, 2, 3, free_port()) == ["another process of this run was lost during the start"] * 2


def awaited(_: World) -> None:
    environment = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    with pytest.raises(UsageError, match="MASTER_PORT is not set"):
        World.from_environment("cpu", environment=environment)
    environment["MASTER_PORT"] = str(free_port())
    with pytest.raises(RankLostError, match="lost during the start"):
        World.from_environment("cpu", environment=environment, patience=timedelta(seconds=1))


def test_ranks_that_never_come() -> None:
    """In a process of its own, as above."""
    run_ranks(awaited, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="has no GPU") as caught:
        World.from_environment("cuda", environment={})
    assert caught.value.hint == "set runtime.device to cpu"
