"""Questions of a benchmark: where they come from, what is correct, and by what answers to them are judged."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final, get_args

from wavalign.errors import UsageError
from wavalign.plugins.batch import Dialogue
from wavalign.plugins.speech.wording import references
from wavalign.schema.component import WeightedComponent

Task = Literal["choice", "yes_no", "reference", "transcript", "refusal", "open", "instructions", "style"]
"""What an answer is judged by: a letter, yes or no, a known answer, known words, whether it declines; or by nothing
that is known without a judge (`open`, `style`) or the suite's own rules (`instructions`)."""
TASKS: tuple[Task, ...] = get_args(Task)

_SUBSETS: Mapping[str, Task] = {
    "alpacaeval": "open", "alpacaeval_full": "open", "alpacaeval_speaker": "open", "commoneval": "open",
    "wildvoice": "open", "mtbench": "open", "sd-qa": "reference", "openbookqa": "choice", "mmsu": "choice",
    "bbh": "yes_no", "ifeval": "instructions", "advbench": "refusal",
}  # fmt: skip
"""Subsets of VoiceBench."""
_LETTER = re.compile(r"\(?[A-Ja-j]\)?\.?")
_YES_NO = frozenset({"yes", "no", "(a)", "(b)"})


@final
@dataclass(frozen=True, slots=True)
class Question:
    """One dialogue of a benchmark."""

    place: int
    """Its place in the data, whatever `limit` leaves."""
    dialogue: Dialogue
    suite: str
    row: Mapping[str, Any]
    """What the suite's file says of it, without sound."""
    correct: tuple[str, ...]
    """Answers that are accepted; none where nothing is stated."""

    @property
    def text(self) -> str:
        """What the user says, in words."""
        return next((turn.text for turn in reversed(self.dialogue.messages) if turn.role == "user"), "")

    @property
    def wanted(self) -> str | None:
        """The whole answer that is to be given, where one is stated: a text to compare word by word."""
        target = self.dialogue.target
        if target is not None and target.text:
            return target.text
        return self.correct[0] if self.correct else None


@final
@dataclass(frozen=True, slots=True)
class Benchmark:
    """Questions of one file or folder."""

    questions: Sequence[Question]
    suite: str
    subset: str
    """Its name, as the suite's files are called."""
    task: Task
    told: bool
    """Whether a person said the task."""
    total: int
    """Questions in the data, of which `limit` may have left some."""
    spoken: bool
    """Whether they are asked by voice."""


def component(path: str, *, suite: str | None, modality: str) -> WeightedComponent:
    """The data source of `--on`."""
    options = {"suite": suite} if suite is not None else {}
    return WeightedComponent.model_validate({"type": "benchmark", "path": path, "modality": modality, **options})


def benchmark(
    dialogues: Sequence[Dialogue], path: str, *, limit: int | None, subset: str | None, task: Task | None
) -> Benchmark:
    """All questions, at most `limit` of them spread evenly over the data."""
    count = len(dialogues) if limit is None else min(limit, len(dialogues))
    places = [index * len(dialogues) // count for index in range(count)]
    questions = [_question(place, dialogues[place]) for place in places]
    if not questions:
        raise UsageError(f"{path} holds no questions", hint="name a file that does")
    suite = questions[0].suite
    name = subset or _subset_of(path) or Path(path.rstrip("/")).name.partition(".")[0]
    found = task or _task_of(suite, name, questions)
    spoken = any(turn.audio is not None for turn in questions[0].dialogue.messages)
    return Benchmark(questions, suite, name, found, task is not None, len(dialogues), spoken)


def _question(place: int, dialogue: Dialogue) -> Question:
    about = dialogue.metadata.get("benchmark")
    known = about if isinstance(about, Mapping) else {}
    row = known.get("row")
    return Question(
        place=place,
        dialogue=dialogue,
        suite=str(known.get("suite", "dialogues")),
        row=row if isinstance(row, Mapping) else {},
        correct=references(dialogue.metadata.get("answer")),
    )


def _subset_of(path: str) -> str:
    """The subset of VoiceBench that a path names: a part of it, or the beginning or end of its file's name."""
    parts = path.replace("\\", "/").rstrip("/").split("/")
    for part in reversed(parts):
        words = re.split(r"[.\s]", part)[0]
        for name in sorted(_SUBSETS, key=len, reverse=True):
            if words == name or words.startswith(f"{name}-") or re.search(rf"(^|[-_]){re.escape(name)}($|[-_])", words):
                return name
    return ""


def _task_of(suite: str, subset: str, questions: Sequence[Question]) -> Task:
    if suite == "vstyle":
        return "style"
    if suite == "voicebench" and subset in _SUBSETS:
        return _SUBSETS[subset]
    if suite == "voicebench" and all("instruction_id_list" in each.row for each in questions):
        return "instructions"
    stated = [each for each in questions if each.correct]
    if stated and all(_is_letter(each) for each in stated):
        return "choice"
    if suite == "voicebench" and stated and all(each.correct[0].casefold() in _YES_NO for each in stated):
        return "yes_no"
    return "reference" if any(each.wanted is not None for each in questions) else "open"


def _is_letter(question: Question) -> bool:
    return suite_letter(question) is not None


def suite_letter(question: Question) -> str | None:
    """The correct letter, where the correct answer is one."""
    said = question.correct[0].strip() if len(question.correct) == 1 else ""
    return said.strip("().").upper() if _LETTER.fullmatch(said) else None
