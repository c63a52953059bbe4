"""How text and audio share the one stream: interleaving by ratio, roles, and when no text can follow.

A ratio (T1, A1, T2, A2, ...) is read as two lists: text tokens per chunk T, audio positions per chunk A, begin and end
marks counted. Each list is used from left to right and its last entry repeats. There are as many chunks as the shorter
side fills; what is left of either side goes into the last chunk.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from wavalign.plugins.api import Buffers
from wavalign.plugins.architectures.answer_roles import placed_roles, roles_of_row
from wavalign.plugins.batch import Role

MARKS_PER_CHUNK = 2


def chunk_quotas(ratio: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Text tokens and codes (marks taken off) per chunk; in both the last entry repeats."""
    return tuple(ratio[0::2]), tuple(count - MARKS_PER_CHUNK for count in ratio[1::2])


def split_by_quota(items: Sequence[int], quotas: Sequence[int]) -> list[list[int]]:
    """Cut `items` into pieces of the lengths `quotas`, whose last entry repeats; the last piece may be shorter."""
    pieces: list[list[int]] = []
    start = 0
    while start < len(items):
        size = quotas[min(len(pieces), len(quotas) - 1)]
        pieces.append(list(items[start : start + size]))
        start += size
    return pieces


@final
@dataclass(frozen=True, slots=True)
class VitaLayout:
    """The control ids of one checkpoint and the ratio its answers are laid out by."""

    begin_audio: int
    end_audio: int
    end_turn: int
    """`<|im_end|>`, closes an answer."""
    end_text: int
    """`<|endoftext|>`, pads and, where sampled, also closes an answer."""
    first_code: int
    num_codes: int
    ratio: tuple[int, ...]

    def interleave(self, text: Sequence[int], codes: Sequence[int]) -> list[int]:
        """Text ids and codec ids (0-based) as one answer, without the closing token."""
        spoken = [self.first_code + code for code in codes]
        if not spoken:
            return list(text)
        if not text:
            return [self.begin_audio, *spoken, self.end_audio]
        text_quotas, code_quotas = chunk_quotas(self.ratio)
        written, heard = split_by_quota(text, text_quotas), split_by_quota(spoken, code_quotas)
        chunks = min(len(written), len(heard))
        written = [*written[: chunks - 1], [x for piece in written[chunks - 1 :] for x in piece]]
        heard = [*heard[: chunks - 1], [x for piece in heard[chunks - 1 :] for x in piece]]
        answer: list[int] = []
        for words, sounds in zip(written, heard, strict=True):
            answer += [*words, self.begin_audio, *sounds, self.end_audio]
        return answer

    def deinterleave(self, ids: Sequence[int], roles: Sequence[int]) -> tuple[list[int], list[int]]:
        """Text ids and codec ids of an answer with `roles`; the inverse of `interleave` for every ratio."""
        pairs = list(zip(ids, roles, strict=True))
        text = [x for x, role in pairs if role == Role.TEXT]
        return text, [x - self.first_code for x, role in pairs if role == Role.AUDIO]

    def roles(self, ids: Tensor, table: Tensor) -> Tensor:
        """Roles [T] int8 of a whole answer `ids` [T], as `TextWatch` gives them one by one."""
        room, chunk, count, inside, over = list[bool](), 0, 0, False, False
        quotas, kinds = chunk_quotas(self.ratio)[0], table[ids]
        for x, kind in zip(ids.tolist(), kinds.tolist(), strict=True):
            room.append(not (inside or over))
            if x == self.begin_audio and not inside:
                over, inside = over or count != quotas[min(chunk, len(quotas) - 1)], True
            elif x == self.end_audio and inside:
                chunk, count, inside = chunk + 1, 0, False
            elif kind == Role.TEXT and room[-1]:
                count += 1
        return roles_of_row(kinds, torch.tensor(room, dtype=torch.bool))

    def role_table(self, vocabulary_size: int) -> Tensor:
        """What [V] int8 every id is where it belongs; where it stands decides, see `answer_roles`."""
        table = torch.full((vocabulary_size,), int(Role.TEXT), dtype=torch.int8)
        table[self.first_code : self.first_code + self.num_codes] = int(Role.AUDIO)
        table[[self.begin_audio, self.end_audio]] = int(Role.AUDIO_MARK)
        table[[self.end_turn, self.end_text]] = int(Role.TEXT_END)
        return table


@final
class TextWatch:
    """Per row, what the coming id is and whether text can still follow, for a batch of answers under construction.

    Text is over at the begin mark of a chunk whose text part is not exactly that chunk's quota: a shorter part means
    that the text has ended, a longer one that the rest of it was merged into this last chunk. Between the marks of
    sound and once it is over a word is no text. Its tensors [B] lie in `rows` beside `finished` and change in place.
    """

    def __init__(self, layout: VitaLayout, rows: Buffers, shared: Buffers) -> None:
        self._layout, self._rows, self._shared = layout, rows, shared
        count, device = len(rows["finished"]), rows["finished"].device
        shared["quotas"] = torch.tensor(chunk_quotas(layout.ratio)[0], device=device)
        for name in ("chunk", "chunk_text"):
            rows[name] = torch.zeros(count, dtype=torch.int64, device=device)
        for name in ("inside_sound", "text_over"):
            rows[name] = torch.zeros(count, dtype=torch.bool, device=device)
        rows["behind_text"] = torch.ones(count, dtype=torch.bool, device=device)

    @property
    def over(self) -> Tensor:
        """[B], True where no text can follow."""
        return self._rows["text_over"]

    def append(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """Take the chosen `ids` [B], which are of `kinds` [B], and return their roles [B] int8."""
        inside, over, behind, count, chunk = (
            self._rows[name] for name in ("inside_sound", "text_over", "behind_text", "chunk_text", "chunk")
        )
        roles = placed_roles(kinds, room_for_text=~(inside | over), behind_text=behind)
        torch.eq(roles, int(Role.TEXT), out=behind)
        begins, ends = ids == self._layout.begin_audio, ids == self._layout.end_audio
        quotas = self._shared["quotas"]
        quota = quotas[chunk.clamp(max=len(quotas) - 1)]
        over.logical_or_(begins & ~inside & (count != quota))
        closes = ends & inside
        count.add_(behind).masked_fill_(closes, 0)
        chunk.add_(closes)
        inside.logical_or_(begins).logical_and_(~ends)
        return roles


MOST_COUNTS = 10_000
"""Counts of text and chunks up to which states are listed."""
KINDS = 5
"""Words, codes, ends of an answer, begin marks, end marks."""
BEHIND_TEXT, INSIDE, OVER = 1, 2, 4
"""Parts of a state's number; the rest counts text and chunks."""


@final
class WatchTable:
    """What `TextWatch` says, looked up: a row's state is one number, and an id of one kind takes it to the next.

    Every state that differs from another in what can follow is tried with every kind of id once, by `TextWatch`, which
    itself watches where chunks are so long that there are too many states.
    """

    def __init__(self, layout: VitaLayout, vocabulary_size: int, rows: Buffers, shared: Buffers) -> None:
        self._rows, self._shared = rows, shared
        device = rows["finished"].device
        self._watch: TextWatch | None = None
        quotas = chunk_quotas(layout.ratio)[0]
        if (max(quotas) + 2) * len(quotas) > MOST_COUNTS:
            self._watch = TextWatch(layout, rows, shared)
            shared["roles"] = layout.role_table(vocabulary_size).to(device)
            return
        shared["kinds"] = _kinds(layout, vocabulary_size).to(device)
        shared["next_state"], shared["role_of"], shared["over_in"] = (each.to(device) for each in _transitions(layout))
        rows["state"] = torch.full_like(rows["finished"], BEHIND_TEXT, dtype=torch.int64)
        rows["text_over"] = torch.zeros_like(rows["finished"])

    @property
    def over(self) -> Tensor:
        """[B], True where no text can follow."""
        return self._rows["text_over"]

    def append(self, ids: Tensor) -> Tensor:
        """Take the chosen `ids` [B] and return their roles [B] int8."""
        shared = self._shared
        if self._watch is not None:
            return self._watch.append(ids, shared["roles"].index_select(0, ids))
        state = self._rows["state"]
        key = torch.add(shared["kinds"].index_select(0, ids), state, alpha=KINDS)
        torch.index_select(shared["next_state"], 0, key, out=state)
        torch.index_select(shared["over_in"], 0, state, out=self._rows["text_over"])
        return shared["role_of"].index_select(0, key)


def _kinds(layout: VitaLayout, vocabulary_size: int) -> Tensor:
    """Which of the kinds [V] int64 every id is."""
    table = layout.role_table(vocabulary_size)
    kinds = torch.zeros(vocabulary_size, dtype=torch.int64)
    kinds[table == int(Role.AUDIO)] = 1
    kinds[table == int(Role.TEXT_END)] = 2
    kinds[layout.begin_audio], kinds[layout.end_audio] = 3, 4
    return kinds


def _transitions(layout: VitaLayout) -> tuple[Tensor, Tensor, Tensor]:
    """Next state and role [states * KINDS] of a state and a kind, and whether text is over [states] in a state."""
    quotas = chunk_quotas(layout.ratio)[0]
    most = max(quotas) + 1  # a longer text part differs from every quota alike
    states = torch.arange(8 * (most + 1) * len(quotas)).repeat_interleave(KINDS)
    samples = torch.tensor([-1, layout.first_code, layout.end_turn, layout.begin_audio, layout.end_audio])
    kinds = torch.tensor([Role.TEXT, Role.AUDIO, Role.TEXT_END, Role.AUDIO_MARK, Role.AUDIO_MARK], dtype=torch.int8)
    rows, counts = Buffers(), states // 8
    rows["finished"] = torch.zeros_like(states, dtype=torch.bool)
    watch = TextWatch(layout, rows, Buffers())
    rows["chunk_text"], rows["chunk"] = counts % (most + 1), counts // (most + 1)
    for name, part in (("behind_text", BEHIND_TEXT), ("inside_sound", INSIDE), ("text_over", OVER)):
        rows[name] = (states & part) > 0
    over = rows["text_over"][::KINDS].clone()
    roles = watch.append(samples.repeat(len(states) // KINDS), kinds.repeat(len(states) // KINDS))
    counts = rows["chunk"].clamp(max=len(quotas) - 1) * (most + 1) + rows["chunk_text"].clamp(max=most)
    following = (
        counts * 8 + rows["behind_text"] * BEHIND_TEXT + rows["inside_sound"] * INSIDE + rows["text_over"] * OVER
    )
    return following, roles, over


@final
class HeadSchedule:
    """Whose turn it is at every coming token, as `head_schedule` gives it, in any order."""

    def __init__(self, decoding: Sequence[int], num_mtp_layers: int) -> None:
        self._pairs = list(zip(decoding[0::2], decoding[1::2], strict=True))
        self._starts = [sum(decoding[: 2 * index]) for index in range(len(self._pairs))]
        self._modules = num_mtp_layers
        most = [min(multi, num_mtp_layers) for _, multi in self._pairs]
        self._furthest = [max(most[index:]) for index in range(len(most))]
        """By pair, the last head that has a turn in it or behind it."""

    def head(self, turn: int) -> int:
        """Head of token `turn`."""
        index = self._pair(turn)
        main, multi = self._pairs[index]
        behind_main = (turn - self._starts[index]) % (main + multi) - main
        head = behind_main % (self._modules + 1) + 1
        return 0 if behind_main < 0 or head > self._modules else head

    def comes(self, head: int, turn: int) -> bool:
        """Whether `head` has a turn in the part of the schedule that holds token `turn`, or in a later one."""
        return head <= self._furthest[self._pair(turn)]

    def _pair(self, turn: int) -> int:
        return bisect_right(self._starts, turn) - 1


def head_schedule(decoding: Sequence[int], num_mtp_layers: int) -> Iterator[int]:
    """Head index of every coming token: 0 = main, k + 1 = MTP module k.

    `decoding` (M1, m1, M2, m2, ...) says how many tokens the main head predicts, then how many the MTP modules do; the
    last pair repeats. MTP modules take turns in order from the first after each main token; where they run out the
    main head steps in and the order starts again.
    """
    pairs = list(zip(decoding[0::2], decoding[1::2], strict=True))
    index, module = 0, 0
    while True:
        main, multi = pairs[min(index, len(pairs) - 1)]
        for _ in range(main):
            module = 0
            yield 0
        for _ in range(multi):
            if module < num_mtp_layers:
                module += 1
                yield module
            else:
                module = 0
                yield 0
        index += 1
