"""What costs time or money to find out of answers: what a recogniser hears, what a reward of the recipe says.

Each is asked once for each answer and remembered in a file of its own, so that an interrupted evaluation, or one that
asks for more, repeats nothing.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from wavalign.engine.benchmarks.answer_file import Given, file_name
from wavalign.engine.benchmarks.models import OpenModel
from wavalign.engine.benchmarks.questions import Question
from wavalign.engine.benchmarks.scoring import Score
from wavalign.engine.state.files import storage_errors
from wavalign.engine.step.reward_pool import RewardPool
from wavalign.engine.step.rewards import collect_scores
from wavalign.errors import DataError, UsageError
from wavalign.plugins.batch import Answer, Rollout, RolloutGroup, TokenSequence
from wavalign.plugins.speech.whisper import Whisper
from wavalign.redaction import REDACTOR

Progress = Callable[[str, int, int], None]
AT_ONCE = 16
"""Answers that are judged together before what was said of them is written down."""


@final
class Remembered:
    """Lines of a file by place, and new ones at its end; a line that was being written when a process died is cut."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, dict[int, dict[str, Any]]()
        if not path.is_file():
            return
        whole = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    self.found[int(record["place"])] = record
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(f"{path}: a line is damaged: {error!r}", hint="remove the file") from error
                whole += len(line)
        with storage_errors(str(path)):
            os.truncate(path, whole)

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write these at the end."""
        text = "".join(json.dumps(REDACTOR.tree(dict(each)), ensure_ascii=False) + "\n" for each in records)
        with storage_errors(str(self.path)), self.path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.found |= {int(each["place"]): dict(each) for each in records}


def heard_texts(folder: Path, given: Sequence[Given], progress: Progress) -> dict[int, str | None]:
    """By place, what Whisper hears of each answer; None where it has no sound. PluginError without the extra."""
    known = Remembered(folder / "heard.jsonl")
    left = [each for each in given if each.audio is not None and each.place not in known.found]
    if left:
        whisper = Whisper()
        for number, each in enumerate(left):
            progress("listening to answers", number, len(left))
            sound = each.sound(folder)
            known.add([{"place": each.place, "heard": "" if sound is None else whisper.recognize(sound)}])
        progress("listening to answers", len(left), len(left))
    return {each.place: known.found[each.place]["heard"] if each.audio is not None else None for each in given}


@final
@dataclass(frozen=True, slots=True)
class Judged:
    """What a reward said of answers."""

    scores: Mapping[int, Score]
    """By place."""
    spent: Mapping[str, float]
    """What it has counted meanwhile (`Reward.counts`): requests, cost."""


def judged(
    model: OpenModel, name: str, folder: Path, pairs: Sequence[tuple[Question, Given]], progress: Progress
) -> Judged:
    """What the recipe's reward `name` says, on its scale; a failure is none, and asked again next time."""
    section = model.chosen.stage.stage.rewards.get(name)
    if section is None:
        have = ", ".join(model.chosen.stage.stage.rewards) or "none"
        raise UsageError(
            f"stage {model.chosen.stage.name} has no reward {name!r} to judge by",
            hint=f"it has: {have}; `wavalign plugins list reward` shows what there is",
        )
    about = json.dumps(section.model_dump(mode="json"), sort_keys=True)
    known = Remembered(folder / f"judged-{file_name(name)}.jsonl")
    same = {place: each for place, each in known.found.items() if each.get("by") == about}
    left, spent = [pair for pair in pairs if pair[1].place not in same], dict[str, float]()
    if left:
        model.builder.run_folder = folder  # where a reward keeps files of its own: what it may spend holds over resumes
        pool = model.builder.rewards(model.chosen.stage, (name,), model.roller)
        try:
            _check_needs(pool)
            for start in range(0, len(left), AT_ONCE):
                progress(f"asking {name}", start, len(left))
                found = [{**each, "by": about} for each in _said(pool, left[start : start + AT_ONCE], folder)]
                # A reward that failed is asked again when the evaluation is continued.
                known.add([each for each in found if each["value"] is not None])
                same |= {each["place"]: each for each in found}
                counted = pool.rewards[0].reward.tally()
                pool.rewards[0].reward.settle(counted)
                spent |= {key: spent.get(key, 0.0) + count for key, count in counted.items()}
            progress(f"asking {name}", len(left), len(left))
        finally:
            pool.close()
    return Judged({place: _score(each) for place, each in same.items()}, spent)


def _check_needs(pool: RewardPool) -> None:
    (live,) = pool.rewards
    unknown = set(live.reward.needs) - {"text", "waveform"}
    if unknown:
        raise UsageError(
            f"reward {live.name!r} looks at {', '.join(sorted(unknown))}, which an answer in a file does not have",
            hint="judge by a reward that reads or listens",
        )


def _said(pool: RewardPool, pairs: Sequence[tuple[Question, Given]], folder: Path) -> Iterator[dict[str, Any]]:
    """What the reward of the pool says of each answer."""
    (live,) = pool.rewards
    groups = [_group(question, given, folder) for question, given in pairs]
    calls = pool.score(live.name, groups)
    scores = collect_scores(pool.rewards, {live.name: calls}, (len(groups), 1))
    said = {**scores.parts, **scores.guards}  # a guard may be asked by its name
    values, words = said[live.name][:, 0].tolist(), scores.words[live.name]
    for (question, given), value, (word,) in zip(pairs, values, words, strict=True):
        number = None if math.isnan(value) else value
        # The same reason for several answers is counted as one.
        reason = word.reason.replace(question.dialogue.label, "the dialogue")
        reason = reason.replace(f"dialogue {question.dialogue.id}", "the dialogue")
        yield {"place": given.place, "value": number, "reason": reason, "details": dict(word.details)}


def _group(question: Question, given: Given, folder: Path) -> RolloutGroup:
    """An answer from a file, as rewards know it: without its tokens."""
    nothing = TokenSequence(torch.zeros((1, 0), dtype=torch.int64), torch.zeros((1, 0), dtype=torch.int8))
    answer = Answer(given.text, (), given.finished)
    rollout = Rollout(nothing, torch.zeros((1, 0)), answer, waveform=given.sound(folder))
    return RolloutGroup(question.dialogue, nothing, (rollout,))


def _score(record: Mapping[str, Any]) -> Score:
    details = {key: value for key, value in dict(record["details"]).items() if isinstance(value, str | int | float)}
    return Score(record["value"], str(record["reason"]), details)


def pairs_of(questions: Sequence[Question], given: Sequence[Given]) -> Iterator[tuple[Question, Given]]:
    """Every question with its answer."""
    by_place = {each.place: each for each in given}
    for question in questions:
        if question.place in by_place:
            yield question, by_place[question.place]
