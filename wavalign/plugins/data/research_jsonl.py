"""The data of the WavAlign research code as it is: JSONL, a JSON list, or a folder of `save_to_disk`.

    {"messages": [{"role", "content"}], "audios": [PATH, ...], "sft_target_text"?, "sft_target_audio"?, "task_type"?,
     "question_text"?, ...}      each `<|audio|>` in a content stands for the next path of `audios`

or, without `messages`, the older {"question_text", "question_audio", "history", "answer_text", "answer_audio_path"}.
What the research code leaves out without a word is an error here, with file and line: no user message, audios that do
not match their tags, a task type that contradicts the record. Where a record has no `sft_target_*`, a last message of
the assistant is its target. `question_text`, `task_type`, rejected answers, scores and every further field go to the
metadata. No system message is put in front: the architecture's `system_prompt` does that.
Source: data format of MM-Speech/WavAlign at 5b680c3.
"""

from typing import Literal, final

from pydantic import Field, model_validator

from wavalign.plugins.data.tables.files import Shard, find_files
from wavalign.plugins.data.tables.folders import is_saved, saved_files
from wavalign.plugins.data.tables.layout import Layout
from wavalign.plugins.data.tables.readers import LINES
from wavalign.plugins.data.tables.research import ResearchLayout, ResearchOptions, TaskType
from wavalign.plugins.data.tables.source import FileParams, FileSource
from wavalign.schema.base import RecipePath


@final
class ResearchJsonlParams(FileParams):
    """Which files, and how their fields are read."""

    audio_root: RecipePath | None = None
    """Folder that relative audio paths count from; without it the folder of the file."""
    task_types: tuple[TaskType, ...] | None = Field(default=None, min_length=1, max_length=6)
    """Keep records of these types only and leave the others out, counted; None keeps all. The research code: [s2s]."""
    instruction: Literal["own_message", "beside_sound"] = "own_message"
    """Where text before a user's `<|audio|>` goes: into a message of its own, which every architecture feeds, or into
    the message with the sound, where it is fed only under the architecture's `feed_user_text`."""
    system_messages: Literal["keep", "drop"] = "keep"
    """`drop` leaves them out: for an architecture that has a prompt of its own, or knows no system messages."""
    rejected: Literal["metadata", "side"] = "metadata"
    """Where `rejected_text` and `rejected_audio` go: into the metadata, or beside the target as the rejected side of a
    pair, with `chosen_score` and `rejected_score`; then a record without them is a bad one."""
    on_bad: Literal["error", "drop"] = "error"
    """`drop` leaves bad records out and says how many; a line that is no JSON stays an error."""

    @model_validator(mode="after")
    def _countable(self) -> "ResearchJsonlParams":
        if self.streaming and self.on_bad == "drop":
            raise ValueError("a stream cannot say beforehand how many bad records it drops: take them out of the file")
        return self


@final
class ResearchJsonl(FileSource):
    """The records of the files, in their order."""

    Params = ResearchJsonlParams
    params: ResearchJsonlParams

    def files(self) -> list[Shard]:
        path = self.params.path
        if isinstance(path, str) and is_saved(path):
            return saved_files(path.rstrip("/"))
        return find_files(path, LINES)

    def layout(self) -> Layout:
        given = self.params
        options = ResearchOptions(
            audio_root=given.audio_root,
            task_types=given.task_types,
            apart=given.instruction == "own_message",
            keep_system=given.system_messages == "keep",
            pairs=given.rejected == "side",
            drop_bad=given.on_bad == "drop",
        )
        return ResearchLayout(options)
