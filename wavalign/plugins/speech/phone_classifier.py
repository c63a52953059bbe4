"""Which phone of a neural voice is spoken, every 25 ms: a small network on a log-mel spectrogram, and its training.

    mel         40 bands up to 7.6 kHz every 12.5 ms, relative to the loudest frame of the sound
    input       every second frame from 200 ms before to 200 ms after, [17 * 40]
    network     three layers of 512, cross entropy over the voice's phones

It learns from what the voice itself says (`speech.neural_voice` knows its phones), in other vocal tracts and under some
noise too, so that it hears other speakers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
import soxr
import torch
from torch import Tensor, nn
from torch.nn import functional

from wavalign.plugins.speech.neural_voice import SAMPLE_RATE as VOICE_RATE
from wavalign.plugins.speech.neural_voice import Array, Ids, Manner, neural_voice
from wavalign.plugins.speech.prosody import frames

SAMPLE_RATE = 16_000
HOP = 200
"""Samples of a frame: 12.5 ms. Two frames are one decision."""
_WINDOW = 512
_BANDS = 40
_REACH = 16
"""Frames on each side that a decision looks at, every second of them."""
_INPUTS = (_REACH + 1) * _BANDS
_WIDTH = 512
_FLOOR = 1e-5
_BATCH = 384
_LEARNING_RATE = 3e-3
_TRACTS = (0.8, 0.86, 0.92, 1.1, 1.18)


@final
class PhoneClassifier(nn.Module):
    """Log-mel context [N, 680] to scores of phones [N, V]."""

    def __init__(self, num_phones: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(_INPUTS, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.third, self.out = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, num_phones)

    def forward(self, context: Tensor) -> Tensor:
        """Scores [N, V] of `context` [N, 680]."""
        state = functional.gelu(self.first(context))
        state = state + functional.gelu(self.second(state))
        state = state + functional.gelu(self.third(state))
        scores: Tensor = self.out(state)
        return scores


@final
@dataclass(frozen=True, slots=True)
class Example:
    """A sound whose phones are known; T decisions of 25 ms."""

    context: Tensor
    """[T, 680]."""
    phones: Ids
    """[T] ids of the voice."""
    level: Array
    """[T] of the voice's score."""
    loudness: Array
    """[T] dB re full scale."""


def spectrum(samples: Array) -> tuple[Tensor, Array]:
    """Context [T, 680] and loudness [T] in dB of `samples` (16 kHz); T = ceil(N / 400)."""
    count = -(-len(samples) // (2 * HOP))
    padded = np.pad(samples, (0, count * 2 * HOP - len(samples)))
    parts = frames(padded, length=_WINDOW, hop=HOP)
    power = np.abs(np.fft.rfft(parts * np.hanning(_WINDOW).astype(np.float32), axis=1)) ** 2
    mel = power @ _filters().T
    loud = float(mel.sum(axis=1).max(initial=0.0)) + 1e-12
    logs = torch.from_numpy((np.log(mel / loud + _FLOOR) / 4.0 + 1.5).astype(np.float32))
    reach = torch.cat([logs[:1].expand(_REACH, -1), logs, logs[-1:].expand(_REACH, -1)])
    context = reach.unfold(0, 2 * _REACH + 1, 1)[::2, :, ::2].reshape(count, _INPUTS)
    energy = np.mean(padded.reshape(count, 2 * HOP) ** 2, axis=1)
    return context, (10.0 * np.log10(energy + 1e-10)).astype(np.float32)


def spoken_examples(texts: Sequence[str], *, generator: np.random.Generator) -> list[Example]:
    """What the voice says of `texts`, in manners, tracts and noise drawn from `generator`."""
    return [_example(text, generator) for text in texts]


def train_classifier(
    examples: Sequence[Example], phones: Sequence[int], *, steps: int, generator: torch.Generator
) -> PhoneClassifier:
    """Fit the network to `examples`, whose phones are all among `phones`."""
    context = torch.cat([each.context for each in examples])
    number = {phone: index for index, phone in enumerate(phones)}
    wanted = torch.tensor([number[int(phone)] for each in examples for phone in each.phones])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))
        network = PhoneClassifier(len(phones))
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        chosen = torch.randint(len(wanted), (_BATCH,), generator=generator)
        loss = functional.cross_entropy(network(context[chosen]), wanted[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def _example(text: str, generator: np.random.Generator) -> Example:
    tract = 1.0 if generator.random() < 0.8 else float(_TRACTS[int(generator.integers(len(_TRACTS)))])
    deep = tract < 1.0 and generator.random() < 0.7
    pitch = float(generator.uniform(-10.0, -4.0) if deep else generator.uniform(-4.0, 5.0))
    manner = Manner(
        speed=float(np.exp(generator.uniform(-0.25, 0.25))) / tract,
        pitch=pitch - 12.0 * float(np.log2(tract)),
        range=float(generator.uniform(0.5, 1.5)),
        level=float(generator.uniform(-1.0, 1.0)),
    )
    score = neural_voice().read(text, manner)
    sound = neural_voice().sing(score, seed=int(generator.integers(1 << 31))).samples
    samples = np.asarray(soxr.resample(sound, VOICE_RATE * tract, SAMPLE_RATE), dtype=np.float32)
    noise = generator.standard_normal(len(samples)).astype(np.float32)
    noisy = generator.random() < 0.2
    decibels = float(generator.uniform(20.0, 40.0)) if noisy else 60.0
    samples = samples + noise * np.float32(np.sqrt(np.mean(samples**2)) * 10.0 ** (-decibels / 20.0))
    context, loudness = spectrum(samples)
    place = ((np.arange(len(loudness)) + 0.5) * tract).astype(int).clip(max=len(score.phones) - 1)
    level = score.level.reshape(-1, 2).mean(axis=1)[place]
    return Example(context, score.phones[place], level.astype(np.float32), loudness)


@cache
def _filters() -> Array:
    """Triangles [40, bins] on the mel scale from 40 Hz to 7.6 kHz."""
    low, high = (2595.0 * np.log10(1.0 + hertz / 700.0) for hertz in (40.0, 7600.0))
    edges = 700.0 * (10.0 ** (np.linspace(low, high, _BANDS + 2) / 2595.0) - 1.0)
    frequency = np.fft.rfftfreq(_WINDOW, 1.0 / SAMPLE_RATE)[None]
    left, centre, right = (edges[start : start + _BANDS, None] for start in range(3))
    rise, fall = (frequency - left) / (centre - left), (right - frequency) / (right - centre)
    return np.asarray(np.maximum(np.minimum(rise, fall), 0.0), dtype=np.float32)
