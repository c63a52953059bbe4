"""What threads beside the ranks tell one another."""

import threading
import time

import pytest

from tests.distributed import run_ranks
from wavalign.engine.state.distributed import World
from wavalign.engine.state.side_channel import SideChannel
from wavalign.errors import RankLostError


def beside(world: World) -> list[list[int]]:
    """Two meetings in threads, while the main threads sum; all in their own order."""
    channel, found = world.beside(), list[list[int]]()
    thread = threading.Thread(target=lambda: found.extend(channel.gather(10 * n + world.rank) for n in range(4)))
    thread.start()
    for _ in range(5):
        world.barrier()
    thread.join()
    channel.barrier()
    return found


def test_gathers_beside_the_process_group() -> None:
    for found in run_ranks(beside, 3):
        assert found == [[10 * n, 10 * n + 1, 10 * n + 2] for n in range(4)]


def failing(world: World) -> str:
    """The second rank fails where the others wait."""
    channel = world.beside()
    assert isinstance(channel, SideChannel)
    if world.rank == 1:
        channel.fail()
        return ""
    with pytest.raises(RankLostError) as caught:
        channel.barrier()
    return caught.value.message


def test_one_that_fails_is_not_waited_for() -> None:
    assert run_ranks(failing, 2)[0] == "process 1 could not write its part of a checkpoint"


class Alone:
    """A store that nobody else writes to."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def set(self, key: str, value: str, /) -> None:
        self.values[key] = value

    def get(self, key: str, /) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str], /) -> bool:
        return all(key in self.values for key in keys)

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        raise AssertionError

    def delete_key(self, key: str, /) -> bool:
        return self.values.pop(key, None) is not None


def test_a_wait_ends_with_patience_or_when_given_up() -> None:
    channel = SideChannel(Alone(), rank=0, size=2, patience=0.2)
    with pytest.raises(RankLostError, match="process 1 did not write"):
        channel.barrier()
    patient = SideChannel(Alone(), rank=0, size=2, patience=60.0)
    threading.Timer(0.1, patient.give_up).start()
    began = time.monotonic()
    with pytest.raises(RankLostError, match="process 1 did not write"):
        patient.barrier()
    assert time.monotonic() - began < 10


def test_what_was_said_does_not_stay_in_the_store() -> None:
    store = Alone()
    channel = SideChannel(store, rank=0, size=1, patience=1.0)
    for _ in range(50):
        channel.barrier()
    assert len(store.values) <= 2
