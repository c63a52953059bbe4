"""A small Kimi-style model over a word-level vocabulary, for tests; where it hears features, beside a small Whisper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.plugins.architectures.vita_helpers import codes_of, spoken, write_tokenizer
from tests.plugins.speech.whisper_helpers import WIDTH, write_whisper
from wavalign.plugins import audio
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.kimi import KimiAudio, KimiParams
from wavalign.plugins.architectures.kimi_audio.policy import KimiPolicy
from wavalign.plugins.batch import AudioClip, Dialogue, Message, TokenSequence, Waveform

NUM_CODES = 16
FEATURE_SIZE = 4 * WIDTH
SAMPLES_PER_CODE = 1280
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 3,
    "num_audio_layers": 1,
    "branch_layer": 1,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "num_codes": NUM_CODES,
    "audio_delay": 2,
}


def small_kimi(folder: Path, **changes: Any) -> KimiAudio:
    """A 3 + 1 layer architecture; `changes` are Params fields."""
    params = KimiParams(**{**SMALL, **changes})
    return KimiAudio(params, source=ModelSource(None, "tiny", write_tokenizer(folder)))


def hearing_kimi(folder: Path, **changes: Any) -> KimiAudio:
    """A small architecture that hears features of clips, from a small Whisper."""
    return small_kimi(folder, **{"whisper": write_whisper(folder / "whisper"), "feature_size": FEATURE_SIZE, **changes})


def write_clip(codes: Sequence[int], folder: Path = Path()) -> AudioClip:
    """A sound file, named by its codes as `spoken` and `codes_of` do, of their length and with a pitch for each."""
    count = SAMPLES_PER_CODE * len(codes) - 100  # the last code stands for sound that is not quite whole
    pitch = np.repeat([200.0 + 50.0 * code for code in codes], SAMPLES_PER_CODE)[:count]
    samples = 0.5 * np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
    name = ",".join(map(str, codes))
    audio.write(Waveform(samples.astype(np.float32), 16_000), folder / name)
    return AudioClip(name)


def lively_policy(architecture: KimiAudio, *, seed: int = 0, scale: float = 8.0) -> KimiPolicy:
    """Random weights large enough that the distributions are far from uniform."""
    policy = architecture.build_policy(seed=seed)
    assert isinstance(policy, KimiPolicy)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return policy


def spoken_prompts(architecture: KimiAudio, lengths: Sequence[int]) -> list[tuple[Dialogue, TokenSequence]]:
    """Prompts with so many user codes each."""
    dialogues = [spoken(f"d{n}", [(3 * n + i) % NUM_CODES for i in range(n)]) for n in lengths]
    return [(dialogue, architecture.encode_prompt(dialogue, codes_of)) for dialogue in dialogues]


def target(text: str, codes: Sequence[int]) -> Dialogue:
    """A dialogue with an answer; no codes, no sound."""
    clip = AudioClip(",".join(map(str, codes))) if codes else None
    return Dialogue("d", (Message("user", "w1"),), Message("assistant", text, clip))


def picture(kimi: KimiAudio, ids: Tensor) -> tuple[str, str]:
    """Both streams `ids` [2, T] in short names: B blank, E and D the ends, U and S the turns, [ ] media, T W wanted."""
    layout = kimi.vocabulary.layout
    short = {
        layout.blank: "B",
        layout.text_end: "E",
        layout.message_end: "D",
        layout.user_start: "U",
        layout.assistant_start: "S",
        layout.media_begin: "[",
        layout.media_end: "]",
        layout.text_wanted: "T",
        layout.speech_wanted: "W",
    }
    words = kimi.vocabulary.tokenizer.convert_ids_to_tokens

    def name(x: int) -> str:
        return short.get(x) or (str(x - layout.first_code) if x >= layout.first_code else str(words(x)))

    text, audio = (" ".join(name(x) for x in row) for row in ids.tolist())
    return text, audio
