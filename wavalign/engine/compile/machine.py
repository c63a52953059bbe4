"""A cluster that is not here, as a person states it: `gpus=8x80,nodes=8,tflops=989`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import final

from wavalign.engine.compile.plan import Cluster
from wavalign.errors import UsageError

GIB, GIGA = 2**30, 1e9


@final
@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs on nodes, and the rates by which times are estimated; the defaults are those of 8 H100 on InfiniBand."""

    gpus: int
    """On a node."""
    gib: float
    """Memory of one GPU."""
    nodes: int = 1
    tflops: float = 989.0
    """Of one GPU at its peak, dense bfloat16, 10^12 a second."""
    utilisation: float = 0.4
    """Share of the peak that training reaches."""
    memory: float = 3350.0
    """GB a second from one GPU's memory."""
    link: float = 450.0
    """GB a second that one GPU sends to others of its node."""
    network: float = 50.0
    """GB a second that one GPU sends to other nodes."""
    store: float = 2.0
    """GB a second that one node writes of a checkpoint."""
    failures: float = 1.6e-4
    """Of one node in an hour."""
    restart: float = 300.0
    """Seconds from a failure to the first step again."""

    @property
    def processes(self) -> int:
        return self.gpus * self.nodes

    @property
    def cluster(self) -> Cluster:
        """What a plan is compiled for."""
        return Cluster(gpus=self.processes, gpu_bytes=int(self.gib * GIB), cores=1, host_bytes=0)

    @property
    def wire(self) -> float:
        """Bytes a second of the slowest way between two neighbours of a ring."""
        return GIGA * (self.network if self.nodes > 1 else self.link)


def parse_machine(text: str) -> Machine:
    """A machine from `key=value` parts; raises UsageError with what can be said."""
    given: dict[str, str] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        key, equals, value = (each.strip() for each in part.partition("="))
        if not equals or key in given:
            problem = f"`{key}` is given twice" if key in given else f"`{part}` is not key=value"
            raise UsageError(f"--cluster: {problem}", hint=_HINT)
        given[key] = value
    count, cross, gib = given.pop("gpus", "").partition("x")
    if not cross:
        raise UsageError("--cluster lacks gpus=COUNTxGIB, the GPUs of one node", hint=_HINT)
    numbers = {"gpus": _number("gpus", count, whole=True), "gib": _number("gpus", gib)}
    known = {each.name for each in fields(Machine)} - {*numbers}
    for key, value in given.items():
        if key not in known:
            raise UsageError(f"--cluster knows no `{key}`", hint=_HINT)
        numbers[key] = _number(key, value, whole=key == "nodes")
    return _made(numbers)


def _made(numbers: Mapping[str, float]) -> Machine:
    whole = {key: int(numbers[key]) for key in ("gpus", "nodes") if key in numbers}
    machine = Machine(**{**numbers, **whole})  # type: ignore[arg-type]
    if machine.utilisation > 1:
        raise UsageError("--cluster: utilisation is a share, 0.4 of the peak for example")
    return machine


def _number(key: str, text: str, *, whole: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e12 or (whole and value != int(value)):
        kind = "a whole number above 0" if whole else "a number above 0"
        raise UsageError(f"--cluster: `{text}` is no value of {key}, which is {kind}", hint=_HINT)
    return value


_HINT = (
    "for example gpus=8x80,nodes=8,tflops=989,utilisation=0.4,memory=3350,link=450,network=50,store=2,failures=1.6e-4,"
    "restart=300: GPUs of a node x GiB, then rates as docs/scaling.md says"
)
