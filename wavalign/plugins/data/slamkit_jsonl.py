"""Pairs of spoken continuations in the format of SlamKit: a prompt, a better and a worse way on, each a sound file.

One object a line: `{"prompt_path", "chosen_path", "rejected_path"}`; further keys go to the metadata, `id` names the
record. Paths count from the file, or from `audio_root`. The two sides are members 0 and 1 of a pair.
Source: preference data of SlamKit (arXiv 2502.15814).
"""

from typing import Any, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wavalign.plugins.batch import Dialogue, Message
from wavalign.plugins.data.tables.files import Shard, find_files
from wavalign.plugins.data.tables.layout import Complaints, Layout, clip, complaints
from wavalign.plugins.data.tables.readers import LINES
from wavalign.plugins.data.tables.source import FileParams, FileSource
from wavalign.schema.base import RecipePath

HINT = 'one object a line: {"prompt_path": "p.wav", "chosen_path": "c.wav", "rejected_path": "r.wav"}'


@final
class SlamkitJsonlParams(FileParams):
    """Which files, and where their sound lies."""

    audio_root: RecipePath | None = None
    """Folder that relative audio paths count from; without it the folder of the file."""


@final
class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    id: str | None = None
    prompt_path: str = Field(min_length=1)
    chosen_path: str = Field(min_length=1)
    rejected_path: str = Field(min_length=1)


@final
class SlamkitLayout(Layout):
    """Rows that are records of this format."""

    def __init__(self, audio_root: str | None) -> None:
        self._root = audio_root

    def dialogue(self, tree: Any, *, name: str, url: str) -> Dialogue | Complaints | None:
        try:
            record = _Record.model_validate(tree)
        except ValidationError as error:
            return complaints(error, HINT)
        prompt, chosen, rejected = (
            clip(path, url, self._root) for path in (record.prompt_path, record.chosen_path, record.rejected_path)
        )
        return Dialogue(
            name if record.id is None else record.id,
            (Message("user", "", prompt),),
            metadata=dict(record.model_extra or {}),
            targets=(Message("assistant", "", chosen), Message("assistant", "", rejected)),
            members=(0, 1),
        )


@final
class SlamkitJsonl(FileSource):
    """The pairs of the files, in their order."""

    Params = SlamkitJsonlParams
    params: SlamkitJsonlParams

    def files(self) -> list[Shard]:
        return find_files(self.params.path, LINES)

    def layout(self) -> Layout:
        return SlamkitLayout(self.params.audio_root)
