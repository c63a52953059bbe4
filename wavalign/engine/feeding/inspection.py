"""Look at data record by record: what is there, how long it is, and everything that is wrong with it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np

from wavalign.engine.feeding.captured import captured_errors
from wavalign.engine.feeding.lengths import Lengths
from wavalign.errors import DataError, quoted
from wavalign.plugins import audio
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import SIDES, AudioClip, Dialogue, Message

ALWAYS = ("user.text", "user.audio", "target.text", "target.audio")
"""Columns that are reported also where no record has them."""
TASK_KEYS = ("task_type", "task")
"""Metadata that names a record's task."""
EVALUATION = "evaluation."
"""Headings that begin so are held out; the others are trained on."""
CountTokens = Callable[[Dialogue], Mapping[str, int]]
"""Lengths of a dialogue's rows by name; raises DataError."""


@final
@dataclass(frozen=True, slots=True)
class Heading:
    """What is looked at under one name."""

    name: str
    sources: Sequence[tuple[str, DataSource]]
    """With a label for each."""
    count_tokens: CountTokens | None = None
    lengths: Lengths | None = None
    """Bounds on its records, where the recipe sets any."""
    imitated: bool = False
    """Whether every record needs a target."""


@final
@dataclass(frozen=True, slots=True)
class RowProblem:
    """One thing wrong with one record."""

    heading: str
    where: str
    message: str
    """Begins with the file and line."""
    hint: str


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """How values are distributed."""

    count: int
    low: float
    median: float
    p95: float
    high: float
    total: float


@final
@dataclass(frozen=True, slots=True)
class ColumnLook:
    """One column over all records of a heading."""

    name: str
    unit: str
    """Of `spread`: characters, seconds, codes, tokens; empty for metadata."""
    present: int
    missing: int
    spread: Spread | None
    rates: Mapping[int, int]
    """Sound files by sample rate."""
    channels: Mapping[int, int]
    """Sound files by number of channels."""


@final
@dataclass(frozen=True, slots=True)
class HeadingLook:
    """All records of a heading."""

    heading: str
    sources: tuple[str, ...]
    records: int
    """Good ones."""
    bad: int
    """Rows that are no record."""
    left_out: int
    """By what the source's options say."""
    columns: tuple[ColumnLook, ...]
    roles: Mapping[str, int]
    tasks: Mapping[str, int]
    notes: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class DataLook:
    """Everything that was looked at."""

    headings: tuple[HeadingLook, ...]
    problems: tuple[RowProblem, ...]


def look_at(headings: Sequence[Heading], *, limit: int | None, sounds: bool) -> DataLook:
    """Look at the first `limit` records of every source; `sounds` opens each sound file's header."""
    prompts = _Prompts()
    looked, problems = [], []
    for heading in headings:
        look = _Look(heading, sounds=sounds, prompts=prompts)
        for label, source in heading.sources:
            look.source(label, source, limit)
        looked.append(look)
        problems += look.problems
    leaks = [leak for look in looked if look.name.startswith(EVALUATION) for leak in prompts.leaks(look)]
    return DataLook(tuple(look.result() for look in looked), (*problems, *leaks))


@final
@dataclass(slots=True)
class _Column:
    """Collects one column."""

    unit: str
    present: int = 0
    values: list[float] = field(default_factory=list)
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)


@final
@dataclass(slots=True)
class _Prompts:
    """Where each prompt stands, for finding it under two headings."""

    exact: dict[str, dict[int, str]] = field(default_factory=dict)
    """Heading -> prompt with its sound -> the first place."""
    words: dict[str, dict[int, str]] = field(default_factory=dict)
    """The same by the written words alone, where there are any."""

    def leaks(self, held_out: "_Look") -> list[RowProblem]:
        """Prompts of a held-out heading that are trained on; prompts with the same words are noted."""
        found = []
        exact, words = self.exact.get(held_out.name, {}), self.words.get(held_out.name, {})
        for name in (name for name in self.exact if not name.startswith(EVALUATION)):
            trained = self.exact[name]
            for key, where in exact.items():
                if key in trained:
                    message = f"{where}: the same prompt is trained on: {name}, {trained[key]}"
                    found.append(RowProblem(held_out.name, where, message, "take it out of one of the two"))
            alike = len(words.keys() & self.words.get(name, {}).keys())
            if alike:
                held_out.notes.append(f"the words of {alike} of its prompts stand in {name} too")
        return found


@final
class _Look:
    """Collects one heading."""

    def __init__(self, heading: Heading, *, sounds: bool, prompts: _Prompts) -> None:
        self.name, self.problems, self.notes = heading.name, list[RowProblem](), list[str]()
        self._imitated = heading.imitated
        self._heading, self._sounds, self._prompts = heading, sounds, prompts
        self._columns: dict[str, _Column] = {name: _Column(_unit(name)) for name in ALWAYS}
        self._roles: Counter[str] = Counter()
        self._tasks: Counter[str] = Counter()
        self._headers: dict[str, audio.SoundHeader | DataError] = {}
        self._unasked, self._silent, self._doubted = list[str](), list[str](), list[str]()
        self._records = self._left_out = self._repeated = self._long = 0
        self._imitable = self._answers = self._speechless = 0
        self._bad: set[tuple[str, str]] = set()

    def source(self, label: str, source: DataSource, limit: int | None) -> None:
        """Every record of a source, or the first `limit`."""
        places: dict[str, str] = {}
        rows = 0
        try:
            for where, found in source.inspect():
                if limit is not None and rows == limit:
                    self.notes.append(f"{label}: the first {limit} records")
                    return
                rows += 1
                if isinstance(found, DataError):
                    self._bad.add((label, where))
                    self._problem(where, found.message, found.hint)
                elif found is None:
                    self._left_out += 1
                else:
                    self._record(where, found)
                    self._same_id(found.id, where, places)
        except DataError as error:  # the source as a whole
            self._problem(label, error.message, error.hint)

    def result(self) -> HeadingLook:
        """What was found."""
        columns = tuple(
            ColumnLook(
                name, column.unit, column.present, self._records - column.present, _spread(column.values),
                dict(sorted(column.rates.items())), dict(sorted(column.channels.items())),
            )
            for name, column in sorted(self._columns.items(), key=lambda item: _order(item[0]))
            # Records of pairs have sides in the place of a target.
            if column.present or not name.startswith("target.") or not self._roles.keys() & set(SIDES)
        )  # fmt: skip
        return HeadingLook(
            heading=self.name,
            sources=tuple(label for label, _ in self._heading.sources),
            records=self._records,
            bad=len(self._bad),
            left_out=self._left_out,
            columns=columns,
            roles=dict(self._roles),
            tasks=dict(self._tasks.most_common()),
            notes=(*self.notes, *self._remarks()),
        )

    def _record(self, where: str, dialogue: Dialogue) -> None:
        self._records += 1
        turns = [(turn.role, turn) for turn in dialogue.messages]
        turns += dialogue.named_answers
        self._imitable += bool(dialogue.answers)
        self._answers += len(dialogue.answers)
        self._speechless += sum(answer.audio is None for answer in dialogue.answers)
        self._roles.update(role for role, _ in turns)
        for role in dict.fromkeys(role for role, _ in turns):
            self._turns(where, role, [turn for each, turn in turns if each == role])
        for key, value in dialogue.metadata.items():
            self._column(f"metadata.{key}").present += value is not None
        task = next((dialogue.metadata[key] for key in TASK_KEYS if dialogue.metadata.get(key) is not None), None)
        if task is not None:
            self._tasks[str(task)] += 1
        if not any(role == "user" for role, _ in turns):
            self._unasked.append(where)
        if not dialogue.answers and self._imitated:
            self._problem(where, f"{where}: there is no target to imitate", "add one, or use it as a prompt only")
        self._remember(where, dialogue)
        if self._heading.count_tokens is not None:
            self._tokens(where, dialogue, self._heading.count_tokens)
        if self._heading.lengths is not None:
            self._length(where, dialogue, self._heading.lengths)

    def _turns(self, where: str, role: str, turns: Sequence[Message]) -> None:
        """The messages of one role in one record."""
        text = self._column(f"{role}.text")
        lengths = [len(turn.text) for turn in turns if turn.text]
        text.present += bool(lengths)
        text.values += lengths
        clips = [turn.audio for turn in turns if turn.audio is not None]
        if not clips:
            return
        codes = [len(clip.codes) for clip in clips if clip.codes is not None]
        if codes:
            column = self._column(f"{role}.codes")
            column.present, column.values = column.present + 1, [*column.values, *codes]
        if not any(clip.has_sound for clip in clips):
            return
        sound = self._column(f"{role}.audio")
        sound.present += 1
        for clip in (each for each in clips if self._sounds and each.has_sound):
            header = self._header(clip)
            if isinstance(header, DataError):
                self._problem(where, f"{where}: {role}.audio: {header.message}", header.hint)
                continue
            sound.values.append(header.seconds)
            if header.silent:
                self._silent.append(f"{where}: {clip.url}")
            sound.rates[header.sample_rate] += 1
            sound.channels[header.channels] += 1

    def _header(self, clip: AudioClip) -> audio.SoundHeader | DataError:
        if clip.url not in self._headers:
            with captured_errors() as said:
                try:
                    self._headers[clip.url] = audio.header(clip)
                except DataError as error:
                    self._headers[clip.url] = error
            if said:
                self._doubted.append(f"{clip.url}: {quoted(said[0], 200)}")
        return self._headers[clip.url]

    def _remember(self, where: str, dialogue: Dialogue) -> None:
        """The prompt, by its words and by the content of its sound."""
        heard = []
        for turn in dialogue.messages:
            heard_here = turn.audio is not None and turn.audio.has_sound and self._sounds
            header = self._header(turn.audio) if heard_here and turn.audio is not None else None
            url = turn.audio.url if turn.audio is not None else ""
            heard.append(header.digest if isinstance(header, audio.SoundHeader) else url)
        words = tuple((turn.role, turn.text) for turn in dialogue.messages)
        exact = self._prompts.exact.setdefault(self.name, {})
        key = hash((words, tuple(heard)))
        self._repeated += key in exact
        exact.setdefault(key, where)
        if any(text for role, text in words if role == "user"):
            self._prompts.words.setdefault(self.name, {}).setdefault(hash(words), where)

    def _tokens(self, where: str, dialogue: Dialogue, count: CountTokens) -> None:
        try:
            lengths = count(dialogue)
        except DataError as error:
            self._problem(where, f"{where}: as tokens: {error.message}", error.hint)
            return
        for name, length in lengths.items():
            column = self._column(f"{name}.tokens")
            column.present += 1
            column.values.append(length)

    def _length(self, where: str, dialogue: Dialogue, lengths: Lengths) -> None:
        try:
            long = lengths.too_long(dialogue)
        except DataError as error:
            self._problem(where, f"{where}: as tokens: {error.message}", error.hint)
            return
        if long is not None and lengths.bounds.drop:
            self._long += 1
        elif long is not None:
            self._problem(where, long.message, long.hint)

    def _same_id(self, name: str, where: str, places: dict[str, str]) -> None:
        if name in places:
            message = f"{where}: id {name!r} was given at {places[name]} already"
            self._problem(where, message, "give every record its own id, or none an id")
        places.setdefault(name, where)

    def _remarks(self) -> list[str]:
        remarks = []
        if self._unasked:
            remarks.append(f"records without a message of the user: {len(self._unasked)}, first {self._unasked[0]}")
        if self._long and self._heading.lengths is not None:
            said = self._heading.lengths.bounds.said()
            remarks.append(f"{self._long} records are too long and are left out ({said})")
        if self._silent:
            remarks.append(f"sound files that are silent: {len(self._silent)}, first {self._silent[0]}")
        if self._doubted:
            remarks.append(f"sound files that their decoder finds odd: {len(self._doubted)}, first {self._doubted[0]}")
        if self._repeated:
            remarks.append(f"prompts that stood before: {self._repeated}")
        if 0 < self._speechless < self._answers:
            remarks.append(f"{self._speechless} of {self._answers} targets have no sound")
        if 0 < self._imitable < self._records and not self._imitated:
            remarks.append(f"{self._records - self._imitable} of {self._records} records have no target")
        rates = {rate for name in self._columns for rate in self._columns[name].rates}
        if len(rates) > 1:
            remarks.append("sound comes at several rates; it is resampled to the codec's when it is read")
        return remarks

    def _column(self, name: str) -> _Column:
        return self._columns.setdefault(name, _Column(_unit(name)))

    def _problem(self, where: str, message: str, hint: str) -> None:
        self.problems.append(RowProblem(self.name, where, message, hint))


def _unit(column: str) -> str:
    if column.startswith("metadata."):
        return ""
    return {"text": "characters", "audio": "seconds", "codes": "codes", "tokens": "tokens"}[column.rpartition(".")[2]]


def _order(column: str) -> tuple[int, str]:
    """Messages, target, tokens, metadata."""
    names = ("system", "user", "assistant", "target", *SIDES)
    first = column.partition(".")[0]
    if column.endswith(".tokens") and not column.startswith("metadata."):
        return len(names), column
    kind = {"text": "0", "audio": "1", "codes": "2"}.get(column.rpartition(".")[2], "")
    return (names.index(first), kind) if first in names else (len(names) + 1, column)


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    low, median, p95, high = (float(each) for each in np.quantile(values, (0.0, 0.5, 0.95, 1.0)))
    return Spread(len(values), low, median, p95, high, float(np.sum(values)))
