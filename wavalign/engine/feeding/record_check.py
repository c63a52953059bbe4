"""Every record of a run, looked at before training: structure, targets, words, sound files, what rewards ask.

One pass over all records that have an index; of a stream only what has been read can be known, which is said.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

from wavalign.engine.feeding.feeds import located
from wavalign.engine.feeding.lengths import Lengths, clip_seconds, nothing_left
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import AudioClip, Dialogue
from wavalign.plugins.dialogues import flaws

SHOWN = 5
"""Problems of a heading that are shown; the others are counted."""
EVERY = 2000
"""Records between two words of progress."""
Ask = Callable[[Dialogue], str | None]
"""What a dialogue lacks, None for nothing."""


@final
@dataclass(frozen=True, slots=True)
class Demands:
    """What is asked of the records of one heading."""

    target: bool
    """Whether they are imitated."""
    target_sound: bool
    """Whether the sound of targets is read."""
    words: Callable[[Dialogue], None] | None
    """Raises DataError where the architecture cannot write them; None where it is not known yet."""
    needs: Sequence[tuple[str, Ask]]
    """Rewards and metrics by name."""
    whole: Callable[[Dialogue], None] | None = None
    """Raises DataError for a record whose targets are not those that are asked for."""
    lengths: Lengths | None = None
    """Bounds on them; None where it is not known yet what they are as tokens."""
    enough: Callable[[Sequence[float]], str | None] | None = None
    """For fitting a codec: why clips of so many seconds are too little."""


@final
@dataclass(frozen=True, slots=True)
class RecordsLook:
    """What was found under one heading."""

    records: int
    streams: int
    """Sources that cannot be looked at whole."""
    remote: int
    """Sound files that lie elsewhere and were not looked for."""
    dropped: int
    """Left out because they are too long, as the recipe says."""
    bad: int
    problems: tuple[DataError, ...]
    """The first of them."""


def check_records(
    sources: Sequence[DataSource], demands: Demands, progress: Callable[[str, int, int], None]
) -> RecordsLook:
    """Look at every record of prepared sources."""
    files, found, bad, records, dropped = SoundFiles(), list[DataError](), 0, 0, 0
    indexed = [source for source in sources if source.stream() is None]
    total = sum(len(source) for source in indexed)
    for source in indexed:
        before = dropped
        for index in range(len(source)):
            problem, leave = _judged(source, index, demands, files)
            records, dropped = records + 1, dropped + leave
            if problem is not None:
                bad += 1
                found += [problem] if len(found) < SHOWN else []
            if records % EVERY == 0:
                progress("checking records", records, total)
        if demands.lengths is not None and dropped - before == len(source) > 0:
            bad, found = bad + len(source), [*found, nothing_left(len(source), demands.lengths.bounds)]
    if demands.enough is not None and indexed and len(indexed) == len(sources) and not bad:
        lacking = _too_little_sound(indexed, demands.enough)
        bad, found = bad + len(lacking), [*found, *lacking]
    return RecordsLook(records, len(sources) - len(indexed), files.remote, dropped, bad, tuple(found))


def _too_little_sound(
    sources: Sequence[DataSource], enough: Callable[[Sequence[float]], str | None]
) -> list[DataError]:
    """Why a codec cannot be fitted on all the sound there is; nothing where some of it lies elsewhere."""
    clips = [
        turn.audio
        for source in sources
        for dialogue in map(source.record, range(len(source)))
        for turn in (*dialogue.messages, *([dialogue.target] if dialogue.target is not None else []))
        if turn.audio is not None
    ]
    if not clips:
        return [DataError("no dialogue of data.demonstrations has sound", hint="a codec is fitted on sound")]
    seconds = [clip_seconds(clip) for clip in clips]
    known = [each for each in seconds if each is not None]
    lacking = enough(known) if len(known) == len(seconds) else None
    return [DataError(lacking, hint="give the stage more sound")] if lacking else []


def _judged(source: DataSource, index: int, demands: Demands, files: "SoundFiles") -> tuple[DataError | None, bool]:
    """The first thing wrong with a record, and whether it is left out instead."""
    try:
        dialogue = source.record(index)
        if demands.whole is not None:
            demands.whole(dialogue)
        found = (problem for single in dialogue.singles for problem in _problems(single, demands, files))
        problem = next(found, None)
        if problem is not None or demands.lengths is None:
            return problem, False
        long = demands.lengths.too_long(dialogue)
    except DataError as error:
        return error, False
    drop = long is not None and demands.lengths.bounds.drop
    return None if drop else long, drop


def _problems(dialogue: Dialogue, demands: Demands, files: "SoundFiles") -> Iterator[DataError]:
    for flaw in flaws(dialogue):
        yield DataError(f"{dialogue.label}: {flaw}", hint="correct the record or take it out")
    if demands.target and dialogue.target is None:
        hint = "give it one, or take it out of data.demonstrations"
        yield DataError(f"{dialogue.label}: there is no target to imitate", hint=hint)
    if demands.words is not None:
        try:
            with located(dialogue):
                demands.words(dialogue)
        except DataError as error:
            yield error
    turns = (*dialogue.messages, *([dialogue.target] if dialogue.target and demands.target_sound else []))
    for turn in turns:
        wrong = files.problem(turn.audio) if turn.audio is not None else None
        if wrong is not None:
            yield DataError(f"{dialogue.label}: {wrong.message}", hint=wrong.hint)
    for name, ask in demands.needs:
        lacking = ask(dialogue)
        if lacking:
            yield DataError(f"{dialogue.label}: {name}: {lacking}", hint="set its options, or take the record out")


@final
class SoundFiles:
    """Whether sound files are there; each is looked for once."""

    def __init__(self) -> None:
        self.remote = 0
        self._known: dict[str, DataError | None] = {}

    def problem(self, clip: AudioClip) -> DataError | None:
        """What keeps a local file from being read, None for one that is there, or lies elsewhere."""
        if not clip.has_sound:
            return None
        if clip.url not in self._known:
            self._known[clip.url] = self._look(clip)
        return self._known[clip.url]

    def _look(self, clip: AudioClip) -> DataError | None:
        path = clip.url.removeprefix("file://")
        if "://" in path:
            self.remote += not path.startswith("cell://")
            return None
        try:
            size = os.stat(audio.as_written(path)).st_size
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            hint = "check that the file is there; relative paths count from the file that names them"
            return DataError(f"{clip.url}: the sound file cannot be opened: {said}", hint=hint)
        if not os.access(audio.as_written(path), os.R_OK):
            return DataError(f"{clip.url}: the sound file may not be read", hint="change its permissions")
        if size == 0:
            return DataError(f"{clip.url}: the sound file is empty", hint="write it again or take its record out")
        return None
