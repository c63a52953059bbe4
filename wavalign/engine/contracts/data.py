"""Contract of data sources and of their streams."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, final

import numpy as np

from wavalign.engine.contracts.origins import origin
from wavalign.engine.contracts.values import named, shown, want, whole
from wavalign.errors import DataError
from wavalign.plugins.api import DataSource, StreamPosition, StreamRecord, StreamSource
from wavalign.plugins.batch import AudioClip, Dialogue, Message
from wavalign.plugins.guard import Broken, Guard, Origin

DEEPEST = 64
"""Levels of metadata; what holds itself has more."""
ROLES = ("system", "user", "assistant")


def dialogue(found: object, what: str, *, own: bool) -> Dialogue:
    """A dialogue whose fields have their types; of somebody else's source with metadata that is nobody else's."""
    if not isinstance(found, Dialogue):
        raise Broken(f"gave {named(found)} as {what}, which is to be a Dialogue")
    want(found.id, str, f"the id of {what}")
    want(found.messages, tuple, f"the messages of {what}")
    for index, message in enumerate(found.messages):
        _message(message, f"message {index} of {what}")
    if found.target is not None:
        _message(found.target, f"the target of {what}")
    want(found.targets, tuple, f"the targets of {what}")
    for place, target in enumerate(found.targets):
        _message(target, f"target {place} of {what}")
    want(found.metadata, Mapping, f"the metadata of {what}")
    return found if own else replace(found, metadata=_metadata(found.metadata, f"metadata of {what}", 0))


def _metadata(value: Any, path: str, depth: int) -> Any:
    """A copy in JSON's types, numpy's numbers as plain ones; text and numbers themselves are judged with the record."""
    if depth > DEEPEST:
        raise Broken(f"gave {path.split('.', 1)[0]} that is nested deeper than {DEEPEST}, or holds itself")
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(str(value)) if isinstance(value, np.floating) else float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise Broken(f"has the key {shown(key)} in {path}: keys are text", hint="turn it into a str")
        return {str(key): _metadata(each, f"{path}.{key}", depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_metadata(each, f"{path}[{index}]", depth + 1) for index, each in enumerate(value)]
    raise Broken(
        f"gave {named(value)} in {path}, which JSON cannot hold", hint="keep numbers, text, lists and mappings of them"
    )


def _message(found: object, what: str) -> None:
    if not isinstance(found, Message):
        raise Broken(f"gave {named(found)} as {what}, which is to be a Message")
    want(found.text, str, f"the text of {what}")
    if found.role not in ROLES:
        raise Broken(f"gave the role {found.role!r} in {what}; roles are {', '.join(ROLES)}")
    if found.audio is not None:
        want(found.audio, AudioClip, f"the audio of {what}")
        want(found.audio.url, str, f"the url of the audio of {what}")
        for code in found.audio.codes or ():
            whole(code, f"a code of the audio of {what}", low=0)


def _record(plugin: DataSource, own: Callable[[int], Any], index: int) -> Dialogue:
    return dialogue(own(index), f"record {index}", own=origin(plugin).own)


def _length(_plugin: DataSource, own: Callable[[], Any]) -> int:
    return whole(own(), "its length")


def _stream(plugin: DataSource, own: Callable[[], Any]) -> StreamSource | None:
    found = own()
    if found is None:
        return None
    if not isinstance(found, StreamSource):
        raise Broken(f"gave {named(found)} instead of a StreamSource")
    return GuardedStream(found, origin(plugin))


def _reads(_plugin: DataSource, own: Callable[[], Any]) -> list[str]:
    found = list(own())
    for each in found:
        want(each, str, "the name of a file that it reads")
    return found


def _inspect(plugin: DataSource, own: Callable[[], Any]) -> Iterator[tuple[str, Dialogue | DataError | None]]:
    for item in own():
        if not isinstance(item, tuple) or len(item) != 2 or not isinstance(item[0], str):
            raise Broken(f"gave {named(item)} instead of a place and what stands there")
        where, found = item
        if isinstance(found, DataError | None):
            yield where, found
        else:
            yield where, dialogue(found, where, own=origin(plugin).own)


@final
class GuardedStream(StreamSource):
    """A stream each of whose calls runs in a guard."""

    def __init__(self, stream: StreamSource, origin: Origin) -> None:
        self._stream, self._origin = stream, origin
        with Guard(origin, "shuffle_buffer"):
            self.shuffle_buffer = whole(stream.shuffle_buffer, "shuffle_buffer", low=1)

    def shards(self) -> Sequence[str]:
        """The plugin's, held against the contract."""
        with Guard(self._origin, "shards"):
            found = list(self._stream.shards())
            for each in found:
                want(each, str, "the name of a shard")
            return found

    def open(self, shard: int, position: StreamPosition) -> Iterator[StreamRecord]:
        """The plugin's, item by item."""
        with Guard(self._origin, f"open({shard})"):
            items = iter(self._stream.open(shard, position))
        while True:
            with Guard(self._origin, f"open({shard})"):
                found = next(items, None)
                if found is not None:
                    want(found, StreamRecord, "a record")
                    given = dialogue(found.dialogue, f"the record at {found.start}", own=self._origin.own)
                    found = found if self._origin.own else replace(found, dialogue=given)
            if found is None:
                return
            yield found


AROUND: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("data", "record"): _record,
    ("data", "__len__"): _length,
    ("data", "stream"): _stream,
    ("data", "reads"): _reads,
    ("data", "inspect"): _inspect,
}
