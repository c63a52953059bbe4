"""What a judge says of an answer: a model behind a chat completions endpoint that is sent text and sound.

r = the mean (or median) over judges and samples of the rubric's number: per reply the mean of its axes by weight. A
reply that is not exactly in the rubric's form is no number; fewer valid ones than `at_least` are a failure.
The variance of the combined value is that of the mean, s^2 / n; of a median pi/2 times as much.
Source: the judge rewards of WavAlign (arXiv 2604.14932); several samples against its noise as in
self-consistency (arXiv 2203.11171). docs/judge.md says what fools it.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

from pydantic import Field, model_validator

from wavalign.errors import ResumeError
from wavalign.plugins.api import Process, Reward
from wavalign.plugins.batch import Dialogue, Rollout, Scored
from wavalign.plugins.judging.asking import Shared
from wavalign.plugins.judging.combining import Combine, combined, spread, variance
from wavalign.plugins.judging.ledger import Ledger
from wavalign.plugins.judging.panel import Panel, details
from wavalign.plugins.judging.prompt import Shown, lacks, material
from wavalign.plugins.judging.quoting import cleaned
from wavalign.plugins.judging.replies import Replies
from wavalign.plugins.judging.rubric import Hears, Rubric, load_rubric, shipped_rubrics
from wavalign.plugins.judging.settings import Budget, Retries, Service
from wavalign.plugins.judging.sound import is_silent
from wavalign.plugins.speech.answers import sound_of
from wavalign.schema.base import Params, RecipePath

COUNTS = ("requests", "cached", "judged", "unreadable")
"""What is counted beside `cost`, and beside the failures, which the engine counts."""
FREE = frozenset(
    {
        *("budget", "concurrency", "retries", "request_seconds", "cache"),
        *(f"judges.*.{name}" for name in ("api_key", "prices", "requests_per_minute", "tokens_per_minute")),
    }
)
"""Options that change no value."""
LONGEST = 3600.0
"""Seconds that an answer takes at most where nobody says."""
_MARGIN = 0.95
"""Of a call's timeout what a judge is given, so that it says itself why there is no answer."""


@final
class JudgeParams(Params):
    """Who judges, by which rubric, how often, and for how much."""

    judges: Mapping[str, Service] = Field(min_length=1)
    """The models that judge, by names of your own."""
    rubric: str = "overall"
    """Name of a rubric that comes along."""
    rubric_file: RecipePath | None = None
    """A rubric of your own, a YAML file, in its place."""
    hears: Hears | None = None
    """What is sent as sound: the `answer`, `both` question and answer, or `nothing`; omitted, as the rubric says."""
    samples: int = Field(default=1, ge=1, le=100)
    """Replies of every judge to one answer."""
    combine: Combine = "mean"
    """What is made of several replies."""
    at_least: int | None = Field(default=None, ge=1, le=10_000)
    """Fewest valid replies that make a value; omitted, more than half of those asked for."""
    budget: Budget = Budget()
    """What the run may spend; kept over kills and resumes."""
    concurrency: int = Field(default=8, ge=1, le=512)
    """Answers that are judged at a time, of every process."""
    retries: Retries = Retries()
    """What is tried again, and how."""
    request_seconds: float = Field(default=30.0, gt=0, le=3600)
    """Longest time of one request; all that an answer takes lies within the reward's `timeout`."""
    max_characters: int = Field(default=4000, ge=100, le=100_000)
    """Of a turn that are shown; what is cut says so."""
    max_seconds: float = Field(default=60.0, gt=0, le=600)
    """Of a sound that are sent; what is cut says so."""
    cache: bool = True
    """Keep valid replies in the user's cache, by content, so that nothing is paid twice."""

    @model_validator(mode="after")
    def _consistent(self) -> "JudgeParams":
        if self.rubric_file is None and self.rubric not in shipped_rubrics():
            raise ValueError(f"there is no rubric {self.rubric}; there are {', '.join(shipped_rubrics())}")
        if self.at_least is not None and self.at_least > self.asked:
            raise ValueError(f"at_least is {self.at_least}, and {self.asked} replies are asked for")
        if self.budget.money is not None and any(each.prices is None for each in self.judges.values()):
            raise ValueError("budget.money needs the prices of every judge; budget.requests needs none")
        return self

    @property
    def asked(self) -> int:
        """Replies to an answer."""
        return self.samples * len(self.judges)

    @property
    def fewest(self) -> int:
        """Valid ones that make a value."""
        return self.asked // 2 + 1 if self.at_least is None else self.at_least

    def criteria(self) -> Rubric:
        """The rubric; raises PreflightError."""
        return load_rubric(self.rubric, self.rubric_file)

    def shown(self) -> Shown:
        """What a judge gets to see and hear."""
        hears = self.criteria().hears if self.hears is None else self.hears
        return Shown(hears, self.max_characters, self.max_seconds)


@final
class JudgeReward(Reward):
    """A judge's number."""

    Params = JudgeParams
    needs: ClassVar[frozenset[str]] = frozenset({"text", "waveform"})
    range: ClassVar[tuple[float, float]] = (1.0, 5.0)
    free_options: ClassVar[frozenset[str]] = FREE
    params: JudgeParams

    def __init__(self, params: JudgeParams) -> None:
        super().__init__(params)
        self._rubric, self._shown = params.criteria(), params.shown()
        self.range = self._rubric.range  # type: ignore[misc]  # that of the class holds for most rubrics
        self.needs = self.needs_of(params) or type(self).needs  # type: ignore[misc]
        self.concurrency = params.concurrency
        self._priced = all(each.prices is not None for each in params.judges.values())
        self.counts = (*COUNTS, "cost") if self._priced else COUNTS
        self._timeout = LONGEST
        self._shared: Shared | None = None
        self._panel: Panel | None = None
        self._spent = {"requests": 0.0, "cost": 0.0}

    @classmethod
    def range_of(cls, params: JudgeParams) -> tuple[float, float] | None:
        """The rubric's scale."""
        return params.criteria().range

    @classmethod
    def needs_of(cls, params: JudgeParams) -> frozenset[str] | None:
        """The text alone where nothing is heard."""
        return frozenset({"text"}) if params.shown().hears == "nothing" else None

    @classmethod
    def instrument(cls, params: JudgeParams) -> str:
        """The models and what they are asked."""
        models = ", ".join(sorted({each.model for each in params.judges.values()}))
        name = params.rubric if params.rubric_file is None else Path(params.rubric_file).name
        return f"judge {models} by {name} ({params.criteria().digest[:8]})"

    @classmethod
    def dialogue_needs(cls, params: JudgeParams, dialogue: Dialogue) -> str | None:
        """A question that the judge gets to know."""
        return lacks(dialogue, params.criteria(), params.shown().hears)

    def join(self, process: Process) -> None:
        """Open the ledger, and take this process's share of the limits; nothing is sent."""
        given = self.params
        self._timeout = min(process.timeout, LONGEST) * _MARGIN
        name = "judge" if process.folder is None else process.folder.name
        ledger = Ledger(given.budget, folder=process.folder, patience=given.request_seconds + 1, name=name)
        self._shared = Shared(ledger, Replies(kept=given.cache, fresh=process.fresh))
        self._panel = Panel(given.judges, self._rubric, samples=given.samples, shared=self._shared)
        self._panel.open(process, given.retries, seconds=given.request_seconds, concurrency=given.concurrency)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Ask every judge; raises RewardStopped where the budget is used up, or a server refuses to serve."""
        if self._panel is None or self._shared is None:
            raise RuntimeError("the judge was not told where it scores: call `join` first")
        self._shared.check()
        if missing := self._nothing_to_judge(rollout):
            return missing
        until = time.monotonic() + self._timeout
        given = material(rollout, dialogue, self._rubric, self._shown)
        found = self._panel.opinions(given, self.params.fewest, until)
        shown = dict(details(found)) | ({"taken_out": float(given.taken_out)} if given.taken_out else {})
        values = list(found.values.values())
        if len(values) < self.params.fewest:
            said = f"{len(values)} valid replies of {self.params.asked}, at least {self.params.fewest} are needed"
            return Scored(None, f"{said} (first failure: {found.failures[0]})", shown)
        self._shared.count("judged")
        how = self.params.combine
        apart = spread(values)
        shown |= {} if apart is None else {"spread": apart}
        return Scored(combined(values, how), details=shown, variance=variance(values, how))

    def _nothing_to_judge(self, rollout: Rollout) -> Scored | None:
        if self._shown.hears == "nothing":
            said = cleaned(rollout.answer.text, self._shown.characters).text
            return None if said else Scored.absent("the answer has no text")
        sound = sound_of(rollout)
        if isinstance(sound, Scored):
            return sound
        return Scored.absent("the answer's sound is silent") if is_silent(sound) else None

    def tally(self) -> dict[str, float]:
        """What this process has asked and spent since the last time."""
        found = {} if self._shared is None else self._shared.counted()
        return {name: found.get(name, 0.0) for name in self.counts}

    def settle(self, totals: Mapping[str, float]) -> None:
        """Add what all processes have spent."""
        for name in self._spent:
            self._spent[name] += totals.get(name, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """What the run has spent, and by which rubric."""
        return {"requests": self._spent["requests"], "cost": self._spent["cost"], "rubric": self._rubric.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Hold on to what is spent, also where the ledger was lost; ResumeError for a rubric that was edited since."""
        if state["rubric"] != self._rubric.digest:
            what = self.params.rubric_file or self.params.rubric
            hint = "put it back, or start a new run: scores by two rubrics are not of one kind"
            raise ResumeError(f"the rubric {what} is not the one that the run was begun by", hint=hint)
        self._spent = {name: float(state[name]) for name in self._spent}
        if self._shared is not None:
            self._shared.ledger.carry(self._spent["cost"], int(self._spent["requests"]))

    def close(self) -> None:
        """End what is in flight."""
        if self._panel is not None and self._shared is not None:
            self._panel.close()
            self._shared.replies.close()
