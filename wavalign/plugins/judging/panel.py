"""All judges and samples of one answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

from wavalign.errors import PreflightError
from wavalign.plugins.api import Process
from wavalign.plugins.judging.asking import Judge, NoVerdictError, Question, Shared
from wavalign.plugins.judging.limits import WINDOW, Pace, share
from wavalign.plugins.judging.prompt import Material
from wavalign.plugins.judging.rubric import Rubric, passed
from wavalign.plugins.judging.settings import Retries, Service


@final
@dataclass(slots=True)
class Opinions:
    """What was said of one answer."""

    values: dict[str, float] = field(default_factory=dict)
    """By `JUDGE/SAMPLE`."""
    axes: dict[str, float] = field(default_factory=dict)
    """By `JUDGE/SAMPLE/AXIS`."""
    why: str = ""
    """The first judge's reasons."""
    failures: list[str] = field(default_factory=list)
    """Why others gave no value."""


@final
class Panel:
    """Judges that are asked one after another, each so many times."""

    def __init__(self, services: Mapping[str, Service], rubric: Rubric, *, samples: int, shared: Shared) -> None:
        self._services, self._rubric, self._samples, self._shared = services, rubric, samples, shared
        self._judges: list[Judge] = []

    def open(self, process: Process, retries: Retries, *, seconds: float, concurrency: int) -> None:
        """Take this process's share of the limits; `seconds` bounds a try. Raises PreflightError; nothing is sent."""
        for name, service in self._services.items():
            requests = share(
                service.requests_per_minute, process.rank, process.processes, f"requests_per_minute of judge `{name}`"
            )
            tokens = share(
                service.tokens_per_minute, process.rank, process.processes, f"tokens_per_minute of judge `{name}`"
            )
            self._check_wait(name, requests, concurrency, process.timeout)
            pace = Pace(requests, tokens)
            self._judges.append(Judge(name, service, retries=retries, shared=self._shared, seconds=seconds, pace=pace))

    def opinions(self, material: Material, fewest: int, until: float) -> Opinions:
        """Ask until all have answered, or too few can; raises RewardStopped."""
        found = Opinions()
        spare = self._samples * len(self._judges) - fewest
        for sample in range(self._samples):
            for judge in self._judges:
                try:
                    self._one(judge, Question(self._rubric, material, sample), found, until)
                except NoVerdictError as error:
                    found.failures.append(str(error))
                if len(found.failures) > spare:
                    return found
        return found

    def close(self) -> None:
        """End what is in flight."""
        for judge in self._judges:
            judge.close()

    def _one(self, judge: Judge, question: Question, found: Opinions, until: float) -> None:
        """One sample of one judge: step after step, as long as the answer passes."""
        said: dict[str, float] = {}
        why = []
        for name, step in self._rubric.steps.items():
            verdict = judge.ask(question, step, until)
            said |= verdict.values
            why += [f"{name}: {verdict.why}" if len(self._rubric.steps) > 1 else verdict.why]
            if not passed(step, verdict.values):
                break
        place = f"{judge.name}/{question.sample}"
        found.values[place] = self._rubric.value(said)
        found.axes |= {f"{place}/{axis}": value for axis, value in said.items()}
        found.why = found.why or " ".join(filter(None, why))

    def _check_wait(self, name: str, requests: int | None, concurrency: int, timeout: float) -> None:
        """Refuse limits under which answers that are judged at a time wait longer for their turn than they may."""
        if requests is None:
            return
        asked = self._samples * len(self._rubric.steps)
        if asked * concurrency * WINDOW / requests > timeout and concurrency > 1:
            fits = max(1, int(timeout * requests / WINDOW / asked))
            message = f"judge `{name}` may be sent {requests:,} requests a minute by this process"
            raise PreflightError(
                f"{message}, and {concurrency} answers at a time, {asked} requests each, would wait beyond the timeout",
                hint=f"set concurrency to {fits} or less, or raise the reward's timeout, which is {timeout:g} s",
            )


def details(found: Opinions) -> Iterator[tuple[str, float | str]]:
    """What is worth showing beside the value."""
    yield from found.values.items()
    if len(found.axes) > len(found.values):
        yield from found.axes.items()
    if found.why:
        yield "why", found.why
    if found.failures:
        yield "failed", f"{len(found.failures)}, first: {found.failures[0]}"
