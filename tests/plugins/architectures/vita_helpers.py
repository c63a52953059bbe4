"""A small VITA-style model over a word-level vocabulary, for tests."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.vita import VitaAudio, VitaParams
from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy
from wavalign.plugins.batch import AudioClip, Dialogue, Message, TokenSequence

NUM_CODES = 16
WORDS = ("<unk>", "\n", "system", "user", "assistant", *(f"w{i}" for i in range(20)))
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "num_codes": NUM_CODES,
}


def write_tokenizer(folder: Path) -> str:
    """Write a word-level base tokenizer in which a line break is a word."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    path = folder / "words.json"
    tokenizer.save(str(path))
    return str(path)


def small_vita(folder: Path, **changes: Any) -> VitaAudio:
    """A 2-layer architecture; `changes` are Params fields."""
    params = VitaParams(**{**SMALL, **changes})
    return VitaAudio(params, source=ModelSource(None, "tiny", write_tokenizer(folder)))


def hearing_vita(folder: Path, **changes: Any) -> VitaAudio:
    """A 2-layer architecture that hears user sound as features; `changes` are Params fields."""
    params = VitaParams(**{**SMALL, **changes})
    return VitaAudio(params, source=ModelSource(None, "tiny-plus", write_tokenizer(folder)))


def lively_policy(architecture: VitaAudio, *, seed: int = 0, scale: float = 8.0) -> VitaPolicy:
    """Random weights large enough that the distributions are far from uniform."""
    policy = architecture.build_policy(seed=seed)
    assert isinstance(policy, VitaPolicy)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return policy


def codes_of(clip: AudioClip) -> Sequence[int]:
    """Codes written in the address itself: `1,2,3`, folders before them or not."""
    return [int(code) for code in clip.url.rpartition("/")[2].split(",")]


def audible(codes: Sequence[int]) -> AudioClip:
    """`codes` as sound in memory at 16 kHz, 80 ms of a tone for each; `codes_of` reads them too."""
    clip, time = AudioClip(f"memory://clips/{','.join(map(str, codes))}"), np.arange(1280) / 16000
    tones = [0.3 * np.sin(2 * np.pi * 200 * 2 ** (code / 4) * time) for code in codes]
    file = io.BytesIO()
    soundfile.write(file, np.concatenate(tones), 16000, subtype="PCM_16", format="WAV")
    with fsspec.open(clip.url, "wb") as target:
        target.write(file.getvalue())
    return clip


def spoken(name: str, codes: Sequence[int], text: str = "") -> Dialogue:
    """A dialogue whose user speaks `codes`."""
    return Dialogue(name, (Message("user", text, audible(codes)),))


def spoken_prompts(architecture: VitaAudio, lengths: Sequence[int]) -> list[tuple[Dialogue, TokenSequence]]:
    """Prompts with so many user codes each."""
    dialogues = [spoken(f"d{n}", [(3 * n + i) % NUM_CODES for i in range(n)]) for n in lengths]
    return [(dialogue, architecture.encode_prompt(dialogue, codes_of)) for dialogue in dialogues]
