"""Data to rows: which dialogues a step sees, and their tokens.

Every rank draws the same dialogues and takes its own slice, so that a step sees the same data on any number of ranks.
"""

import hashlib
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, final

import torch

from wavalign.engine.contracts.origins import origin
from wavalign.engine.feeding.streams import ShuffledStream
from wavalign.engine.state.seeds import derive, generator
from wavalign.errors import DataError, PluginError
from wavalign.plugins import audio
from wavalign.plugins.api import Architecture, Codec, DataSource
from wavalign.plugins.batch import AudioClip, Dialogue, TokenSequence
from wavalign.storage.cache import BlobCache, Recent

CODES_AT_HAND = 64 * 2**20
"""Bytes of codes that stay in memory (about 1 KB for ten seconds); others are found again by their content."""
PROMPTS_AT_HAND = 256 * 2**20
"""Bytes of written prompts that stay in memory where the same ones are asked for again and again."""
_ENTRY = 256
"""Bytes that an entry takes beside its numbers."""
MOST_IN_A_ROW = 10_000
"""Dialogues of a stream that may be left out one after the other."""


@final
@dataclass(frozen=True, slots=True)
class Leaving:
    """Whether dialogues that are too long are left out, and how many were."""

    too_long: Callable[[Dialogue], DataError | None]
    """Asked of what a stream gives, when it is drawn."""
    drop: bool
    """Whether it is left out; else it is an error."""
    before: int = 0
    """Left out already of sources with an index."""
    bounds: str = ""
    """In words."""


@final
class Feed:
    """Dialogues of one heading: sources mixed by weight, each reshuffled every time it has been seen whole."""

    def __init__(
        self, sources: Sequence[tuple[DataSource, float]], *, seed: int, leaving: Leaving | None = None
    ) -> None:
        self.sources, self.seed, self.leaving = sources, seed, leaving
        self.dropped = leaving.before if leaving is not None else 0
        """Dialogues left out so far because they are too long."""
        self._drawn = 0
        self._taken = [0] * len(sources)
        self._orders: dict[tuple[int, int], list[int]] = {}
        opened = [source.stream() for source, _ in sources]
        self._streams = [
            ShuffledStream(stream, seed=seed, which=which) if stream is not None else None
            for which, stream in enumerate(opened)
        ]
        self._lengths = self._sizes
        if 0 in self._lengths:
            raise DataError("a data source is empty", hint="check its path, split and limit")

    def next(self, count: int) -> list[Dialogue]:
        """The next `count` dialogues."""
        return [self._one() for _ in range(count)]

    def all(self, limit: int | None) -> list[Dialogue]:
        """Every dialogue once, in order, at most `limit` spread evenly; for evaluation.

        Beside a stream `limit` is divided among the sources, and of a stream come the first ones.
        """
        if any(self._streams):
            shares = _shares(limit, len(self.sources))
            return [each for which, share in enumerate(shares) for each in self._some(which, share)]
        total = [(source, index) for source, _ in self.sources for index in range(len(source))]
        count = len(total) if limit is None else min(limit, len(total))
        return [source.record(index) for source, index in (total[i * len(total) // count] for i in range(count))]

    @property
    def size(self) -> int | None:
        """How many dialogues there are; None where one source is a stream."""
        sizes = [size for size in self._sizes if size is not None]
        return sum(sizes) if len(sizes) == len(self._lengths) else None

    def state_dict(self) -> dict[str, Any]:
        """The cursor in the data."""
        streams = [stream.state_dict() if stream is not None else None for stream in self._streams]
        cursor = {"drawn": self._drawn, "taken": list(self._taken), "sizes": self._sizes, "streams": streams}
        return {**cursor, "dropped": self.dropped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a cursor; DataError when the data has changed size since."""
        if state["sizes"] != self._sizes:
            message = f"the data has {self._sizes} records now and had {state['sizes']}"
            raise DataError(message, hint="resume on the same data")
        self._drawn, self._taken = int(state["drawn"]), list(state["taken"])
        self.dropped = int(state["dropped"])
        for stream, cursor in zip(self._streams, state["streams"], strict=True):
            if stream is not None:
                stream.load_state_dict(cursor)

    @property
    def drops(self) -> bool:
        """Whether dialogues that are too long are left out."""
        return self.leaving is not None and self.leaving.drop

    def note(self, heading: str) -> str:
        """What a person should know before the first step; empty where nothing is left out."""
        if self.leaving is None or not self.dropped:
            return ""
        return f"data.{heading}: {self.dropped} records are left out as too long ({self.leaving.bounds})"

    @property
    def _sizes(self) -> list[int | None]:
        """Records of each source, None of a stream."""
        streams = zip(self.sources, self._streams, strict=True)
        return [len(source) if stream is None else None for (source, _), stream in streams]

    def _some(self, which: int, count: int | None) -> list[Dialogue]:
        """The first of a stream, or records spread evenly over a source with an index."""
        source, stream = self.sources[which][0], self._streams[which]
        if stream is not None:
            return list(islice(stream.once(), count))
        count = len(source) if count is None else min(count, len(source))
        return [source.record(i * len(source) // count) for i in range(count)]

    def _one(self) -> Dialogue:
        which = 0
        if len(self.sources) > 1:
            weights = torch.tensor([weight for _, weight in self.sources], dtype=torch.float64)
            which = int(torch.multinomial(weights, 1, generator=generator(self.seed, "mix", self._drawn)))
        source, stream = self.sources[which][0], self._streams[which]
        if stream is not None:
            dialogue = self._fitting(stream)
        else:
            epoch, position = divmod(self._taken[which], self._length(which))
            dialogue = source.record(self._order(which, epoch)[position])
        self._drawn += 1
        self._taken[which] += 1
        return dialogue

    def _length(self, which: int) -> int:
        """Records of a source by index; PluginError where they were more or fewer before."""
        source, was = self.sources[which][0], self._lengths[which]
        if (length := len(source)) != was:
            raise PluginError(
                f"{origin(source)}: had {was} records when the run began and has {length} now",
                hint="take a snapshot in `prepare`: a run sees the same records under the same indices to its end",
                placed=True,
            )
        return length

    def _fitting(self, stream: ShuffledStream) -> Dialogue:
        """The next of a stream that is not too long."""
        last = ""
        for _ in range(MOST_IN_A_ROW):
            dialogue = stream.next()
            problem = self.leaving.too_long(dialogue) if self.leaving is not None else None
            if problem is None:
                return dialogue
            if not self.drops:
                raise problem
            self.dropped, last = self.dropped + 1, problem.message
        message = f"{MOST_IN_A_ROW:,} records in a row of a stream are too long, the last of them: {last}"
        raise DataError(message, hint="raise the bounds in data, or use shorter data")

    def _order(self, which: int, epoch: int) -> list[int]:
        key = (which, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != which}  # one epoch is enough to keep
            permutation = torch.randperm(self._length(which), generator=generator(self.seed, *key))
            self._orders[key] = permutation.tolist()
        return self._orders[key]


def _shares(limit: int | None, count: int) -> list[int | None]:
    """`limit` divided among `count` sources, the first ones taking what is left over."""
    if limit is None:
        return [None] * count
    return [limit // count + (which < limit % count) for which in range(count)]


@final
class CodeCache:
    """Codec ids of audio files, computed once and kept by content, safe for several processes."""

    def __init__(self, codec: Codec, path: Path) -> None:
        self.codec, self._fingerprint = codec, codec.fingerprint()
        self._memory: Recent[array[int]] = Recent(CODES_AT_HAND)
        self._kept = BlobCache(path, table="codes", column="ids", what="codes of sound")

    def __call__(self, clip: AudioClip) -> Sequence[int]:
        """Ids of a clip."""
        found = self._memory.get(clip.url)
        if found is None:
            found = self._look_up(clip)
            self._memory.put(clip.url, found, size=_ENTRY + len(found) * found.itemsize)
        return tuple(found)

    def _look_up(self, clip: AudioClip) -> "array[int]":
        content = audio.read_bytes(clip)
        key = f"{self._fingerprint}:{hashlib.sha256(content).hexdigest()}"
        found = self._kept.get(key)
        if found is not None:
            return array("i", found)
        ids = array("i", self.codec.encode(audio.read(clip, sample_rate=self.codec.sample_rate, content=content)))
        self._kept.put(key, ids.tobytes())
        return ids


def no_codec(clip: AudioClip) -> Sequence[int]:
    """Stands where a recipe has no codec and a dialogue has sound after all."""
    raise DataError(f"{clip.url}: the dialogue has sound and the recipe no codec", hint="add model.codec")


@contextmanager
def located(dialogue: Dialogue) -> Iterator[None]:
    """Inside, an error about the dialogue also says where it was read."""
    try:
        yield
    except DataError as error:
        if not dialogue.origin or error.message.startswith(dialogue.origin):
            raise
        raise DataError(f"{dialogue.origin}: {error.message}", hint=error.hint) from error


@final
class Encoder:
    """Dialogues to token rows."""

    def __init__(self, architecture: Architecture, encode_audio: CodeCache | None) -> None:
        self.architecture = architecture
        self.codec_lock = threading.Lock()
        """Held by whoever asks the codec: answers are decoded in a thread while dialogues are encoded."""
        self._encode_audio = encode_audio if encode_audio is not None else no_codec
        self._prompts: Recent[tuple[Dialogue, TokenSequence]] | None = None

    def keeping(self) -> "Encoder":
        """One that keeps the prompts it has written, for dialogues that are asked again and again."""
        other = Encoder(self.architecture, None)
        other.codec_lock, other._encode_audio = self.codec_lock, self._encode_audio
        other._prompts = Recent(PROMPTS_AT_HAND)
        return other

    def codes(self, clip: AudioClip) -> Sequence[int]:
        """Codec ids of a clip."""
        if clip.codes is not None:
            return clip.codes
        with self.codec_lock:
            return self._encode_audio(clip)

    def prompt(self, dialogue: Dialogue) -> TokenSequence:
        """The prompt's row."""
        found = None if self._prompts is None else self._prompts.get(id(dialogue))
        if found is not None and found[0] is dialogue:
            return found[1]
        with located(dialogue):
            row = self.architecture.encode_prompt(dialogue, self.codes)
        if self._prompts is not None:
            self._prompts.put(id(dialogue), (dialogue, row), size=_bytes(row))
        return row

    def target(self, dialogue: Dialogue) -> TokenSequence:
        """The demonstration's row."""
        if dialogue.target is None:
            raise DataError(f"{dialogue.label} has no target", hint="rows to learn from need one")
        with located(dialogue):
            return self.architecture.encode_target(dialogue, self.codes)


def _bytes(row: TokenSequence) -> int:
    """What a row takes."""
    return _ENTRY + row.ids.nbytes + row.roles.nbytes + sum(each.values.nbytes for each in row.sounds)


def feed_seed(seed: int, stage: str, heading: str) -> int:
    """Seed of a heading's order in a stage."""
    return derive(seed, stage, heading)
