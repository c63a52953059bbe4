"""The answers of an evaluation's folder (`wavalign evaluate`), as those of a run, to be listened to."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wavalign.engine.report.data import Measure, RunData, Sample, inside
from wavalign.engine.report.outcomes import details_of, values_of
from wavalign.engine.report.reading import read_object, whole
from wavalign.errors import DataError
from wavalign.redaction import REDACTOR

ANSWERS, SCORES, SUMMARY = "answers.jsonl", "scores.jsonl", "summary.json"


def is_evaluation(folder: Path) -> bool:
    """Whether `wavalign evaluate` wrote it."""
    return (folder / ANSWERS).is_file() and (folder / SUMMARY).is_file()


def read_evaluation(folder: Path) -> RunData:
    """Its answers as samples of one split; raises DataError naming the line that is none."""
    notes: list[str] = []
    summary = read_object(folder / SUMMARY, notes)
    scored = {line.get("place"): line for line in _lines(folder / SCORES)} if (folder / SCORES).is_file() else {}
    split = str(summary.get("subset", "answers"))
    samples = [_sample(line, scored.get(line.get("place"), {}), folder, split) for line in _lines(folder / ANSWERS)]
    return RunData(
        folder=folder,
        name=f"{summary.get('suite', '')} {split}".strip(),
        description=str(summary.get("model", "")),
        seed=None,
        fingerprint="",
        stages=(),
        lines=(),
        samples=tuple(samples),
        outcomes={},
        measures=_measures(summary.get("values")),
        environment=(),
        recipe="",
        complete=True,
        notes=tuple(notes),
    )


def _sample(line: Mapping[str, Any], score: Mapping[str, Any], folder: Path, split: str) -> Sample:
    details = details_of(score.get("details"))
    heard = next((value for name, value in details.items() if name.endswith("/heard")), None)
    correct = score.get("correct")
    return Sample(
        stage="evaluate",
        step=0,
        split=split,
        dialogue=str(line.get("dialogue", "")),
        item=whole(line.get("place")),
        group=None,
        question=str(score.get("question", "")),
        text=str(line.get("text", "")),
        reference=", ".join(map(str, correct)) if isinstance(correct, list) and correct else None,
        finished=line["finished"] if isinstance(line.get("finished"), bool) else None,
        audio=inside(folder, line.get("audio")),
        question_audio=None,
        reference_audio=None,
        reward=None,
        advantage=None,
        parts={},
        reasons={},
        details={},
        values=values_of(score.get("values")),
        shown={} if heard is None else {"heard": heard},
        reference_values={},
        reference_shown={},
    )


def _measures(values: object) -> dict[str, Measure]:
    found = values.items() if isinstance(values, dict) else ()
    return {
        str(name): Measure(
            "evaluate",
            "" if each.get("unit") == "share" else " ",
            str(each.get("says", "")),
            each.get("better") == "less",
        )
        for name, each in found
        if isinstance(each, dict)
    }


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            yield dict(REDACTOR.tree(json.loads(text)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}:{number}: no answer: {error}", hint="evaluate again") from error
