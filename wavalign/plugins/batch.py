"""The records that travel between plugins and engine: frozen, with named shapes.

Letters: P prompts, G group, B sequences, S streams, T tokens, H hidden, V vocabulary, K kept ids, N samples.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wavalign.plugins.packing import Packing, RowLayout


class Role(IntEnum):
    """What one position of one stream is; every position has exactly one."""

    PAD = 0
    PROMPT = 1
    TEXT = 2
    TEXT_END = 3
    """Ends the text of an answer: directly behind it, or in its place where there is none."""
    AUDIO = 4
    AUDIO_MARK = 5
    """Opens or closes sound, an answer that ends in sound too; also whatever the model says there that is no code."""
    FORCED = 6
    """Put there by the layout, not chosen by the model; never scored."""


TEXT_ROLES = (Role.TEXT, Role.TEXT_END)
AUDIO_ROLES = (Role.AUDIO,)
MARK_ROLES = (Role.AUDIO_MARK,)
SCORED_ROLES = TEXT_ROLES + AUDIO_ROLES + MARK_ROLES


@final
@dataclass(frozen=True, slots=True)
class Waveform:
    """Mono sound with its rate; the two never travel apart."""

    samples: npt.NDArray[np.float32]
    """[N], in -1..1."""
    sample_rate: int
    """Hertz."""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


CODES = "codes://"
"""Begins the address of sound that is there as codes alone."""


@final
@dataclass(frozen=True, slots=True)
class AudioClip:
    """Sound by address (a path or an fsspec URL); read when needed, see `plugins.audio.read`."""

    url: str
    codes: tuple[int, ...] | None = None
    """Flat codec ids that stand for it wherever tokens are asked for, of each frame those that the model writes: what a
    model has said is learned as it was said, not as its sound would be encoded anew."""

    @classmethod
    def of_codes(cls, codes: Sequence[int], url: str | None = None) -> "AudioClip":
        """Codes, and the address of their sound; without one they have a name of their own and cannot be read."""
        found = tuple(codes)
        digest = hashlib.sha256(np.array(found, dtype=np.int64).tobytes()).hexdigest()[:16]
        return cls(f"{CODES}{digest}" if url is None else url, found)

    @property
    def has_sound(self) -> bool:
        """Whether there is a sound behind the address."""
        return not self.url.startswith(CODES)


@final
@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a dialogue; `audio`, where present, is the spoken form of this turn."""

    role: str
    """`system`, `user` or `assistant`."""
    text: str = ""
    audio: AudioClip | None = None


SIDES = ("chosen", "rejected")
"""What the members 0 and 1 of a dialogue with stated members are called."""


@final
@dataclass(frozen=True, slots=True)
class Dialogue:
    """A prompt and, for supervised data, the answer to imitate (`target`)."""

    id: str
    messages: tuple[Message, ...]
    target: Message | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Whatever the source knows: reference answer, style, task type, question text."""
    origin: str = field(default="", compare=False)
    """Where it was read, e.g. FILE:LINE, for messages; empty where its source does not say."""
    targets: tuple[Message, ...] = ()
    """Several answers to learn from together, in the order that a loss knows, e.g. the chosen and the rejected one of a
    pair; empty where there is `target` alone."""
    members: tuple[int, ...] = ()
    """Which member of its group each of `targets` is: 0 the chosen or desirable one, 1 the rejected or undesirable one;
    empty for 0, 1, 2, ..."""
    scores: tuple[float | None, ...] = ()
    """What each of `targets` is worth, where that is known; empty where nothing is."""

    @property
    def answers(self) -> tuple[Message, ...]:
        """All targets there are."""
        return self.targets or (() if self.target is None else (self.target,))

    @property
    def singles(self) -> "tuple[Dialogue, ...]":
        """A dialogue for each target, or this one where there is none or one."""
        alone = (replace(self, target=each, targets=(), members=(), scores=()) for each in self.targets)
        return tuple(alone) or (self,)

    @property
    def numbered(self) -> "tuple[tuple[int, Dialogue], ...]":
        """`singles`, each with its member number."""
        return tuple(zip(self.members or range(len(self.singles)), self.singles, strict=True))

    @property
    def named_answers(self) -> tuple[tuple[str, Message], ...]:
        """All targets, by the names that people know them under."""
        if not self.targets:
            return tuple(("target", each) for each in self.answers)
        names = [SIDES[m] if 0 <= m < len(SIDES) else f"targets.{m}" for m in self.members]
        return tuple(zip(names or [f"targets.{m}" for m in range(len(self.targets))], self.targets, strict=False))

    @property
    def label(self) -> str:
        """What it is called in a message."""
        return f"{self.origin}: dialogue {self.id}" if self.origin else f"dialogue {self.id}"


@final
@dataclass(frozen=True, slots=True)
class HeadSpec:
    """An output head: which stream it predicts and how far ahead.

    `hidden[head][:, t]` predicts the token at `t + shift` of stream `stream`.
    """

    name: str
    stream: int
    shift: int = 1


@final
@dataclass(frozen=True, slots=True)
class TokenSpace:
    """The ids of one checkpoint, read from its config and tokenizer; nobody else may spell them."""

    vocabulary_size: int
    pad: int
    streams: tuple[str, ...]
    """Names of the S aligned streams, e.g. `("mix",)` or `("text", "audio")`."""
    heads: tuple[HeadSpec, ...]
    """All heads; a token's `source` is an index into this tuple."""
    num_codes: int
    """Size of the codec vocabulary the audio ids stand for."""
    frame_codes: int | None = None
    """How many ids, from the first, of each of the codec's frames an answer holds; None for all of them."""

    @property
    def main_heads(self) -> tuple[int, ...]:
        """Per stream, the index of its first head."""
        return tuple(
            next(i for i, head in enumerate(self.heads) if head.stream == stream) for stream in range(len(self.streams))
        )


@final
@dataclass(frozen=True, slots=True)
class SoundSegment:
    """Sound that is heard as features rather than tokens, at positions `start` .. `start + length` of a row."""

    start: int
    length: int
    """Positions it fills; how many follow from how many frames is the architecture's business."""
    values: Tensor
    """[N, D] float32: what the architecture's encoder or projector takes."""


@final
@dataclass(frozen=True, slots=True)
class TokenSequence:
    """One row of tokens: ids, roles and scoring heads of every stream."""

    ids: Tensor
    """[S, T] int64."""
    roles: Tensor
    """[S, T] int8, values of `Role`."""
    sources: Tensor | None = None
    """[S, T] int8 index into `TokenSpace.heads`; None means each stream's main head."""
    sounds: tuple[SoundSegment, ...] = ()
    """What is heard as features, in the order of their positions."""

    @property
    def length(self) -> int:
        return int(self.ids.shape[1])


@final
@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Right-padded rows, whose positions count from 0; or, with a `layout`, packed ones."""

    ids: Tensor
    """[B, S, T] int64."""
    roles: Tensor
    """[B, S, T] int8."""
    sources: Tensor
    """[B, S, T] int8."""
    lengths: Tensor
    """[B] int64."""
    sounds: tuple[tuple[SoundSegment, ...], ...] = ()
    """Per row what is heard as features; empty where no row hears any. Equal segments may be one object."""
    packing: Packing | None = None
    """How a network that can is better given its rows; None where they are best as they are."""
    layout: RowLayout | None = None
    """Where the rows of this batch are packed ones: what stands where, and what sees what."""

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on another device."""
        moved: dict[int, SoundSegment] = {}  # a prompt's segments are shared by its group: move each once
        for segment in (each for row in self.sounds for each in row):
            moved.setdefault(id(segment), replace(segment, values=segment.values.to(device)))
        return TokenBatch(
            ids=self.ids.to(device),
            roles=self.roles.to(device),
            sources=self.sources.to(device),
            lengths=self.lengths.to(device),
            sounds=tuple(tuple(moved[id(each)] for each in row) for row in self.sounds),
            packing=None if self.packing is None else self.packing.to(device),
        )

    def rows(self, index: Tensor) -> "TokenBatch":
        """The rows `index` [B'] alone."""
        which = index.tolist() if self.sounds or self.packing is not None else []
        sounds = tuple(self.sounds[row] for row in which) if self.sounds else ()
        packing = None if self.packing is None else self.packing.of(which)
        return TokenBatch(self.ids[index], self.roles[index], self.sources[index], self.lengths[index], sounds, packing)


@final
@dataclass(frozen=True, slots=True)
class Answer:
    """A completion taken apart again."""

    text: str
    codes: tuple[int, ...]
    finished: bool
    """False where the token limit cut off what was asked for: the whole answer, or its text where sampling was asked
    for text alone. An answer whose text was cut is finished in neither case."""
    text_finished: bool = True
    """False where the token limit cut off the text; the same however far the answer was sampled."""


@final
@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer with everything needed to score it again."""

    completion: TokenSequence
    """ids/roles/sources [S, Tc] of what was sampled (FORCED positions included)."""
    logprobs: Tensor
    """[S, Tc] float32 behaviour log-probs, under the distribution that was sampled; 0 where nothing was."""
    answer: Answer
    support: Tensor | None = None
    """[S, Tc, K] int32 ids that top-k/top-p kept, padded by -1, -1 alone at positions that were not cut; None when
    none was."""
    waveform: Waveform | None = None
    """The decoded sound; None when no reward or metric listens."""
    version: int | None = None
    """Updates that the weights had seen which sampled it; None for an answer that no provider gave."""
    pieces: tuple[str, ...] | None = None
    """Text of every TEXT token, stream by stream, for rewards that say they need it; None for others."""
    state: Tensor | None = None
    """[H] float32 mean of the last hidden states at its positions of sound, under the policy that is measured; None
    where it has none, and where no metric asks for states."""
    divergence: Tensor | None = None
    """[S, Tc] float32 nats from what the run started from, NaN where nothing was chosen; None where no metric asks."""


@final
@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The G answers to one prompt."""

    dialogue: Dialogue
    prompt: TokenSequence
    rollouts: tuple[Rollout, ...]
    target_state: Tensor | None = None
    """[H] as `Rollout.state`, of the dialogue's target behind the same prompt."""


@final
@dataclass(frozen=True, slots=True)
class Scored:
    """A reward's result for one rollout: a value, or None and why there is none.

    `Scored.absent(reason)` where the answer itself lacks what is to be scored (no sound, no text, silence): the
    policy's doing, which a recipe's `on_absent` judges. `Scored(None, reason)` where the reward could not do its work
    (a service failed, a record states no reference): nobody's answer is worse for it, and the failure budget counts it.
    """

    value: float | None
    reason: str = ""
    details: Mapping[str, float | str] = field(default_factory=dict)
    """Facets worth showing, e.g. the transcript that was heard."""
    blame: Literal["reward", "answer"] = "reward"
    """Whose doing a missing value is."""
    tokens: Tensor | None = field(default=None, compare=False)
    """[S, Tc] of the completion: what single tokens and frames are worth, 0 where nothing is said of one. Each lies
    between 0 and the ends of the reward's range. `plugins.token_rewards` lays out values of frames and words."""
    variance: float | None = None
    """Of the value's own error, in the square of the range's unit: how far another asking of the same judge about the
    same answer would lie from this one, or what a judge's calibration left. 0 says that it is exact; None that nobody
    knows."""

    @classmethod
    def absent(cls, reason: str, details: Mapping[str, float | str] | None = None) -> "Scored":
        """No value because the answer has nothing to score."""
        return cls(None, reason, {} if details is None else details, blame="answer")


def collate(rows: Sequence[TokenSequence], space: TokenSpace) -> TokenBatch:
    """Right-pad `rows` ([S, T_i] each) to one batch [B, S, T]."""
    streams, length = len(space.streams), max(row.length for row in rows)
    shape = (len(rows), streams, length)
    ids = torch.full(shape, space.pad, dtype=torch.int64)
    roles = torch.full(shape, int(Role.PAD), dtype=torch.int8)
    sources = torch.tensor(space.main_heads, dtype=torch.int8).view(1, streams, 1).repeat(len(rows), 1, length)
    for index, row in enumerate(rows):
        ids[index, :, : row.length] = row.ids
        roles[index, :, : row.length] = row.roles
        if row.sources is not None:
            sources[index, :, : row.length] = row.sources
    sounds = tuple(row.sounds for row in rows)
    return TokenBatch(ids, roles, sources, torch.tensor([row.length for row in rows]), sounds if any(sounds) else ())


def concatenate(prompt: TokenSequence, completion: TokenSequence, space: TokenSpace) -> TokenSequence:
    """Prompt [S, Tp] followed by completion [S, Tc] as one row [S, Tp + Tc]."""
    main = torch.tensor(space.main_heads, dtype=torch.int8).view(-1, 1)
    sources = [
        part.sources if part.sources is not None else main.expand_as(part.roles) for part in (prompt, completion)
    ]
    return TokenSequence(
        torch.cat([prompt.ids, completion.ids], dim=1),
        torch.cat([prompt.roles, completion.roles], dim=1),
        torch.cat(sources, dim=1),
        prompt.sounds + tuple(replace(each, start=each.start + prompt.length) for each in completion.sounds),
    )
