"""Rows of spoken-dialogue benchmarks, told apart by their columns.

| suite | told by | question | answer to hold against |
|---|---|---|---|
| `voicebench` | `prompt` | `audio`, said in `prompt` | `reference`, where the subset has one |
| `ultraeval` | `WavPath`, `Question` or `QuestionText` | `WavPath` or `audio` | `Answer` or `answer` |
| `vstyle` | `instruct_text` and `ability` | `instruct_text`, spoken where there is sound | none: a judge listens |
| `dialogues` | `messages` | as in the JSONL format | `target`, `metadata.answer` |

The row itself travels in the metadata under `benchmark`, without its sound, so that answers can be written beside what
the suite's own scorers read. Sources: the data cards and loaders of VoiceBench (arXiv 2410.17196), UltraEval-Audio and
VStyle (arXiv 2509.09716).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from wavalign.plugins.batch import Dialogue, Message
from wavalign.plugins.data.dialogue_format import RecordLayout
from wavalign.plugins.data.tables.layout import Complaints, Layout, clip
from wavalign.storage.arrow import SCHEME

Suite = Literal["voicebench", "ultraeval", "vstyle", "dialogues"]
BENCHMARK = "benchmark"
"""Key of a dialogue's metadata that holds `suite` and `row`."""


@final
@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a suite hold what; the first that is there counts."""

    told_by: tuple[tuple[str, ...], ...]
    """Sets of columns, any of which tells the suite."""
    text: tuple[str, ...]
    sound: tuple[str, ...]
    answer: tuple[str, ...] = ()
    id: tuple[str, ...] = ()


SUITES: Mapping[str, Columns] = {
    "vstyle": Columns(
        told_by=(("instruct_text", "ability"),),
        text=("instruct_text",),
        sound=("instruction_audio_path", "instruct_audio_path", "instruct_audio", "audio"),
        id=("id", "instruct_id"),
    ),
    "ultraeval": Columns(
        told_by=(("WavPath",), ("Question",), ("QuestionText",)),
        text=("Question", "QuestionText", "question", "prompt", "Text", "text"),
        sound=("WavPath", "audio", "Audio"),
        answer=("Answer", "answer", "reference"),
    ),
    "voicebench": Columns(
        told_by=(("prompt",),),
        text=("prompt",),
        sound=("audio",),
        answer=("reference",),
    ),
}
"""In the order in which they are tried: a suite's own columns before those that several have."""
HINT = (
    "VoiceBench has prompt and audio, UltraEval-Audio WavPath and Question, VStyle instruct_text and ability, "
    "dialogues messages (docs/evaluate.md)"
)


@final
class SuiteLayout(Layout):
    """Rows of one suite; which one is told by the first row where nobody says it."""

    def __init__(self, suite: Suite | None, *, modality: Literal["audio", "text"], audio_root: str | None) -> None:
        self._suite: str | None = suite
        self._modality, self._root = modality, audio_root
        self._told = suite is not None
        self._dialogues = RecordLayout(audio_root=audio_root)

    def dialogue(self, tree: Any, *, name: str, url: str) -> Dialogue | Complaints | None:
        if not isinstance(tree, Mapping):
            return Complaints(("not an object with columns",), "one object a row")
        suite = suite_of(tree)
        if self._suite is None:
            self._suite = suite
        if self._suite is None:
            return Complaints((f"no known benchmark has the columns {', '.join(map(str, tree))}",), HINT)
        if not self._told and suite != self._suite:
            wrong = f"the rows before are of {self._suite}, this one is of {suite or 'no known benchmark'}"
            return Complaints((wrong,), "one suite a file; `suite` (`--as`) says which it is")
        if self._suite == "dialogues":
            return self._without_sound(self._dialogues.dialogue(tree, name=name, url=url))
        return self._of_suite(SUITES[self._suite], tree, name, url)

    def _of_suite(self, columns: Columns, tree: Mapping[str, Any], name: str, url: str) -> Dialogue | Complaints:
        text, sound = _first(tree, columns.text), _first(tree, columns.sound)
        wrong = [
            f"column {column!r} holds {type(value).__name__}, and the question is text"
            for column, value in [text]
            if not isinstance(value, str | None)
        ]
        path = _path(sound[1])
        if sound[1] is not None and path is None:
            wrong.append(f"column {sound[0]!r} holds {type(sound[1]).__name__}, and sound is a path or a cell of bytes")
        if self._modality == "text" and not text[1]:
            wrong.append("the question has no text, which is what is asked for")
        if not wrong and not text[1] and not path:
            wrong.append("the question has neither text nor sound")
        if wrong:
            return Complaints(tuple(wrong), HINT)
        heard = clip(path, url, self._root) if path and self._modality == "audio" else None
        return self._built(columns, tree, name, Message("user", text[1] or "", heard))

    def _built(self, columns: Columns, tree: Mapping[str, Any], name: str, question: Message) -> Dialogue:
        row = {str(key): value for key, value in tree.items() if key not in columns.sound or _is_plain_path(value)}
        metadata: dict[str, Any] = {BENCHMARK: {"suite": self._suite, "row": row}, "question_text": question.text}
        answer = _first(tree, columns.answer)[1]
        if answer is not None:
            # Under both names that rewards look for it by default.
            metadata |= {"answer": answer, "reference": answer}
        given = _first(tree, columns.id)[1]
        return Dialogue(name if given is None else str(given), (question,), metadata=metadata)

    def _without_sound(self, found: Dialogue | Complaints | None) -> Dialogue | Complaints | None:
        """A record of dialogues, without its sound where text is asked for."""
        if not isinstance(found, Dialogue) or self._modality == "audio":
            return found
        if not all(turn.text for turn in found.messages):
            return Complaints(("a message has no text, which is what is asked for",), "ask with its sound")
        silent = tuple(Message(turn.role, turn.text) for turn in found.messages)
        return Dialogue(found.id, silent, found.target, found.metadata)


def suite_of(tree: Mapping[str, Any]) -> str | None:
    """The suite whose columns a row has; None where no suite has such."""
    if "messages" in tree:
        return "dialogues"
    found = (name for name, each in SUITES.items() if any(all(x in tree for x in some) for some in each.told_by))
    return next(found, None)


def _first(tree: Mapping[str, Any], columns: tuple[str, ...]) -> tuple[str, Any]:
    """The first of the columns that holds something, and what."""
    return next(((each, tree[each]) for each in columns if tree.get(each) is not None), ("", None))


def _path(value: Any) -> str | None:
    """The address of a row's sound; None where there is none."""
    if isinstance(value, Mapping):  # as JSON has it: {"path": ..., "bytes": null}
        value = value.get("path")
    return value if isinstance(value, str) and value else None


def _is_plain_path(value: Any) -> bool:
    """Whether a column of sound holds what the suite wrote there, not the address of a cell."""
    return isinstance(value, str) and not value.startswith(SCHEME)
