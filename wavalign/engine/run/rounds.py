"""Rounds of a run that may end early: which was the best, which are not begun any more, what is taken up after them.

Everything is read off the run's files, so that a resume decides as the run did: the value of a round is the last one
that its stages logged, of the weights that they left.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.run.watching import Watch
from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import read_json
from wavalign.engine.state.folder import RunFolder
from wavalign.engine.step.best_of import is_best_of
from wavalign.errors import PreflightError
from wavalign.schema.stage import Round


@final
@dataclass(frozen=True, slots=True)
class RoundsSoFar:
    """What a watched repetition has come to."""

    done: int
    """Rounds that are complete."""
    best: int
    """The round to take up: the best one, or the last where none has a value; 0 before the first is complete."""
    value: float | None
    """What was measured in the best one."""
    over: bool
    """Whether no further round is begun."""


@final
class Rounds:
    """The repetitions of a run on one rank; every rank calls every method alike."""

    def __init__(self, plan: Plan, folder: RunFolder, world: World, say: Callable[[str], None]) -> None:
        self.plan, self.folder, self.world, self._say = plan, folder, world, say
        self._said = set[str]()

    def skips(self, stage: StagePlan) -> bool:
        """Whether a stage is not done, because its rounds have ended."""
        mine = stage.stage.round
        if mine is None or mine.stop_early is None or mine.number == 1:
            return False
        so_far = self._so_far(mine)
        if so_far.over and mine.repeat not in self._said:
            self._said.add(mine.repeat)
            value = "" if so_far.value is None else f" ({mine.stop_early.metric} {so_far.value:.4g})"
            ends = f"the rounds of {mine.repeat} end early, after {so_far.done} of {mine.of}"
            self._say(f"{ends}; the best is number {so_far.best}{value}")
        return so_far.over

    def folder_of(self, name: str, reader: StagePlan) -> Path:
        """Folder of a stage that `reader` takes up; of rounds that may end early, from outside, that of the best."""
        named = next(each for each in self.plan.stages if each.name == name)
        theirs, ours = named.stage.round, reader.stage.round
        inside = theirs is not None and ours is not None and theirs.repeat == ours.repeat
        if theirs is not None and theirs.stop_early is not None and not inside:
            name = _in_round(name, theirs, self._so_far(theirs).best)
        return self.folder.stages / name

    def _so_far(self, rounds: Round) -> RoundsSoFar:
        found = look(self.plan, self.folder, rounds) if self.world.is_first else None
        so_far: RoundsSoFar = self.world.broadcast(found)
        return so_far


def last_model(plan: Plan, folder: RunFolder) -> StagePlan | None:
    """The stage whose model is that of the run: the last that left one, of rounds that may end early in the best."""
    left = [stage for stage in plan.stages if (folder.stages / stage.name / "model").exists()]
    if not left:
        return None
    last, rounds = left[-1], left[-1].stage.round
    if rounds is None or rounds.stop_early is None:
        return last
    name = _in_round(last.name, rounds, look(plan, folder, rounds).best)
    return next(stage for stage in plan.stages if stage.name == name)


def before(stage: StagePlan) -> list[str]:
    """Names of the same stage in the rounds before, in order; none outside rounds."""
    mine = stage.stage.round
    return [] if mine is None else [_in_round(stage.name, mine, number) for number in range(1, mine.number)]


def look(plan: Plan, folder: RunFolder, rounds: Round) -> RoundsSoFar:
    """What the complete rounds of a repetition come to; raises PreflightError where its value was not measured."""
    assert rounds.stop_early is not None
    watch, done = Watch(rounds.stop_early), 0
    for stages in _complete(plan, folder, rounds):
        done += 1
        watch.see(_value(folder, stages, watch), done)
        if watch.is_over:
            break
    return RoundsSoFar(done, watch.step or done, watch.best, watch.is_over)


def _complete(plan: Plan, folder: RunFolder, rounds: Round) -> Iterator[list[StagePlan]]:
    """The stages of every round that was done to its end, in order."""
    for number in range(1, rounds.of + 1):
        stages = [each for each in plan.stages if _is_of(each, rounds, number)]
        marks = [folder.complete(each.name) for each in stages]
        if not all(mark.exists() for mark in marks) or any(read_json(mark).get("skipped") for mark in marks):
            return
        yield stages


def _is_of(stage: StagePlan, rounds: Round, number: int) -> bool:
    mine = stage.stage.round
    return mine is not None and (mine.repeat, mine.number) == (rounds.repeat, number)


def _value(folder: RunFolder, stages: Sequence[StagePlan], watch: Watch) -> float:
    """The watched value of a round: the last that was measured, on the weights that were left."""
    split = watch.watched.metric.split("/", 1)[0]
    lines = _measured(folder, {each.name for each in stages}, split)
    if not lines:
        raise PreflightError(
            f"`{watch.watched.metric}` decides when rounds end, and the round of {stages[0].name} did not measure it",
            hint="let a stage of every round measure: evaluation.metrics, with evaluation.at_end",
        )
    # A round may measure in several stages: the value is that of the last one that has it.
    lines = [each for each in lines if watch.watched.metric.split("/", 1)[1] in each] or lines
    last = lines[-1]["stage"]
    held = read_json(folder.complete(last))["model"]
    kept = [each for each in lines if held and (each["stage"], each["step"]) == (last, held["step"])]
    return watch.pick({split: (kept or lines)[-1]})


def _measured(folder: RunFolder, names: set[str], split: str) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of some stages and one split; of its best of n answers where it has no others."""
    if not folder.metrics.exists():
        return []
    with folder.metrics.open(encoding="utf-8") as file:
        lines = [json.loads(text) for text in file]
    mine = [line for line in lines if line.get("stage") in names]
    plain = [line for line in mine if line.get("split") == split]
    return plain or [line for line in mine if is_best_of(str(line.get("split")), split)]


def _in_round(name: str, rounds: Round, number: int) -> str:
    """Name of the same stage in another round."""
    own = name.removeprefix(f"{rounds.repeat}-{rounds.number}.")
    return f"{rounds.repeat}-{number}.{own}"
