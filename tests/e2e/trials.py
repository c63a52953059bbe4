"""Runs whose ranks are killed at a chosen moment, drawn by a seed; each rank is a process of its own."""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.distributed import free_port
from tests.e2e.runs import PRELOADED, environment
from tests.engine.run.test_trainer import assert_same_run
from tests.toy.compiled import compiled, put
from wavalign.engine.compile.plan import Plan
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import Interrupted, WavAlignError

OPERATORS = {"sampling": "rollout", "scoring": "reward", "backward": "backward", "update": "update"}
POINTS = (*OPERATORS, "checkpoint", "manifest")
KINDS: tuple[tuple[str, int], ...] = tuple((name, size) for name in ("plain", "zero2", "zero3") for size in (1, 2))
"""Engine and number of ranks."""
MOST = {"sampling": 3, "scoring": 3, "backward": 12, "update": 3, "checkpoint": 20, "manifest": 6}
"""So many times at least does a run come to each point, but for one or two that other ranks have more of."""
SOON = 30.0
"""Seconds in which the others have ended when one was killed; then they are ended, as a launcher would."""
PATIENCE = 150.0


@dataclass(frozen=True, slots=True)
class Trial:
    """When which rank is killed."""

    engine: str
    size: int
    point: str
    rank: int
    at: int
    """How many times it has come there, from 1."""
    before: bool
    """Whether it is killed before what it came to do, or behind it."""


def drawn(seed: int) -> Trial:
    """The trial of a seed: the first of them have every kind and point once."""
    rng = random.Random(seed)
    engine, size = KINDS[seed % len(KINDS)]
    point = POINTS[seed // len(KINDS) % len(POINTS)]
    rank = 0 if point == "manifest" else rng.randrange(size)
    most = MOST[point] if rank == 0 or point in OPERATORS else 3  # others than the first only save their part
    return Trial(engine, size, point, rank, rng.randint(1, most), rng.random() < 0.5)


def plan_of(folder: Path, engine: str, size: int) -> Plan:
    """Three steps, a checkpoint after each."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = {"type": "plain"} if engine == "plain" else {"type": "deepspeed", "zero": int(engine[-1])}
    return compiled(
        folder,
        put("runtime.engine", kind),
        put("runtime.processes", size),
        put("runtime.checkpoint_every", 1),
        put("runtime.log_rollouts_every", 1),
        put("steps", 3),
        put("batch.micro_batch", 4),
        put("evaluation.every", 2),
        put("evaluation.limit", 6),
    )


def run(plan: Plan, folder: Path, *, resume: bool, trial: Trial | None = None, largest: int = 0) -> list[int]:
    """Every rank's exit code; minus the signal where one ended it. No file grows beyond `largest` bytes, 0 for any."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "tests.e2e.trials"])
    (folder / "run").mkdir(exist_ok=True)
    port, ranks = free_port(), list[ForkServerProcess]()
    for rank in range(plan.processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(plan.processes)}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        mine = trial if trial and trial.rank == rank else None
        arguments = (plan.to_json(), str(folder), resume, place, mine, largest)
        ranks.append(context.Process(target=_rank, args=arguments, daemon=True))
        ranks[-1].start()
    end = time.monotonic() + PATIENCE
    while any(each.exitcode is None for each in ranks):
        if any(each.exitcode for each in ranks):
            end = min(end, time.monotonic() + SOON)
        if time.monotonic() > end:
            for each in ranks:
                each.kill()
        for each in ranks:
            each.join(0.05)
    return [int(each.exitcode or 0) for each in ranks]


def wholly(folder: Path, engine: str, size: int) -> Path:
    """A run that nobody disturbs."""
    codes = run(plan_of(folder, engine, size), folder, resume=False)
    assert codes == [0] * size, said(folder)
    return folder / "run"


def tried(folder: Path, trial: Trial, whole: Path) -> bool:
    """Kill, resume and compare with the run that went through; gives whether it came to be killed."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    plan = plan_of(folder, trial.engine, trial.size)
    codes = run(plan, folder, resume=False, trial=trial)
    killed = codes[trial.rank] == -signal.SIGKILL
    assert killed or codes == [0] * trial.size, f"{trial}: {codes}\n{said(folder)}"
    if killed:
        codes = run(plan, folder, resume=True)
        assert codes == [0] * trial.size, f"{trial}, resumed: {codes}\n{said(folder)}"
    assert_same_run(folder / "run", whole)
    left = [path.name for path in (folder / "run").rglob(".tmp-*")]
    assert left == [], f"{trial}: {left}"
    return killed


def said(folder: Path) -> str:
    """What the ranks have said."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("said-*.txt")))


# --- in a rank --------------------------------------------------------------------------------------------------------


def _rank(plan: str, folder: str, resume: bool, place: Mapping[str, str], trial: Trial | None, largest: int) -> None:
    log = os.open(f"{folder}/said-{place['RANK']}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environment(**(place if place["WORLD_SIZE"] != "1" else {})))
    from wavalign.engine.rank import run_rank  # after the environment: it is read at once

    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    if trial is not None:
        _arm(trial, f"{folder}/run/checkpoints")
    code = 0
    try:
        run_rank(RunFolder(Path(folder) / "run"), plan=Plan.from_json(plan), resume=resume)
    except WavAlignError as error:
        sys.stderr.write(f"{error.code}: {error.message}\n{error.hint}\n")
        code = error.exit_code
    except Interrupted as stopped:
        code = stopped.exit_code
    sys.stderr.flush()
    os._exit(code)


def _arm(trial: Trial, checkpoints: str) -> None:
    """Let this process end where the trial says."""
    seen = 0

    def counted() -> bool:
        nonlocal seen
        seen += 1
        return seen == trial.at

    if trial.point in OPERATORS:
        _arm_operator(OPERATORS[trial.point], counted, before=trial.before)
        return

    if trial.rank:
        _arm_save(trial.engine, counted, before=trial.before)
        return

    def watch(event: str, details: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            return
        path = next((str(each) for each in details if isinstance(each, str | os.PathLike)), "")
        if not path.startswith(checkpoints):
            return
        manifest = "checkpoint.json" in path or event == "os.rename"
        if (trial.point == "checkpoint" or manifest) and counted():
            _end()

    sys.addaudithook(watch)


def _arm_operator(name: str, counted: Callable[[], bool], *, before: bool) -> None:
    from wavalign.engine.step.operators import FUNCTIONS

    function = FUNCTIONS[name]

    def bind(live: Any, plan: Any) -> Any:
        original = function.bind(live, plan)

        def call(values: Any) -> Any:
            due = counted()
            if due and before:
                _end()
            made = original(values)
            if due:
                _end()
            return made

        return call

    FUNCTIONS[name] = replace(function, bind=bind)


def _arm_save(engine: str, counted: Callable[[], bool], *, before: bool) -> None:
    if engine == "plain":
        from wavalign.engine.backends.plain import PlainBackend as Kind
    else:
        from wavalign.engine.backends.deepspeed import DeepSpeedBackend as Kind  # type: ignore[assignment]
    original = Kind.save

    def save(self: Any, folder: Path) -> None:
        due = counted()
        if due and before:
            _end()
        original(self, folder)
        if due:
            _end()

    setattr(Kind, "save", save)  # noqa: B010 - a final attribute


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
