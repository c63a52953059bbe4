"""What stands where on the streams, and what every position is.

    stream 0   words ...  <sosp>  a1 a2 a3 ... aN  <eosp>   B   <eoa>        B blank
    stream 1     B   ...    B      B b1 b2 ... b(N-1) bN    B     B          delay 1
    stream 2     B   ...    B      B  B c1 ...        c(N-1) cN   B          delay 2

Stream 0 holds everything but the further codebooks. Codebook k of a frame stands `delays[k]` positions behind the
frame's first: a stream may speak exactly where stream 0 spoke a unit so many positions ago, elsewhere the layout puts a
blank. Behind <eosp> stream 0 waits, in blanks, until the latest codebook is through. With one stream nothing is forced.
The delay pattern is that of MusicGen (arXiv 2306.05284).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wavalign.plugins.architectures.answer_roles import roles_of_row
from wavalign.plugins.batch import Role

Column = tuple[int, ...]
"""The ids of all streams at one position."""


@final
@dataclass(frozen=True, slots=True)
class CodecLmLayout:
    """The ids of one checkpoint that have a place of their own, and the delays of its streams."""

    begin_speech: int
    end_speech: int
    ends: tuple[int, ...]
    """Ids that end an answer; the first closes targets."""
    silent: frozenset[int]
    """Ids that write no text although they are none of the above."""
    blank: int
    """Fills a stream that has nothing to say."""
    first_code: int
    num_codes: int
    vocabulary_size: int
    """Rows of the embedding."""
    delays: tuple[int, ...]

    @property
    def waits(self) -> int:
        """Blanks of stream 0 behind the end of speech."""
        return max(0, max(self.delays) - 1)

    def plain(self, ids: Sequence[int]) -> list[Column]:
        """Ids of stream 0 alone."""
        rest = (self.blank,) * (len(self.delays) - 1)
        return [(x, *rest) for x in ids]

    def speech(self, frames: Sequence[Sequence[int]]) -> list[Column]:
        """Codec ids (0-based) of `frames`, with the end of speech and the blanks behind it.

        A frame holds one id per stream; with a single stream any number, which then stand one after another.
        """
        if len(self.delays) == 1:
            return self.plain([*(self.first_code + code for frame in frames for code in frame), self.end_speech])
        length = len(frames) + 1 + self.waits
        columns = [[self.blank] * len(self.delays) for _ in range(length)]
        for place, frame in enumerate(frames):
            for stream, code in enumerate(frame):
                columns[place + self.delays[stream]][stream] = self.first_code + code
        columns[len(frames)][0] = self.end_speech
        return [tuple(column) for column in columns]

    def roles(self, ids: Tensor, table: Tensor) -> Tensor:
        """Roles [S, T] int8 of a whole answer `ids` [S, T]: behind the begin of its sound nothing is text."""
        kinds = table[ids]
        if len(self.delays) > 1:
            kinds[ids == self.blank] = int(Role.FORCED)
        begins = ids[0] == self.begin_speech
        kinds[0] = roles_of_row(kinds[0], begins.cumsum(0) == 0)
        return kinds

    def role_table(self) -> Tensor:
        """What [V] int8 every id is where it belongs on stream 0; where it stands decides, see `answer_roles`."""
        table = torch.full((self.vocabulary_size,), int(Role.TEXT), dtype=torch.int8)
        table[self.first_code : self.first_code + self.num_codes] = int(Role.AUDIO)
        table[list(self.ends)] = int(Role.TEXT_END)
        table[[self.begin_speech, self.end_speech]] = int(Role.AUDIO_MARK)
        return table

    def text(self, ids: Sequence[int], roles: Sequence[int]) -> list[int]:
        """Ids of stream 0 that write the text of an answer with `roles`: those before its sound."""
        other = self.silent | {self.blank} if len(self.delays) > 1 else self.silent
        return [x for x, role in zip(ids, roles, strict=True) if role == Role.TEXT and x not in other]

    def codes(self, ids: Sequence[Sequence[int]]) -> list[int]:
        """Codec ids (0-based), frame by frame; a frame that lacks one is left out. The inverse of `speech`."""
        length, found = len(ids[0]), []
        for place in range(length):
            frame = [ids[stream][place + delay] for stream, delay in enumerate(self.delays) if place + delay < length]
            if len(frame) == len(self.delays) and all(self._is_code(x) for x in frame):
                found += [x - self.first_code for x in frame]
        return found

    def _is_code(self, x: int) -> bool:
        return self.first_code <= x < self.first_code + self.num_codes
