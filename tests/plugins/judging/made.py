"""Answers to be judged, and judges to judge them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavalign.plugins.api import Process
from wavalign.plugins.batch import Answer, Dialogue, Message, Rollout, TokenSequence, Waveform
from wavalign.plugins.rewards.judge import JudgeParams, JudgeReward

KEY = "jk-4f9Zq81mXw27Lr"
RATE = 22_050
SUM = Dialogue("sum", (Message("user", "what is five plus seven?"),), metadata={"reference": "twelve"})


def tone(seconds: float = 0.2, rate: int = RATE) -> Waveform:
    """A sound."""
    time = np.arange(int(seconds * rate)) / rate
    return Waveform((0.3 * np.sin(2 * np.pi * 220 * time)).astype(np.float32), rate)


def rollout(text: str = "it is twelve", sound: Waveform | None = None) -> Rollout:
    """An answer."""
    tokens = TokenSequence(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int8))
    codes = () if sound is None else (1, 2)
    return Rollout(tokens, torch.zeros(1, 1), Answer(text, codes, True), waveform=sound)


def params(url: str, **more: Any) -> JudgeParams:
    """One judge that reads, quick to try again, without a cache on disk."""
    service = {"url": url, "model": "fake", "api_key": KEY, "max_tokens": 100, **more.pop("service", {})}
    given: dict[str, Any] = {"judges": {"one": service}, "rubric": "semantic", "cache": False, "request_seconds": 1.0}
    return JudgeParams.model_validate({**given, "retries": {"attempts": 3, "seconds": 0.02}, **more})


def judge(url: str, folder: Path | None = None, *, rank: int = 0, processes: int = 1, **more: Any) -> JudgeReward:
    """One that has joined."""
    made = JudgeReward(params(url, **more))
    made.join(Process(rank, processes, folder, timeout=10.0))
    return made
