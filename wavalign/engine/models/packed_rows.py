"""Rows of a batch that begin alike, found from the rows themselves, and the packed batch that a network is given.

Letters: B rows, S streams, T tokens of the longest; R packed rows, L tokens of each.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wavalign.plugins.api import Dimensions, Policy
from wavalign.plugins.batch import SoundSegment, TokenBatch
from wavalign.plugins.packing import Packing, PackingOptions, RowLayout, Unit, arrange, of_rows, packing


def packing_options(policy: Policy, sizes: Dimensions, *, share: bool, pack: bool) -> PackingOptions | None:
    """How `policy` of these `sizes` is given rows: None, as they are, where it heeds no layout or nobody asks for one.

    Of a layer a token passes through 4 H^2 + 2 H W + 6 H I products, W half of the cached width, and through 4 H of
    attention to each token; those are taken to be half as fast.
    """
    if not type(policy).packs or not (share or pack):
        return None
    return PackingOptions(share, pack, (sizes.hidden + sizes.key_value_width / 2 + 1.5 * sizes.intermediate) / 2)


def packed(batch: TokenBatch, groups: Sequence[Hashable], options: PackingOptions) -> TokenBatch:
    """`batch`, on the CPU, with its packing where one costs less; rows of one of `groups` [B] may begin alike."""
    if not (options.share or options.pack):
        return batch
    units, lengths = find_units(batch, groups, options), batch.lengths.tolist()
    return replace(batch, packing=packing(units, lengths, options, batch.ids.device))


def find_units(batch: TokenBatch, groups: Sequence[Hashable], options: PackingOptions) -> list[Unit]:
    """What must stand together of `batch`, on the CPU, whose rows are of `groups` [B]."""
    found: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        found.setdefault(group if options.share else row, []).append(row)
    lengths = batch.lengths.tolist()
    return [unit for rows in found.values() for unit in _units(batch, rows, lengths, options)]


def forward_tokens(units: Sequence[Unit], lengths: Sequence[int], rows: Sequence[int], options: PackingOptions) -> int:
    """Tokens that a network is given of `rows` alone, of the batch that `units` and `lengths` [B] are of."""
    own = [lengths[row] for row in rows]
    arrangement = arrange(of_rows(units, rows), own, options) if options.share or options.pack else None
    return len(own) * max(own) if arrangement is None else arrangement.tokens


def _units(batch: TokenBatch, rows: Sequence[int], lengths: Sequence[int], options: PackingOptions) -> list[Unit]:
    """Rows with what they begin with once, and rows that are equal once."""
    equal: dict[Hashable, list[int]] = {}
    for row in rows:
        content = (batch.ids[row, :, : lengths[row]].numpy().tobytes(), _heard(batch, row, lengths[row]))
        equal.setdefault(content if options.share else row, []).append(row)
    members = tuple(tuple(each) for each in equal.values())
    firsts = [each[0] for each in members]
    prefix = _common(batch, firsts, lengths, options.ahead) if len(firsts) > 1 else 0
    if not prefix:
        return [Unit(0, (each,), (lengths[each[0]],)) for each in members]
    return [Unit(prefix, members, tuple(lengths[row] - prefix for row in firsts))]


def _common(batch: TokenBatch, rows: Sequence[int], lengths: Sequence[int], ahead: int) -> int:
    """How many tokens of `rows` are the same and followed by the same `ahead` further ones; no sound is cut."""
    ids = batch.ids[list(rows)]
    shortest = min(lengths[row] for row in rows)
    same = (ids == ids[:1]).all(dim=0).all(dim=0)[:shortest]
    count = int(same.long().cumprod(dim=0).sum())
    if batch.sounds:
        while len({_heard(batch, row, count) for row in rows}) > 1:
            count -= 1
    count = max(0, count - ahead)
    for each in batch.sounds[rows[0]] if batch.sounds else ():
        if each.start < count < each.start + each.length:
            return each.start
    return count


def _heard(batch: TokenBatch, row: int, count: int) -> Hashable:
    """The sounds of a row that begin within its first `count` tokens."""
    sounds = batch.sounds[row] if batch.sounds else ()
    return tuple((each.start, each.length, id(each.values)) for each in sounds if each.start < count)


def laid_out(batch: TokenBatch, layout: Packing) -> TokenBatch:
    """`batch` [B, S, T] as the packed rows [R, S, L] of `layout`."""

    def moved(tokens: Tensor) -> Tensor:
        """[B, S, T] to [R, S, L]."""
        return tokens.transpose(1, 2).flatten(0, 1)[layout.source].transpose(1, 2)

    rows = RowLayout(layout.positions, layout.segment, layout.prefix, layout.source, batch.ids)
    filled = torch.tensor([sum(unit.length for unit in row) for row in layout.arrangement.rows])
    return TokenBatch(
        ids=moved(batch.ids),
        roles=moved(batch.roles),
        sources=moved(batch.sources),
        lengths=filled.to(batch.lengths.device),
        sounds=_sounds(batch, layout) if batch.sounds else (),
        layout=rows,
    )


def _sounds(batch: TokenBatch, layout: Packing) -> tuple[tuple[SoundSegment, ...], ...]:
    """By packed row, the sounds of its segments."""
    found = []
    for row in layout.arrangement.rows:
        column, sounds = 0, []
        for unit in row:
            for members, begin, end in unit.spans():
                own = batch.sounds[members[0]]
                sounds += [
                    replace(each, start=column + each.start - begin) for each in own if begin <= each.start < end
                ]
                column += end - begin
        found.append(tuple(sounds))
    return tuple(found)
