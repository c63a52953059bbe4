"""The two code books of the phonetic codec: fitting, looking up, speaking, saving and loading.

A patch is some frames of 25 ms. Content is which phone each of them says, prosody (semitones, level) of the whole
patch, the level being what it has above the mean of its phones. The content book holds the patterns of phones that
occur most in what the voice itself reads, whose phones are known; a patch is given the pattern that is likeliest under
the classifier's probabilities.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from wavalign.errors import CheckpointError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.codebooks import k_means
from wavalign.plugins.speech.codec_file import HINT, check_shapes, read_codec, write_codec
from wavalign.plugins.speech.codes import digest
from wavalign.plugins.speech.neural_voice import PAD, VOICED, Array, Ids, neural_voice
from wavalign.plugins.speech.phone_classifier import (
    HOP,
    SAMPLE_RATE,
    PhoneClassifier,
    spectrum,
    spoken_examples,
    train_classifier,
)
from wavalign.plugins.speech.prosody import track

_FORMAT = "wavalign-phonetic-2"
_SWITCH = 3.0
"""Nats that a change of phone costs while patterns are counted."""
_PATH = 8.0
"""Nats that the phones of the cheapest path are given in addition."""
_PRIOR = 0.3
"""How much of a pattern's log frequency counts beside what is heard."""
_LEVEL_WEIGHT = 2.0
"""Of one unit of level, where a semitone counts 1."""
_MIDDLE = 12.0
"""Semitones re 100 Hz where nothing is voiced."""


@final
@dataclass(frozen=True, slots=True)
class PhoneticSettings:
    """Sizes of a codec, written into its file."""

    num_content: int
    num_prosody: int
    frames_per_patch: int

    @property
    def frame_rate(self) -> float:
        """Patches a second."""
        return SAMPLE_RATE / (2 * HOP * self.frames_per_patch)


@final
@dataclass(frozen=True, slots=True)
class PhoneticBooks:
    """A fitted codec."""

    settings: PhoneticSettings
    network: PhoneClassifier
    tables: dict[str, Tensor]
    """`patterns` [C, frames] numbers of phones, `priors` [C], `prosody` [Q, 2] in weighted units; by phone: `phones`
    [V] the voice's ids, `levels` [V]; `loudness` [2]: level = first * dB + second."""

    def lookup(self, waveform: Waveform) -> tuple[list[int], list[int]]:
        """Content and prosody ids of every patch of `waveform` (16 kHz)."""
        if len(waveform.samples) == 0:
            return [], []
        chances, prosody = self._described(waveform)
        per_patch = self.settings.frames_per_patch
        blocks = chances.view(-1, per_patch, chances.shape[1])
        patterns = self.tables["patterns"]
        scores = sum(
            (blocks[:, place, patterns[:, place]] for place in range(per_patch)), self.tables["priors"] * _PRIOR
        )
        content: list[int] = scores.argmax(dim=1).tolist()
        nearest: list[int] = torch.cdist(prosody, self.tables["prosody"]).argmin(dim=1).tolist()
        return content, nearest

    def speak(self, content: Sequence[int], prosody: Sequence[int]) -> Waveform:
        """The sound of patches named by `content` [N] and `prosody` [N], in the neural voice.

        The voice itself says where these phones are voiced, and how pitch and level go within a patch: a line drawn
        through the patches alone would lose what consonants do to pitch, by which they are told apart. The patches'
        mean pitches and the whole's mean level are those of the ids.
        """
        per_patch = self.settings.frames_per_patch
        numbers = self.tables["patterns"][torch.tensor(content, dtype=torch.int64)].flatten()
        drawn = self.tables["prosody"][torch.tensor(prosody, dtype=torch.int64)].numpy()
        levels = np.repeat(np.asarray(self.tables["levels"][numbers].numpy(), np.float32), 2)
        phones = self.tables["phones"][numbers].numpy()
        phones[[0, -1]] = PAD  # without its two ends the voice goes on babbling
        own = neural_voice().timed(phones)
        sounding = (own.level > 0.0) & (levels > 0.0)
        own_line = _line(np.where(own.pitch > VOICED, own.pitch, 0.0).astype(np.float32))
        higher = drawn[:, 0] - own_line.reshape(-1, 2 * per_patch).mean(axis=1)
        place = (np.arange(len(own_line)) + 0.5) / (2 * per_patch) - 0.5
        semitones, above = (
            np.interp(place, np.arange(len(content)), line) for line in (higher, drawn[:, 1] / _LEVEL_WEIGHT)
        )
        louder = float((levels + above - own.level)[sounding].mean()) if sounding.any() else 0.0
        pitch = np.where(own.pitch > VOICED, own.pitch * 2.0 ** (semitones / 12.0), 0.0).astype(np.float32)
        level = np.asarray(own.level + louder * (own.level > 0.0), dtype=np.float32)
        return neural_voice().sing(replace(own, pitch=pitch, level=level))

    def _chances(self, waveform: Waveform) -> tuple[Tensor, Array]:
        context, loudness = spectrum(waveform.samples)
        with torch.inference_mode():
            chances = self.network(context).log_softmax(dim=1)
        return chances.clone(), loudness

    def _described(self, waveform: Waveform) -> tuple[Tensor, Tensor]:
        """Log-probabilities [N * frames, V] of phones, and prosody [N, 2] in weighted units, whole patches of both."""
        per_patch = self.settings.frames_per_patch
        chances, loudness = self._chances(waveform)
        chances[np.arange(len(chances)), _smooth(chances.numpy())] += _PATH
        missing = -len(chances) % per_patch
        chances = torch.cat([chances, chances[-1:].expand(missing, -1)])
        loudness = np.pad(loudness, (0, missing), constant_values=-100.0)
        numbers = chances.argmax(dim=1)
        pitch = track(waveform, hop=HOP).pitch[: 2 * len(loudness)]
        semitones = _line(np.pad(pitch, (0, 2 * len(loudness) - len(pitch)))).reshape(-1, 2 * per_patch).mean(axis=1)
        slope, start = self.tables["loudness"].tolist()
        expected = np.asarray(self.tables["levels"][numbers].numpy(), np.float32)
        sounding = (expected > 0.0).reshape(-1, per_patch)
        above = np.where(sounding, (slope * loudness + start - expected).reshape(-1, per_patch), 0.0)
        mean = above.sum(axis=1) / sounding.sum(axis=1).clip(min=1)
        described = np.stack([semitones, mean * _LEVEL_WEIGHT], axis=1).astype(np.float32)
        return chances, torch.from_numpy(described)

    def fingerprint(self) -> str:
        """Changes with any weight."""
        return digest({**self.network.state_dict(), **self.tables}, _FORMAT)


def fit_phonetic(
    waveforms: Sequence[Waveform],
    texts: Sequence[str],
    settings: PhoneticSettings,
    *,
    steps: int,
    generator: torch.Generator,
) -> PhoneticBooks:
    """Learn to hear, and which patterns there are, from what the voice says of `texts`; prosody from `waveforms`.

    Both are at 16 kHz. Patterns that were heard in `waveforms` instead would be partly those of mistakes, and of
    speakers whose sounds nobody asks for again.
    """
    seed = int(torch.randint(1 << 31, (), generator=generator))
    examples = spoken_examples(texts, generator=np.random.default_rng(seed))
    said = np.concatenate([each.phones for each in examples])
    level = np.concatenate([each.level for each in examples])
    loudness = np.concatenate([each.loudness for each in examples])
    phones = np.unique(said)
    sounding = level > 0.0
    slope, start = np.polyfit(loudness[sounding], level[sounding], 1)
    tables = {
        "phones": torch.from_numpy(phones),
        "levels": torch.tensor([float(level[said == phone].mean()) for phone in phones]),
        "loudness": torch.tensor([float(slope), float(start)]),
    }
    network = train_classifier(examples, phones.tolist(), steps=steps, generator=generator)
    hearing = PhoneticBooks(settings, network, tables)
    heard = [each for each in waveforms if len(each.samples)]
    number = {int(phone): index for index, phone in enumerate(phones)}
    read = [np.asarray([number[int(phone)] for phone in each.phones]) for each in examples]
    patterns, priors = _frequent(read, settings)
    prosody = torch.cat([hearing._described(each)[1] for each in heard])
    fitted = {
        "patterns": patterns,
        "priors": priors,
        "prosody": k_means(prosody, settings.num_prosody, generator=generator),
    }
    return PhoneticBooks(settings, network, tables | fitted)


def save_phonetic(books: PhoneticBooks, path: str | Path) -> None:
    """Write `books` as one safetensors file, its network in half precision. Raises StorageError."""
    weights = {f"network.{name}": tensor.half() for name, tensor in books.network.state_dict().items()}
    write_codec(weights | books.tables, books.settings, path, form=_FORMAT)


def load_phonetic(path: str | Path) -> PhoneticBooks:
    """Read what `save_phonetic` wrote. Raises CheckpointError for anything else."""
    settings, tensors = read_codec(path, PhoneticSettings, form=_FORMAT, what="phonetic codec")
    phones = len(tensors.get("phones", ()))
    wanted = {
        "patterns": (settings.num_content, settings.frames_per_patch),
        "priors": (settings.num_content,),
        "prosody": (settings.num_prosody, 2),
        "phones": (phones,),
        "levels": (phones,),
        "loudness": (2,),
    }
    check_shapes(tensors, wanted, path)
    network = PhoneClassifier(phones)
    weights = {name.removeprefix("network."): tensor.float() for name, tensor in tensors.items() if name not in wanted}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its network is another one: {error}", hint=HINT) from error
    return PhoneticBooks(settings, network.eval().requires_grad_(False), {name: tensors[name] for name in wanted})


def _frequent(read: Sequence[Ids], settings: PhoneticSettings) -> tuple[Tensor, Tensor]:
    """The patterns [C, frames] that occur most in `read`, at any phase, and their log frequencies [C].

    Where fewer occur than the book has entries, the most frequent one fills the rest, and never wins against itself.
    """
    size = settings.frames_per_patch
    counts: Counter[tuple[int, ...]] = Counter()
    for phones in read:
        padded = np.pad(phones, (0, size - 1), mode="edge")
        counts.update(map(tuple, np.lib.stride_tricks.sliding_window_view(padded, size).tolist()))
    best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: settings.num_content]
    best += best[:1] * (settings.num_content - len(best))
    total = sum(counts.values())
    patterns = torch.tensor([pattern for pattern, _ in best])
    return patterns, torch.tensor([float(np.log(count / total)) for _, count in best])


def _smooth(chances: Array) -> Ids:
    """Cheapest path [T] through log-probabilities [T, V] where every change costs `_SWITCH`."""
    best, back = chances[0].copy(), np.zeros(chances.shape, np.int64)
    own = np.arange(chances.shape[1])
    for index in range(1, len(chances)):
        leader = int(best.argmax())
        change = best[leader] - _SWITCH > best
        back[index] = np.where(change, leader, own)
        best = np.where(change, best[leader] - _SWITCH, best) + chances[index]
    path = np.zeros(len(chances), np.int64)
    path[-1] = int(best.argmax())
    for index in range(len(chances) - 1, 0, -1):
        path[index - 1] = back[index, path[index]]
    return path


def _line(pitch: Array) -> Array:
    """Semitones [F] re 100 Hz of `pitch` [F] Hz, drawn through unvoiced frames."""
    voiced = pitch > 0.0
    if not voiced.any():
        return np.full(len(pitch), _MIDDLE, np.float32)
    semitones = 12.0 * np.log2(pitch[voiced] / 100.0)
    return np.asarray(np.interp(np.arange(len(pitch)), np.flatnonzero(voiced), semitones), dtype=np.float32)
