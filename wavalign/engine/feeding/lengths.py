"""Dialogues that are too long, in tokens: for the recipe's bounds, or for the positions that the model has.

Rows are written and counted only where text and seconds of sound say that a bound may be passed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

import soundfile

from wavalign.engine.feeding.feeds import Encoder, Feed, Leaving
from wavalign.engine.state.distributed import World
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import AudioClip, Dialogue
from wavalign.schema.data import DataSection

SPARE = 512
"""Tokens allowed for what a layout puts around the words."""
PER_BYTE = 2
"""Tokens of a byte of UTF-8 at most; tokenizers of bytes make one or fewer."""
PER_CODE = 3
"""Tokens of a codec id at most: itself, and marks where a layout cuts sound into chunks."""
PER_SECOND = 1600
"""Tokens of a second of sound at most: 75 frames of 8 books, twice over and more."""


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """What a row of one heading may be long."""

    prompt: int | None
    target: int | None
    positions: int | None
    """Of the model, for prompt and target together; a prompt alone must leave one."""
    imitated: bool
    """Whether targets are part of the row."""
    drop: bool = False
    """Whether a longer one is left out; else it is an error."""

    @property
    def any(self) -> bool:
        return (self.prompt, self.target, self.positions) != (None, None, None)

    def said(self) -> str:
        """In words."""
        own = (("data.max_prompt_tokens", self.prompt), ("data.max_target_tokens", self.target))
        parts = [f"{name} {bound}" for name, bound in own if bound is not None]
        parts += [f"the model's {self.positions} positions"] if self.positions is not None else []
        return ", ".join(parts)


def bounds_of(data: DataSection, heading: str, positions: int | None) -> Bounds:
    """Bounds of a heading. Held-out ones are bound by the model alone and never left out: scores would move."""
    if heading.startswith("evaluation."):
        return Bounds(None, None, positions, imitated=False)
    imitated = heading in data.learned
    target = data.max_target_tokens if imitated else None
    return Bounds(data.max_prompt_tokens, target, positions, imitated, data.too_long == "drop")


@final
class Lengths:
    """Holds dialogues of one heading against its bounds."""

    def __init__(self, bounds: Bounds, encoder: Callable[[], Encoder], *, sounds: bool = True) -> None:
        """`encoder` is asked for where rows must be written; without `sounds` dialogues that have sound pass."""
        self.bounds, self._sounds = bounds, sounds
        self._encoder, self._made = encoder, list[Encoder]()

    def too_long(self, dialogue: Dialogue) -> DataError | None:
        """What is wrong with its length; None where it fits. Raises DataError where it cannot be written."""
        return next((found for found in map(self._too_long, dialogue.singles) if found is not None), None)

    def _too_long(self, dialogue: Dialogue) -> DataError | None:
        if not self.bounds.any or not self._may_pass(dialogue):
            return None
        if not self._made:
            self._made.append(self._encoder())
        encoder = self._made[0]
        prompt = encoder.prompt(dialogue).length
        target = encoder.target(dialogue).length if self.bounds.imitated and dialogue.target is not None else 0
        return self._judged(dialogue, prompt, target)

    def refuse(self, dialogues: Iterable[Dialogue]) -> None:
        """Raise DataError at the first that is too long."""
        for problem in map(self.too_long, dialogues):
            if problem is not None:
                raise problem

    def _judged(self, dialogue: Dialogue, prompt: int, target: int) -> DataError | None:
        bounds = self.bounds
        found = ""
        if bounds.prompt is not None and prompt > bounds.prompt:
            found = f"its prompt is {prompt} tokens long, and data.max_prompt_tokens is {bounds.prompt}"
        elif bounds.target is not None and target > bounds.target:
            found = f"its target is {target} tokens long, and data.max_target_tokens is {bounds.target}"
        elif bounds.positions is not None and prompt + max(target, 1) > bounds.positions:
            what = f"prompt and target are {prompt} and {target}" if target else f"its prompt is {prompt}"
            found = f"{what} tokens long, and the model has {bounds.positions} positions"
        if not found:
            return None
        held_out = bounds.prompt is None and bounds.target is None and not bounds.imitated
        leave = "shorten it or take it out" if held_out else "shorten it, take it out, or set data.too_long: drop"
        return DataError(f"{dialogue.label}: {found}", hint=leave)

    def _may_pass(self, dialogue: Dialogue) -> bool:
        bounds = self.bounds
        turns = (*dialogue.messages, *([dialogue.target] if bounds.imitated and dialogue.target is not None else []))
        sounds = [turn.audio for turn in turns if turn.audio is not None]
        clips = [clip for clip in sounds if clip.codes is None]
        if clips and not self._sounds:
            return False
        least = min(bound for bound in (bounds.prompt, bounds.target, bounds.positions) if bound is not None)
        count = SPARE + PER_BYTE * sum(len(turn.text.encode()) for turn in turns)
        count += PER_CODE * sum(len(clip.codes) for clip in sounds if clip.codes is not None)
        for clip in clips:
            if count > least:
                break
            seconds = clip_seconds(clip)
            if seconds is None:
                return bounds.prompt is not None or bounds.target is not None
            count += int(PER_SECOND * seconds)
        return count > least


def clip_seconds(clip: AudioClip) -> float | None:
    """How long a file on this machine says it is; None where that is not known without fetching or decoding."""
    path = clip.url.removeprefix("file://")
    if "://" in path:
        return audio.header(clip).seconds if path.startswith("cell://") else None
    try:
        return float(soundfile.info(audio.as_written(path)).duration)
    except (OSError, soundfile.LibsndfileError):
        return None  # reading it says why


@final
class Kept(DataSource):
    """The records of a source that are not too long, in its order."""

    def __init__(self, source: DataSource, indices: Sequence[int]) -> None:
        super().__init__(source.params, seed=source.seed)
        self._source, self._indices = source, indices

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Nothing is left to do."""

    def __len__(self) -> int:
        return len(self._indices)

    def record(self, index: int) -> Dialogue:
        """The record at `index` of those that are kept."""
        return self._source.record(self._indices[index])


def bounded_feed(
    sources: Sequence[tuple[DataSource, float]], lengths: Lengths, *, seed: int, world: World, look: bool
) -> Feed:
    """A heading's feed without what is too long, the same on every rank; raises DataError where nothing may be dropped.

    Records with an index are gone through by the first rank, unless they were before (`look`); those of a stream are
    judged when they are drawn.
    """
    given = [source for source, _ in sources]
    indices = _agreed(given, lengths, world) if look or lengths.bounds.drop else [None] * len(given)
    bounded, dropped = list[tuple[DataSource, float]](), 0
    for (source, weight), kept in zip(sources, indices, strict=True):
        whole = kept is None or len(kept) == len(source)
        dropped += 0 if kept is None else len(source) - len(kept)
        bounded.append((source if whole or kept is None else Kept(source, kept), weight))
    return Feed(
        bounded, seed=seed, leaving=Leaving(lengths.too_long, lengths.bounds.drop, dropped, lengths.bounds.said())
    )


def _agreed(sources: Sequence[DataSource], lengths: Lengths, world: World) -> list[list[int] | None]:
    """Indices of what is kept of each source, None for a stream, as the first rank finds them."""
    said: list[str | None] = []
    indices: list[list[int] | None] = []
    if world.is_first:
        try:
            indices = [_kept(source, lengths) if source.stream() is None else None for source in sources]
        except DataError as error:  # raised on every rank below: none may wait for one that is gone
            said = [error.message, error.hint]
    indices, said = world.broadcast([indices, said])
    if said:
        raise DataError(str(said[0]), hint=said[1] or "")
    return indices


def _kept(source: DataSource, lengths: Lengths) -> list[int]:
    indices = []
    for index in range(len(source)):
        problem = lengths.too_long(source.record(index))
        if problem is None:
            indices.append(index)
        elif not lengths.bounds.drop:
            raise problem
    if len(source) and not indices:
        raise nothing_left(len(source), lengths.bounds)
    return indices


def nothing_left(count: int, bounds: Bounds) -> DataError:
    """All records of a source are too long."""
    message = f"all {count} records of a source are too long ({bounds.said()})"
    return DataError(message, hint="raise the bounds, or use shorter data")
