"""Synthetic run folders: every number below is written by hand or by a formula here; none was measured."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wavalign.plugins import audio
from wavalign.plugins.batch import Waveform

HOSTILE = "<script>alert('answer')</script> & \"quoted\""
RECIPE = """# resolved
name: synthetic-hybrid
description: Synthetic numbers for the tests of the report; nothing here was measured.
seed: 7
objective:
  gate: {type: rollout_adaptive, ceiling: 0.8}
  terms:
    rl: {loss: {type: grpo}, tokens: text, share: gate}
    sft: {loss: {type: cross_entropy}, tokens: all, share: 1 - gate}
"""
QUESTIONS = (
    (
        "How many legs does a spider have?",
        "A spider has eight legs.",
        "Spiders live in webs and houses.",
        "It has eight.",
    ),
    ("Say the capital of France, slowly.", "The capital of France is Paris.", "The capital is.", "It is Paris."),
)


def tone(seconds: float, pitch: float, *, sample_rate: int = 16_000) -> Waveform:
    """A tone that swells and fades several times."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    shape = 0.15 + 0.85 * np.abs(np.sin(2.2 * math.pi * time)) * np.exp(-time / (2 * seconds))
    return Waveform((0.6 * shape * np.sin(2 * math.pi * pitch * time)).astype(np.float32), sample_rate)


def train_line(step: int, *, wobble: float = 0.0) -> dict[str, Any]:
    """One training step with every key a hybrid run logs."""
    noise = math.sin(step * 2.7 + wobble) + 0.6 * math.sin(step * 7.1 + 2 * wobble)
    raw = min(0.8, 0.08 + 0.005 * step + 0.05 * abs(noise))
    return {
        "stage": "align", "step": step, "split": "train", "time": f"2026-01-05T10:{step // 60:02d}:{step % 60:02d}Z",
        "loss": 2.1 * math.exp(-step / 60) + 0.5 + 0.03 * noise, "loss/rl": 0.02 * noise - 0.03,
        "loss/sft": 2.4 * math.exp(-step / 60) + 0.6 + 0.04 * noise, "share/rl": raw * 0.9, "share/sft": 1 - raw * 0.9,
        "gate": 0.1 + 0.005 * step, "gate/raw": raw, "gate/direction": 1 / (1 + math.exp(-(step - 30) / 12)),
        "gate/information": 0.3 + 0.1 * abs(noise),
        "reward": 2.2 + 1.6 * (1 - math.exp(-step / 40)) + 0.1 * noise, "reward_std": 0.8 - 0.003 * step,
        "reward/answer": 2.0 + 2.1 * (1 - math.exp(-step / 40)) + 0.1 * noise, "reward/speech": 2.4 + 0.01 * step,
        "reward/answer/failed": 0, "reward/speech/failed": int(step % 20 == 0), "zero_variance_groups": 0.125,
        "kl/text": 0.0004 * step + 0.002 * abs(noise), "kl/audio": 0.0001 * step + 0.001 * abs(noise),
        "kl/marks": 0.00005 * step, "rl/ratio": 1.0 + 0.002 * noise, "tokens/rl": 640 + 8 * step, "tokens/sft": 4100,
        "grad_norm": 1.2 + 0.3 * noise, "learning_rate": 1e-4 * min(1.0, step / 10), "rollout_length": 48 + 0.2 * step,
        "truncated": max(0.0, 0.2 - step / 300), "step_seconds": 1.5, "rollout_seconds": 0.9, "reward_seconds": 0.2,
        "learn_seconds": 0.4, "tokens_per_second": 3100.0 + 80 * noise,
        "samples_per_second": 42.0, "learned/text_tokens_per_second": 2000.0, "learned/audio_tokens_per_second": 1000.0,
        "operator/rollout_seconds": 0.9, "operator/backward_seconds": 0.3 if step > 1 else 30.0,
        "operator/gate_seconds": 0.001, "operator/rows_seconds": 0.002, "model_flops_per_second": 4.5e12, "mfu": 0.375,
    }  # fmt: skip


def evaluation_line(
    step: int, values: Mapping[str, tuple[float, float, float]], *, split: str = "heldout"
) -> dict[str, Any]:
    """`values`: name -> (value, half width of the interval, gold value)."""
    line: dict[str, Any] = {
        "stage": "align",
        "step": step,
        "split": split,
        "time": f"2026-01-05T10:00:{step % 60:02d}Z",
    }
    for name, (value, half, gold) in values.items():
        line |= {name: value, f"{name}/low": value - half, f"{name}/high": value + half, f"{name}/count": 64}
        line |= {f"{name}/ceiling": gold, f"{name}/ceiling_low": gold - 0.01, f"{name}/ceiling_high": gold + 0.01}
    return line | {"evaluation_seconds": 4.5}


BEFORE = {"answer_accuracy": (0.25, 0.06, 0.97), "speech_wer": (0.5, 0.08, 0.04), "words": (9.0, 1.0, 6.0)}
AFTER = {"answer_accuracy": (0.75, 0.05, 0.97), "speech_wer": (0.46, 0.08, 0.04), "words": (12.5, 1.0, 6.0)}


def rollout_lines(folder: Path) -> list[dict[str, Any]]:
    """Two dialogues at the start and at the end, with sound for all but one answer."""
    lines = []
    for index, (question, reference, early, late) in enumerate(QUESTIONS):
        audio.write(tone(1.2, 180), folder / f"audio/q{index}.wav")
        audio.write(tone(1.9, 200), folder / f"audio/ref{index}.wav")
        for step, text, seconds in ((0, early, 2.5), (100, late if index else f"{late} {HOSTILE}", 1.5)):
            line: dict[str, Any] = {
                "stage": "align", "step": step, "split": "heldout", "dialogue": f"d{index}", "question": question,
                "text": text, "reference": reference, "finished": not (index and step == 0), "metadata": {},
                "question_audio": f"audio/q{index}.wav", "reference_audio": f"audio/ref{index}.wav",
                "reward": 2.25 if step == 0 else 4.5, "reward/answer": 1.0 if step == 0 else 5.0,
                "reward/speech": 3.5 if index == 0 else None, "detail/speech/heard": text.lower()[:40],
            }  # fmt: skip
            if index:
                line["reason/speech"] = "no sound to hear"
            if not (index and step == 0):
                line["audio"] = f"audio/a{index}-{step}.wav"
                audio.write(tone(seconds, 150 + step), folder / line["audio"])
            lines.append(line)
    return lines


def outcome(
    step: int,
    item: int,
    text: str,
    *,
    values: Mapping[str, float | None],
    details: Mapping[str, str | float | None] | None = None,
) -> dict[str, Any]:
    """A line of evaluation.jsonl."""
    return {
        "stage": "align", "step": step, "split": "heldout", "item": item, "dialogue": f"d{item}",
        "question": f"question {item}", "text": text, "reference": f"answer {item}", "finished": True,
        "values": dict(values), "details": dict(details or {}),
    }  # fmt: skip


def judged_run(
    folder: Path, before: Mapping[str, str], after: Mapping[str, str], *, gold: float = 1.0, **more: Any
) -> Path:
    """A run in `folder` whose shares are spelt item by item: `1` right, `0` wrong, `-` left out."""
    write_run(folder, **more)
    lines, outcomes = [synthetic_steps(100)[-1]], []
    for step, shares in ((0, before), (100, after)):
        line: dict[str, Any] = {"stage": "align", "step": step, "split": "heldout", "time": "2026-01-05T10:00:00Z"}
        for name, marks in shares.items():
            counted = [float(mark) for mark in marks if mark != "-"]
            share = sum(counted) / len(counted) if counted else None
            line |= {name: share, f"{name}/low": 0.0, f"{name}/high": 1.0, f"{name}/count": len(counted)}
            line |= {f"{name}/ceiling": gold, f"{name}/ceiling_low": gold, f"{name}/ceiling_high": gold}
        lines.append(line)
        for item in range(len(next(iter(shares.values())))):
            values = {name: None if marks[item] == "-" else float(marks[item]) for name, marks in shares.items()}
            outcomes.append(outcome(step, item, f"said {item} at {step}", values=values))
    write_lines(folder / "metrics.jsonl", lines)
    write_lines(folder / "evaluation.jsonl", outcomes)
    write_lines(folder / "rollouts.jsonl", [])
    said = {name: {"metric": name.split("_")[0], "unit": "", "says": f"What {name} is."} for name in before}
    (folder / "measures.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


def synthetic_steps(steps: int) -> list[dict[str, Any]]:
    """Training lines up to `steps`."""
    return [train_line(step) for step in range(1, steps + 1)]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_run(
    folder: Path, *, name: str = "synthetic-hybrid", seed: int = 7, steps: int = 100, shift: float = 0.0
) -> Path:
    """A finished run in `folder`; `shift` moves the final accuracy."""
    (folder / "audio").mkdir(parents=True)
    after = dict(AFTER)
    after["answer_accuracy"] = (0.75 + shift, 0.05, 0.97)
    lines = [evaluation_line(0, BEFORE), *(train_line(step, wobble=seed) for step in range(1, steps + 1))]
    write_lines(folder / "metrics.jsonl", [*lines, evaluation_line(steps, after)])
    write_lines(folder / "rollouts.jsonl", rollout_lines(folder))
    pruned = [
        {"what": "reference", "why": "no term asks for a KL"},
        {"what": "critic", "why": "no loss asks for values"},
    ]
    plan = {
        "name": name, "seed": seed, "fingerprint": f"{seed:02d}ab34cd56ef",
        "stages": [{"name": "align", "stage": {"type": "train", "steps": 100}, "graph": {"pruned": pruned}}],
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    environment = {
        "wavalign": "0.1.0", "python": "3.11", "processor": "synthetic processor", "cores": 8, "gpus": [],
        "versions": {"torch": "2.13.0"}, "command": ["wavalign", "run", "synthetic.yaml"],
    }  # fmt: skip
    (folder / "finished.json").write_text("{}", encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    (folder / "recipe.resolved.yaml").write_text(RECIPE.replace("seed: 7", f"seed: {seed}"), encoding="utf-8")
    return folder
