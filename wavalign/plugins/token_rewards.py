"""Values of frames, spans of time, text tokens and words, laid out over the tokens of an answer.

What is said of a frame or a word is divided evenly among the tokens that carry it, so that sums stay what they were:
the sum over tokens [S, Tc] is the sum of the values that were given. Everything is 0 where nothing is said. Sound lies
at AUDIO tokens, text at TEXT tokens; codes of several streams are counted in each stream from its first.
Letters: S streams, Tc tokens of a completion, F frames.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wavalign.plugins.batch import Role, Rollout


@final
@dataclass(frozen=True, slots=True)
class Span:
    """A value of a stretch of sound."""

    start: float
    """Seconds from the beginning of the answer's sound."""
    end: float
    value: float


def num_frames(rollout: Rollout, *, codes_per_frame: int = 1) -> int:
    """Frames that an answer's codes fill, an incomplete last one among them.

    `codes_per_frame` counts ids of a frame that stand one behind another in one stream: 1 where every code book has a
    stream of its own.
    """
    most = int((rollout.completion.roles == Role.AUDIO).sum(dim=1).max()) if rollout.completion.length else 0
    return -(-most // codes_per_frame)


def over_frames(rollout: Rollout, values: Sequence[float], *, codes_per_frame: int = 1) -> Tensor:
    """`values` of the F frames of the sound at their codes, [S, Tc].

    Raises ValueError where there are not as many as `num_frames` says.
    """
    frames = num_frames(rollout, codes_per_frame=codes_per_frame)
    if len(values) != frames:
        raise ValueError(f"{len(values)} values for {frames} frames of sound")
    return _laid_out(_frame_numbers(rollout, codes_per_frame), values)


def over_codes(rollout: Rollout, values: Sequence[float]) -> Tensor:
    """`values` of the answer's codes (`rollout.answer.codes`) where they stand, [S, Tc].

    Codes of several streams are counted frame by frame, an incomplete last frame is left out. Raises ValueError where
    there are not as many values.
    """
    sounds = rollout.completion.roles == Role.AUDIO
    streams = [row.nonzero()[:, 0].tolist() for row in sounds]
    spoken = [(stream, places) for stream, places in enumerate(streams) if places]
    whole = zip(*([(stream, place) for place in places] for stream, places in spoken), strict=False)
    places = [place for frame in whole for place in frame]
    if len(values) != len(places):
        raise ValueError(f"{len(values)} values for {len(places)} codes")
    found = torch.zeros(sounds.shape, dtype=torch.float64)
    for place, value in zip(places, values, strict=True):
        found[place] = value
    return found


def over_spans(rollout: Rollout, spans: Iterable[Span], *, codes_per_frame: int = 1) -> Tensor:
    """Values of stretches of the sound at the codes of the frames whose middle lies in them, [S, Tc].

    A stretch without one is given to the frame nearest to its own middle; where stretches overlap values add up. Raises
    ValueError for an answer that was not decoded to sound.
    """
    if rollout.waveform is None:
        raise ValueError("spans are seconds of sound, and the answer has none")
    frames = num_frames(rollout, codes_per_frame=codes_per_frame)
    values, each = [0.0] * frames, rollout.waveform.seconds / max(frames, 1)
    for span in spans if frames else ():
        inside = [frame for frame in range(frames) if span.start <= (frame + 0.5) * each < span.end]
        nearest = min(max(int((span.start + span.end) / 2 / each), 0), frames - 1)
        for frame in inside or [nearest]:
            values[frame] += span.value / max(len(inside), 1)
    return over_frames(rollout, values, codes_per_frame=codes_per_frame)


def over_text(rollout: Rollout, values: Sequence[float]) -> Tensor:
    """`values` of the text tokens of an answer, in their order, [S, Tc].

    Raises ValueError where there are not as many as the answer has of them.
    """
    written = rollout.completion.roles == Role.TEXT
    if len(values) != int(written.sum()):
        raise ValueError(f"{len(values)} values for {int(written.sum())} text tokens")
    return torch.zeros(written.shape, dtype=torch.float64).masked_scatter(
        written, torch.tensor(list(values), dtype=torch.float64)
    )


def over_words(rollout: Rollout, values: Sequence[float]) -> Tensor:
    """`values` of the words of the answer's text (`rollout.answer.text.split()`) at their tokens, [S, Tc].

    A token counts to the word that its first letter stands in. Needs `rollout.pieces`, which a reward is given that
    names `pieces` in its `needs`. Raises ValueError without them, where there are not as many values as words, and
    where the words are not to be found in the pieces.
    """
    words = rollout.answer.text.split()
    if len(values) != len(words):
        raise ValueError(f"{len(values)} values for {len(words)} words")
    if rollout.pieces is None:
        raise ValueError("the words' tokens are not known: name `pieces` in the reward's `needs`")
    letters = ["".join(piece.split()) for piece in rollout.pieces]
    begins = "".join(letters).rfind("".join(words))
    if begins < 0:
        raise ValueError("the answer's words are not made of the text of its tokens")
    owner = [number for number, word in enumerate(words) for _ in word]
    numbers, place = torch.full(rollout.completion.roles.shape, -1), -begins
    for (stream, token), piece in zip(_places(rollout, Role.TEXT), letters, strict=True):
        if piece and 0 <= place < len(owner):
            numbers[stream, token] = owner[place]
        place += len(piece)
    return _laid_out(numbers, values)


def _frame_numbers(rollout: Rollout, codes_per_frame: int) -> Tensor:
    """Which frame each position [S, Tc] is of; -1 where it is of none."""
    sounds = rollout.completion.roles == Role.AUDIO
    count = sounds.long().cumsum(dim=1) - 1
    return torch.where(sounds, count // codes_per_frame, -1)


def _laid_out(numbers: Tensor, values: Sequence[float]) -> Tensor:
    """Value n divided among the positions whose number is n, as float64 of the shape of `numbers` [S, Tc]."""
    if not len(values):
        return torch.zeros(numbers.shape, dtype=torch.float64)
    named = numbers >= 0
    shares = torch.bincount(numbers[named], minlength=len(values)).clamp(min=1)
    each = torch.tensor(list(values), dtype=torch.float64) / shares
    return torch.where(named, each[numbers.clamp(min=0)], 0.0)


def _places(rollout: Rollout, role: Role) -> list[tuple[int, int]]:
    """Stream and token of every position with `role`, stream by stream."""
    found = (rollout.completion.roles == role).nonzero().tolist()
    return [(stream, token) for stream, token in found]
