"""Lines of rollouts.jsonl and the sound beside them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from wavalign.engine.run.rollout_log import RecordMaker
from wavalign.engine.state.metrics import ROLLOUTS_NULLABLE, MetricsWriter
from wavalign.engine.step.rewards import Scores
from wavalign.plugins.batch import (
    Answer,
    AudioClip,
    Dialogue,
    Message,
    Rollout,
    RolloutGroup,
    Scored,
    TokenSequence,
    Waveform,
)

EMPTY = TokenSequence(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int8))


def rollout(text: str, level: float | None = None) -> Rollout:
    sound = None if level is None else Waveform(np.full(80, level, dtype=np.float32), 8000)
    return Rollout(EMPTY, torch.zeros(1, 0), Answer(text, (), True), waveform=sound)


def group(name: str, *rollouts: Rollout, **dialogue: Any) -> RolloutGroup:
    turns = dialogue.pop("messages", (Message("user", "first?"), Message("assistant", "a"), Message("user", "second?")))
    return RolloutGroup(Dialogue(name, turns, **dialogue), EMPTY, rollouts)


def lines(folder: Path, *groups: RolloutGroup, **more: Any) -> list[dict[str, Any]]:
    return list(RecordMaker(folder).lines(groups, stage="align", step=7, split="train", **more))


def level(folder: Path, line: dict[str, Any], key: str = "audio") -> float:
    samples, rate = soundfile.read(folder / line[key])
    assert rate == 8000
    assert soundfile.info(folder / line[key]).subtype == "PCM_16"
    return float(samples.mean())


def test_a_line(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, group("d", rollout("no sound"), metadata={"style": "sad"}))
    assert line == {
        "stage": "align",
        "step": 7,
        "split": "train",
        "group": 0,
        "dialogue": "d",
        "question": "second?",
        "text": "no sound",
        "reference": None,
        "finished": True,
        "metadata": {"style": "sad"},
    }
    assert not (tmp_path / "audio").exists()


def test_scores_and_advantages(tmp_path: Path) -> None:
    nan = math.nan
    words = {
        "asr": ((Scored(0.5, details={"heard": "hi", "distance": 0.25}), Scored(None, "silent", {"distance": nan})),),
    }
    scores = Scores(torch.tensor([[3.0, nan]]), {"asr": torch.tensor([[3.0, nan]])}, words, {"asr": 1})
    first, second = lines(
        tmp_path, group("d", rollout("a"), rollout("b")), scores=scores, advantages=torch.tensor([[1.5, 0.0]])
    )
    assert (first["reward"], first["reward/asr"], first["advantage"]) == (3.0, 3.0, 1.5)
    assert (first["detail/asr/heard"], first["detail/asr/distance"]) == ("hi", 0.25)
    assert "reason/asr" not in first
    assert (second["reward"], second["reward/asr"], second["reason/asr"], second["advantage"]) == (
        None,
        None,
        "silent",
        0,
    )
    # A detail that is no number is shown as one would say it; JSON has no NaN and the run goes on.
    assert second["detail/asr/distance"] == "nan"
    writer = MetricsWriter(tmp_path / "rollouts.jsonl", nullable=ROLLOUTS_NULLABLE)
    for line in (first, second):
        writer.write(line)
    writer.close()
    read = [json.loads(text) for text in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert read == [first, second]


def test_every_answer_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Also two answers to one dialogue, a dialogue twice in a step, and ids that look alike once cleaned."""
    found = lines(
        tmp_path,
        group("a/b", rollout("", 0.1), rollout("", 0.2)),
        group("a b", rollout("", 0.3)),
        group("a/b", rollout("", 0.4)),
        group("问题一", rollout("", 0.5)),
        group("问题二", rollout("", 0.6)),
        group("x" * 400, rollout("", 0.7)),
    )
    for index, line in enumerate(found):
        assert level(tmp_path, line) == pytest.approx(0.1 * (index + 1), abs=1e-3)
        path = Path(line["audio"])
        assert path.parts[0] == "audio"
        assert path.name.isascii()
        assert len(path.name) < 200
        assert set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def test_names_are_the_same_every_time(tmp_path: Path) -> None:
    one = group("a/b", rollout("", 0.1))
    assert lines(tmp_path, one) == lines(tmp_path, one)


def test_the_question_and_the_reference_are_copied_beside_an_answer_that_sounds(tmp_path: Path) -> None:
    for name, value in (("q", 0.2), ("r", 0.3), ("other", 0.4)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(80, value), 8000)
    turns = (Message("user", "what?", AudioClip(str(tmp_path / "q.wav"))),)
    target = Message("assistant", "that", AudioClip(str(tmp_path / "r.wav")))
    run = tmp_path / "run"
    (line,) = lines(run, group("d", rollout("", 0.1), messages=turns, target=target))
    assert [round(level(run, line, key), 2) for key in ("audio", "question_audio", "reference_audio")] == [
        0.1,
        0.2,
        0.3,
    ]
    assert line["reference"] == "that"
    # Another source may use the same id for another question.
    others = (Message("user", "what?", AudioClip(str(tmp_path / "other.wav"))),)
    (line,) = lines(run, group("d", rollout("", 0.1), messages=others))
    assert level(run, line, "question_audio") == pytest.approx(0.4, abs=1e-3)
    silent = lines(run, group("d", rollout("no sound"), messages=turns, target=target))
    assert not {"audio", "question_audio", "reference_audio"} & set(silent[0])
