"""Functions on several gloo ranks of this machine, for tests."""

import multiprocessing
import os
import pickle
import random
import socket
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

PATIENCE = 120.0
"""Seconds until ranks that do not answer are stopped."""


_PORTS = range(20_000, 32_000)
"""Below those that the system hands out by itself: a listener of another test may have one of these a moment later."""


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = random.SystemRandom().choice(_PORTS)  # tests seed the module's own generator
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def run_ranks(function: Callable[..., Any], size: int, *arguments: object) -> list[Any]:
    """Call `function(world, *arguments)` on `size` ranks; gives what each returned, in order.

    `function` stands at the top of a module; arguments and results are pickled. Warnings are errors in the ranks, as in
    the tests. Raises AssertionError with the traceback of the first rank that failed.
    """
    context = multiprocessing.get_context("forkserver")
    # The server imports what takes seconds once for all ranks of all tests.
    context.set_forkserver_preload(["wavalign.engine.api", "wavalign.plugins.architectures.vita", "tests.distributed"])
    port, pipes, processes = free_port(), [], []
    for rank in range(size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_rank, args=(sender, (rank, size, port), dict(os.environ), function, arguments), daemon=True
        )
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    try:
        return _collect(pipes)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _collect(pipes: list[Connection]) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        ready = wait([pipe for rank, pipe in enumerate(pipes) if rank not in results], timeout=PATIENCE)
        assert ready, f"ranks {sorted(set(range(len(pipes))) - set(results))} did not answer in {PATIENCE} s"
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = pipes.index(pipe)
            try:
                failed, value = pickle.loads(pipe.recv_bytes())
            except EOFError:
                failed, value = True, "the process died"
            assert not failed, f"rank {rank}: {value}"
            results[rank] = value
    return [results[rank] for rank in range(len(pipes))]


def _rank(
    sender: Connection,
    place: tuple[int, int, int],
    environment: dict[str, str],
    function: Callable[..., Any],
    arguments: tuple[object, ...],
) -> None:
    """`place` is rank, size and port; `environment` the test's, which the server of processes began without."""
    import torch

    from wavalign.engine.state.distributed import World

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    rank, size, port = place
    os.environ.clear()
    os.environ.update(
        environment,
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        world = World.from_environment("cpu")
        # Not `send`: it would pass tensors as shared memory that ends with this process.
        sender.send_bytes(pickle.dumps((False, function(world, *arguments))))
        world.barrier()
        world.close()
    except BaseException:  # noqa: BLE001 - a rank reports whatever stopped it
        sender.send_bytes(pickle.dumps((True, traceback.format_exc())))
