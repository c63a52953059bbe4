"""Log-softmax of a linear head at one chosen id per row, as three autograd functions of the same values.

`TiledLogprobs` walks over tiles of rows x vocabulary with an online log-sum-exp and computes each tile again in the
backward pass: its memory does not grow with the vocabulary beyond one tile. `DirectLogprobs` holds the whole matrix,
which is faster while it is small. `KeptLogprobs` reads only the rows of the head that a cut distribution kept. All
multiply in the precision of the hidden states and sum in float32 (float64 for float64), and all keep the parameter
itself for the backward pass, never a view of it: a partitioned parameter has its data taken away and given back in
between.

Letters: N rows, H hidden, V vocabulary, K kept ids; V' the ids of one tile.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_TILE = 2**20
"""Numbers held at once on a CPU: 4 MiB in float32."""
GPU_TILE = 2**26
"""Numbers held at once on an accelerator: 256 MiB in float32."""
MAX_TILE_ROWS = 4096
DIRECT = 2**22
"""Log-probs held whole for the backward pass: 16 MiB in float32."""
_BARRED = -1e30
"""Logit of an id that was cut away: finite, so that the difference of two of them is a number."""
LN_2 = math.log(2)
"""Tiles hold logits / ln 2: powers of 2 take half the time of powers of e."""

Gradients = tuple[Tensor | None, Tensor | None, None]


@final
@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of each row."""

    targets: Tensor
    """[N] int64."""
    inverse: Tensor | None
    """1 / temperature, [N] in the accumulator's precision; None for 1."""
    support: Tensor | None
    """[N, K] ids the distribution is cut to, padded by -1, the target among them; None does not cut."""
    with_entropy: bool = False

    def __getitem__(self, rows: slice | Tensor) -> "Query":
        """The same of some rows: a slice, numbers [M] or a mask [N]."""
        inverse, support = (None if part is None else part[rows] for part in (self.inverse, self.support))
        return Query(self.targets[rows], inverse, support, self.with_entropy)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Precision in which sums over tiles and log-probs of `dtype` inputs are kept."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def tile_shape(rows: int, columns: int, device: torch.device) -> tuple[int, int]:
    """Rows and columns of a tile that holds no more numbers than the device's budget; all of them where they fit."""
    budget = CPU_TILE if device.type == "cpu" else GPU_TILE
    if rows * columns <= budget:
        return max(rows, 1), columns
    tile_rows = max(1, min(rows, MAX_TILE_ROWS, int(budget**0.5)))
    return tile_rows, min(columns, budget // tile_rows)


def _slices(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """`left` [N, M] @ `right` [M, P] of one precision, given as [N, P] in the accumulator's and never rounded before.

    A GPU sums half precision in float32 by itself. A CPU would round the sums to half precision again, which the
    sampler does not; it also takes longer than to multiply in float32, but where it has instructions for bfloat16.
    """
    if left.is_cuda and left.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(left, right, out_dtype=torch.float32)
    dtype = accumulator(left.dtype)
    return left.to(dtype) @ right.to(dtype)


def _each_product(left: Tensor, right: Tensor) -> Tensor:
    """As `_product`, of `left` [N, M, P] and `right` [N, P, Q] matrix by matrix."""
    if left.is_cuda and left.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(left, right, out_dtype=torch.float32)
    dtype = accumulator(left.dtype)
    return torch.bmm(left.to(dtype), right.to(dtype))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left` [N, M] @ `right` [M, P] to `total` [N, P] in place."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(_product(left, right))


def _logits(hidden: Tensor, head: Tensor, query: Query, *, start: int) -> Tensor:
    """Logits [N, V'] of one tile from `hidden` [N, H] and `head` [V', H], the head's rows from id `start` on.

    Ids outside a row's support [N, K] get a logit that is as good as -inf.
    """
    tile = _product(hidden, head.t())
    if query.inverse is not None:
        tile.mul_(query.inverse[:, None])
    return tile if query.support is None else _bar(tile, query.support, start)


def _bar(tile: Tensor, support: Tensor, start: int) -> Tensor:
    """`tile` [N, V'] of logits from id `start` on, overwritten where an id is outside its row's `support` [N, K]."""
    local = support.long() - start
    inside = (local >= 0) & (local < tile.shape[1])
    # one column more than the tile has takes the ids that lie elsewhere
    barred = torch.ones(tile.shape[0], tile.shape[1] + 1, dtype=torch.bool, device=tile.device)
    barred.scatter_(1, torch.where(inside, local, tile.shape[1]), False)
    return tile.masked_fill_(barred[:, :-1], _BARRED)


@final
class _BinaryLogits:
    """Tiles of logits / ln 2 of some rows.

    Temperature and base go into the hidden states, which are few, where these have the precision of the sums; half
    precision would lose by it what the sampler's logits have, so that its tiles are multiplied instead.
    """

    def __init__(self, hidden: Tensor, query: Query) -> None:
        """Of `hidden` [N, H]."""
        whole, inverse = hidden.dtype == accumulator(hidden.dtype), query.inverse
        scale = 1 / LN_2 if inverse is None else (inverse / LN_2)[:, None]
        self._hidden = hidden * scale if whole else hidden
        self._scale, self._support = None if whole else scale, query.support

    def tile(self, rows: slice, head: Tensor, start: int) -> Tensor:
        """[N', V'] of `rows` and `head` [V', H], its rows from id `start` on."""
        tile = _product(self._hidden[rows], head.t())
        if self._scale is not None:
            tile.mul_(self._scale[rows] if isinstance(self._scale, Tensor) else self._scale)
        return tile if self._support is None else _bar(tile, self._support[rows], start)


@final
class _Running:
    """Log-sum-exp, target logit and mean logit of some rows, tile after tile, [N] each, all in base 2."""

    def __init__(self, targets: Tensor, dtype: torch.dtype, *, with_entropy: bool) -> None:
        """Begin with no tile, for rows whose `targets` are [N]."""
        self.targets, self.with_entropy = targets, with_entropy
        self.peak = torch.full(targets.shape, _BARRED, dtype=dtype, device=targets.device)
        self.mass = torch.zeros_like(self.peak)
        self.picked = torch.zeros_like(self.peak)
        self.weighted = torch.zeros_like(self.peak)

    def fold(self, tile: Tensor, start: int) -> None:
        """Take a tile of logits [N, V'] from id `start` on; the tile is overwritten."""
        local = self.targets - start
        inside = (local >= 0) & (local < tile.shape[1])
        found = tile.gather(1, local.clamp(0, tile.shape[1] - 1)[:, None])[:, 0]
        self.picked = torch.where(inside, found, self.picked)
        top = torch.maximum(self.peak, tile.amax(dim=1))
        decay = (self.peak - top).exp2_()
        if self.with_entropy:
            grown = (tile - top[:, None]).exp2_()
            self.weighted = self.weighted * decay + tile.mul_(grown).sum(dim=1)
        else:
            grown = tile.sub_(top[:, None]).exp2_()
        self.mass = self.mass * decay + grown.sum(dim=1)
        self.peak = top

    @property
    def log_z(self) -> Tensor:
        """[N]."""
        return self.peak + self.mass.log2()


@final
class DirectLogprobs(torch.autograd.Function):
    """Over the whole vocabulary at once, for few enough rows; the distribution [N, V] is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, query: Query) -> tuple[Tensor, Tensor]:
        """Log-probs [N] and entropy [N] (or [0]) of `hidden` [N, H] and `weight` [V, H]."""
        with torch.autocast(hidden.device.type, enabled=False):
            scores = _logits(hidden, weight.data.to(hidden.dtype), query, start=0).log_softmax(dim=1)
        ctx.save_for_backward(hidden, scores)
        ctx.weight, ctx.query = weight, query
        entropy = -(scores.exp() * scores).sum(dim=1) if query.with_entropy else scores.new_empty(0)
        ctx.mark_non_differentiable(entropy)
        return scores.gather(1, query.targets[:, None])[:, 0], entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, _: Tensor) -> Gradients:
        """Gradients [N, H] and [V, H] of hidden states and head from `grad_logprobs` [N]."""
        (hidden, scores), query, head = ctx.saved_tensors, ctx.query, ctx.weight.data
        pull = grad_logprobs if query.inverse is None else grad_logprobs * query.inverse
        with torch.autocast(hidden.device.type, enabled=False):
            slope = _add_at(scores.exp().mul_(-pull[:, None]), query.targets, pull).to(hidden.dtype)
            grad_hidden = _product(slope, head.to(hidden.dtype)) if ctx.needs_input_grad[0] else None
            grad_weight = _product(slope.t(), hidden) if ctx.needs_input_grad[1] else None
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight.to(head.dtype),
            None,
        )


@final
class TiledLogprobs(torch.autograd.Function):
    """Over the whole vocabulary, tile by tile, computed again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, query: Query) -> tuple[Tensor, Tensor]:
        """Log-probs [N] and entropy [N] (or [0]) of `hidden` [N, H] and `weight` [V, H]."""
        head, dtype = weight.data, accumulator(hidden.dtype)
        rows, vocabulary = hidden.shape[0], head.shape[0]
        tile_rows, tile_columns = tile_shape(rows, vocabulary, hidden.device)
        log_z = torch.zeros(rows, dtype=dtype, device=hidden.device)
        picked, mean_logit = torch.zeros_like(log_z), torch.zeros_like(log_z)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _BinaryLogits(hidden, query)
            for r in _slices(rows, tile_rows):
                running = _Running(query.targets[r], dtype, with_entropy=query.with_entropy)
                for v in _slices(vocabulary, tile_columns):
                    running.fold(logits.tile(r, head[v].to(hidden.dtype), v.start), v.start)
                log_z[r], picked[r], mean_logit[r] = running.log_z, running.picked, running.weighted / running.mass
        ctx.save_for_backward(hidden, log_z)
        ctx.weight, ctx.query = weight, query
        entropy = (log_z - mean_logit) * LN_2 if query.with_entropy else log_z.new_empty(0)
        ctx.mark_non_differentiable(entropy)
        return (picked - log_z) * LN_2, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, _: Tensor) -> Gradients:
        """Gradients [N, H] and [V, H] of hidden states and head from `grad_logprobs` [N]."""
        (hidden, log_z), query, head = ctx.saved_tensors, ctx.query, ctx.weight.data
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        pull = grad_logprobs if query.inverse is None else grad_logprobs * query.inverse
        tile_rows, tile_columns = tile_shape(hidden.shape[0], head.shape[0], hidden.device)
        grad_hidden = torch.zeros(hidden.shape, dtype=log_z.dtype, device=hidden.device) if wants_hidden else None
        grad_weight = torch.empty_like(head) if wants_weight else None
        with torch.autocast(hidden.device.type, enabled=False):
            logits = _BinaryLogits(hidden, query)
            pulled = (hidden * -pull[:, None]).to(hidden.dtype).t() if wants_weight else None
            for v in _slices(head.shape[0], tile_columns):
                piece = head[v].to(hidden.dtype)
                grad_piece = torch.zeros(piece.t().shape, dtype=log_z.dtype, device=hidden.device)
                for r in _slices(hidden.shape[0], tile_rows):
                    tile = logits.tile(r, piece, v.start).sub_(log_z[r, None]).exp2_()
                    slope = _less_one_at(tile, query.targets[r] - v.start).to(hidden.dtype)
                    if grad_hidden is not None:
                        _add_product(grad_hidden[r], slope, piece)
                    if pulled is not None:
                        _add_product(grad_piece, pulled[:, r], slope)
                if grad_weight is not None:
                    grad_weight[v] = grad_piece.t()
        return None if grad_hidden is None else grad_hidden.mul_(-pull[:, None]).to(hidden.dtype), grad_weight, None


def _less_one_at(tile: Tensor, columns: Tensor) -> Tensor:
    """Take 1 from `tile` [N, V'] in place, at `columns` [N] where they lie inside it."""
    return _add_at(tile, columns, torch.full(columns.shape, -1, dtype=tile.dtype, device=tile.device))


def _add_at(tile: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """Add `values` [N] to `tile` [N, V'] in place, at `columns` [N] where they lie inside it."""
    inside = (columns >= 0) & (columns < tile.shape[1])
    return tile.scatter_add_(1, columns.clamp(0, tile.shape[1] - 1)[:, None], torch.where(inside, values, 0.0)[:, None])


@final
class KeptLogprobs(torch.autograd.Function):
    """Over the ids of the support alone; every row keeps at least its target."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, query: Query) -> tuple[Tensor, Tensor]:
        """Log-probs [N] and entropy [N] (or [0]) of `hidden` [N, H] and `weight` [V, H]; keeps log-probs [N, K]."""
        support = _kept(query)
        head, dtype = weight.data, accumulator(hidden.dtype)
        logprobs = torch.zeros(support.shape, dtype=dtype, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for r in _slices(hidden.shape[0], _rows_at_once(support, hidden)):
                ids = support[r].long()
                logits = _each_product(head[ids.clamp(min=0)].to(hidden.dtype), hidden[r, :, None])[:, :, 0]
                if query.inverse is not None:
                    logits.mul_(query.inverse[r, None])
                logprobs[r] = logits.masked_fill_(ids < 0, _BARRED).log_softmax(dim=1)
        column = (support == query.targets[:, None]).int().argmax(dim=1, keepdim=True)
        ctx.save_for_backward(hidden, column, logprobs)
        ctx.weight, ctx.query = weight, query
        entropy = -(logprobs.exp() * logprobs).sum(dim=1) if query.with_entropy else logprobs.new_empty(0)
        ctx.mark_non_differentiable(entropy)
        return logprobs.gather(1, column)[:, 0], entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, _: Tensor) -> Gradients:
        """Gradients [N, H] and [V, H] of hidden states and head from `grad_logprobs` [N]."""
        (hidden, column, logprobs), query, head = ctx.saved_tensors, ctx.query, ctx.weight.data
        support = _kept(query)
        wants_hidden, wants_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        pull = (grad_logprobs if query.inverse is None else grad_logprobs * query.inverse)[:, None]
        slopes = (logprobs.exp() * -pull).scatter_add_(1, column, pull)
        grad_hidden = torch.zeros_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros(head.shape, dtype=pull.dtype, device=head.device) if wants_weight else None
        with torch.autocast(hidden.device.type, enabled=False):
            for r in _slices(hidden.shape[0], _rows_at_once(support, hidden)):
                ids = support[r].long().clamp(min=0)
                if grad_hidden is not None:
                    pieces = head[ids].to(hidden.dtype)
                    grad_hidden[r] = torch.bmm(slopes[r, None, :].to(hidden.dtype), pieces)[:, 0]
                if grad_weight is not None:
                    spread = slopes[r, :, None] * hidden[r, None, :].to(slopes.dtype)
                    grad_weight.index_add_(0, ids.reshape(-1), spread.reshape(-1, hidden.shape[1]))
        return grad_hidden, None if grad_weight is None else grad_weight.to(head.dtype), None


def _kept(query: Query) -> Tensor:
    """The support [N, K] of a query that must have one."""
    if query.support is None:
        raise ValueError("nothing was cut: there are no kept ids to read")
    return query.support


def _rows_at_once(support: Tensor, hidden: Tensor) -> int:
    """How many rows' kept pieces of the head, [rows, K, H], fit the budget: of `support` [N, K], `hidden` [N, H]."""
    budget = CPU_TILE if hidden.device.type == "cpu" else GPU_TILE
    return max(1, budget // max(1, support.shape[1] * hidden.shape[1]))
