"""Answers worth keeping: lines of rollouts.jsonl with their sound beside them, lines of evaluation.jsonl without."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor

from wavalign.engine.run.evaluation import Item, Verdict
from wavalign.engine.step.guards import tripped_by
from wavalign.engine.step.rewards import Scores
from wavalign.errors import quoted
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Rollout, RolloutGroup
from wavalign.redaction import REDACTOR

LONGEST_VALUE, MOST_METADATA = 1000, 8000
"""Characters of a metadata value, and of all of them, in a line of rollouts.jsonl."""
CUT = "(cut)"
"""Key that says what was left out of the metadata."""
LONGEST_NAME = 120
"""Characters of a file's name before it is cut."""


@final
class RecordMaker:
    """Makes lines and writes the sound they refer to under `folder`/audio."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def lines(
        self,
        groups: Sequence[RolloutGroup],
        *,
        stage: str,
        step: int,
        split: str,
        scores: Scores | None = None,
        advantages: Tensor | None = None,
    ) -> Iterator[dict[str, Any]]:
        """One line per answer; `advantages` are [P, G]."""
        for p, group in enumerate(groups):
            for g, rollout in enumerate(group.rollouts):
                name = f"{stage}-{step}-{split}-{p}-{g}-{group.dialogue.id}"
                line = {"stage": stage, "step": step, "split": split, "group": p}
                line |= self._answer(group.dialogue, rollout, name)
                if scores is not None:
                    line |= _scores(scores, p, g)
                if advantages is not None:
                    line["advantage"] = float(advantages[p, g])
                yield line

    def sample(self, item: Item, *, stage: str, step: int, split: str) -> dict[str, Any]:
        """A held-out answer with its sound, its verdict and that on the gold answer."""
        dialogue, (rollout, *_) = item.group.dialogue, item.group.rollouts
        name = f"{stage}-{step}-{split}-{item.index}-0-{dialogue.id}"
        line = {"stage": stage, "step": step, "split": split, "item": item.index}
        line |= self._answer(dialogue, rollout, name) | _verdict(item.verdict)
        if item.gold is not None:
            line |= {f"reference_{key}": value for key, value in _verdict(item.gold).items()}
        return line

    def _answer(self, dialogue: Dialogue, rollout: Rollout, name: str) -> dict[str, Any]:
        question = _question(dialogue)
        line = {**_said(dialogue, rollout), "metadata": bounded(dialogue.metadata)}
        if rollout.waveform is not None and len(rollout.waveform.samples):
            path = self._path(name)
            audio.write(rollout.waveform, str(path))
            line["audio"] = str(path.relative_to(self.folder))
            # The question and the reference are only worth their disk beside an answer that can be heard.
            line |= self._copied("question_audio", question.audio if question is not None else None, dialogue)
            line |= self._copied("reference_audio", dialogue.target.audio if dialogue.target else None, dialogue)
        return line

    def _copied(self, key: str, clip: AudioClip | None, dialogue: Dialogue) -> Mapping[str, str]:
        if clip is None or not clip.has_sound:
            return {}
        path = self._path(f"{key}-{dialogue.id}-{_digest(clip.url)}")
        if not path.exists():
            audio.write(audio.read(clip, sample_rate=None), str(path))
        return {key: str(path.relative_to(self.folder))}

    def _path(self, name: str) -> Path:
        name = REDACTOR.text(name)
        safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
        if safe != name or len(safe) > LONGEST_NAME:
            safe = f"{safe[:LONGEST_NAME]}-{_digest(name)}"  # two names must not become one file
        path = self.folder / "audio" / f"{safe}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def bounded(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as every answer's line may repeat it: large values as their beginning and size, then only so many."""
    kept: dict[str, Any] = {}
    left, whole = MOST_METADATA, dict(metadata)
    for key, value in whole.items():
        text = json.dumps(value, ensure_ascii=False)
        shown = value if len(text) <= LONGEST_VALUE else quoted(text, LONGEST_VALUE)
        left -= len(key) + min(len(text), LONGEST_VALUE)
        if left < 0:
            kept[CUT] = f"{len(whole) - len(kept)} of {len(whole)} fields are left out here; the data has them"
            break
        kept[quoted(key, LONGEST_NAME)] = shown
    return kept


def evaluation_line(item: Item, *, stage: str, step: int, split: str) -> dict[str, Any]:
    """A held-out answer and its verdict, without its sound."""
    line = {"stage": stage, "step": step, "split": split, "item": item.index}
    line |= _said(item.group.dialogue, item.group.rollouts[0]) | _verdict(item.verdict)
    return line | ({"points": dict(item.verdict.points)} if item.verdict.points else {})


def _question(dialogue: Dialogue) -> Message | None:
    """The last turn of the user."""
    return next((turn for turn in reversed(dialogue.messages) if turn.role == "user"), None)


def _said(dialogue: Dialogue, rollout: Rollout) -> dict[str, Any]:
    question = _question(dialogue)
    return {
        "dialogue": dialogue.id,
        "question": question.text if question is not None else "",
        "text": rollout.answer.text,
        "reference": dialogue.target.text if dialogue.target is not None else None,
        "finished": rollout.answer.finished,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {"values": dict(verdict.values), "details": dict(verdict.details)}


def _scores(scores: Scores, p: int, g: int) -> dict[str, Any]:
    line: dict[str, Any] = {"reward": _number(scores.total[p, g])}
    tripped = tripped_by(scores, (p, g))
    if scores.guards:
        line["tripped"] = tripped
    for name, table in {**scores.parts, **scores.guards}.items():
        word = scores.words[name][p][g]
        line[f"reward/{name}"] = _number(table[p, g])
        if word.value is None or (name in tripped and word.reason):
            line[f"reason/{name}"] = quoted(word.reason, MOST_METADATA)
        line |= {f"detail/{name}/{key}": _shown(value) for key, value in word.details.items()}
    return line


def _shown(detail: float | str) -> float | str:
    """A detail as JSON can hold it: what is no number is shown in words."""
    if isinstance(detail, str):
        return quoted(detail, MOST_METADATA)
    return str(detail) if isinstance(detail, float) and not math.isfinite(detail) else detail


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _number(value: Tensor) -> float | None:
    """A scalar [] as JSON can hold it."""
    number = float(value)
    return None if math.isnan(number) else number
