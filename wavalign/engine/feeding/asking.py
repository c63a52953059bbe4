"""What a source's dialogues ask, in words that a recipe puts around it.

A text puts its words around the last thing a user says in every dialogue. With texts for the chosen and the rejected
side every answer of a pair becomes a demonstration of its own, asked for by the text of its side: Chain-of-Hindsight.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import final

from wavalign.errors import DataError
from wavalign.plugins.api import DataSource, StreamPosition, StreamRecord, StreamSource
from wavalign.plugins.batch import Dialogue, Message
from wavalign.schema.component import PLACE, Side

MEMBERS: Mapping[Side, int] = {"chosen": 0, "rejected": 1}


@final
class Asked(DataSource):
    """The dialogues of a source, each asked in the words of `text`."""

    def __init__(self, source: DataSource, text: str) -> None:
        super().__init__(source.params, seed=source.seed)
        self._source, self._text = source, text

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """As the source does."""
        self._source.prepare(progress)

    def __len__(self) -> int:
        return len(self._source)

    def record(self, index: int) -> Dialogue:
        """The record at `index`, asked otherwise."""
        return asked(self._source.record(index), self._text)

    def stream(self) -> StreamSource | None:
        """The records one after the other, where the source gives a stream."""
        stream = self._source.stream()
        return None if stream is None else _AskedStream(stream, self._text)

    def reads(self) -> Sequence[str]:
        """The source's files."""
        return self._source.reads()

    def inspect(self) -> Iterator[tuple[str, Dialogue | DataError | None]]:
        """Every record; one that asks nothing is an error."""
        for where, found in self._source.inspect():
            try:
                yield where, asked(found, self._text) if isinstance(found, Dialogue) else found
            except DataError as error:
                yield where, error


@final
class _AskedStream(StreamSource):
    """A stream whose dialogues are asked otherwise."""

    def __init__(self, stream: StreamSource, text: str) -> None:
        self._stream, self._text, self.shuffle_buffer = stream, text, stream.shuffle_buffer

    def shards(self) -> Sequence[str]:
        """The stream's."""
        return self._stream.shards()

    def open(self, shard: int, position: StreamPosition) -> Iterator[StreamRecord]:
        """The stream's records, asked otherwise."""
        for each in self._stream.open(shard, position):
            yield replace(each, dialogue=asked(each.dialogue, self._text))


@final
class AskedBySide(DataSource):
    """Every answer of a source's pairs as a demonstration, asked in the words of its side; one without is left out."""

    def __init__(self, source: DataSource, texts: Mapping[Side, str]) -> None:
        super().__init__(source.params, seed=source.seed)
        self._source, self._places = source, list[tuple[int, int]]()
        self._texts = {MEMBERS[side]: (side, text) for side, text in texts.items()}

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Number the answers; raises DataError for a stream, which cannot be gone through before."""
        self._source.prepare(progress)
        if self._source.stream() is not None:
            hint = "set streaming: false on the source"
            raise DataError("a stream of pairs cannot be asked for by side: its answers are not counted", hint=hint)
        for index in range(len(self._source)):
            answers = self._source.record(index).numbered
            self._places += [(index, place) for place, (member, _) in enumerate(answers) if member in self._texts]

    def __len__(self) -> int:
        return len(self._places)

    def record(self, index: int) -> Dialogue:
        """Answer number `index` of those that have a text."""
        record, place = self._places[index]
        return self._demonstration(self._source.record(record), place)

    def reads(self) -> Sequence[str]:
        """The source's files."""
        return self._source.reads()

    def inspect(self) -> Iterator[tuple[str, Dialogue | DataError | None]]:
        """Every answer of every record."""
        for where, found in self._source.inspect():
            if not isinstance(found, Dialogue):
                yield where, found
                continue
            for place in (place for place, (member, _) in enumerate(found.numbered) if member in self._texts):
                try:
                    yield where, self._demonstration(found, place)
                except DataError as error:
                    yield where, error

    def _demonstration(self, dialogue: Dialogue, place: int) -> Dialogue:
        member, single = dialogue.numbered[place]
        side, text = self._texts[member]
        return replace(asked(single, text), id=f"{dialogue.id}/{side}")


def asked(dialogue: Dialogue, text: str) -> Dialogue:
    """`dialogue` with the words of `text` around the last thing a user says in it.

    Around sound they are turns of their own before and behind it. Raises DataError where no user says anything.
    """
    places = [place for place, message in enumerate(dialogue.messages) if message.role == "user"]
    if not places:
        raise DataError(f"{dialogue.label}: no user says anything that `ask` could put words around")
    at = places[-1]
    message = dialogue.messages[at]
    if message.audio is None:
        turn = [replace(message, text=text.replace(PLACE, message.text))]
    else:
        before, behind = (part.strip() for part in text.split(PLACE))
        around = [(before, None), ("", message), (behind, None)]
        turn = [Message("user", words) if said is None else said for words, said in around if words or said]
    return replace(dialogue, messages=(*dialogue.messages[:at], *turn, *dialogue.messages[at + 1 :]))


def asking(source: DataSource, ask: str | Mapping[Side, str] | None) -> DataSource:
    """`source` with what a recipe says of how its dialogues are asked."""
    if ask is None:
        return source
    return Asked(source, ask) if isinstance(ask, str) else AskedBySide(source, ask)
