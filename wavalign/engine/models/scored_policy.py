"""Log-probabilities of chosen tokens, without the matrix of all log-probabilities.

`selected_logprobs` is the one place where hidden states meet a head; `score_batch` and `ScoredPolicy` apply it to the
selected positions of a batch and to no other.

Letters: N rows, H hidden, V vocabulary, K kept ids, B sequences, S streams, T tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from wavalign.engine.models import fused_logprobs as head
from wavalign.engine.models.fused_logprobs import DirectLogprobs, KeptLogprobs, Query, TiledLogprobs, accumulator
from wavalign.engine.models.scalar_heads import ScalarHeads
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import TokenBatch, TokenSpace
from wavalign.plugins.scalars import ScalarHead

GATHER_COST = 32
"""Reading K rows of a head by index is taken to cost what multiplying with this many times K rows in order does."""


def selected_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    support: Tensor | None = None,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log softmax(hidden @ weight.T / temperature) at `targets`, in float32 (float64 for float64 `hidden`).

    `hidden` [N, H], `weight` [V, H], `targets` [N] int64, `temperature` > 0, one for all or [N]. `support` [N, K]:
    distinct ids the distribution is cut to, padded by -1; a row with none is not cut. Gives log-probs [N] and, when
    asked for, the distribution's entropy [N] in nats, without gradient. A `weight` in another precision than `hidden`
    is converted tile by tile. Raises ValueError for a temperature that is not positive and for a target outside its
    row's support.
    """
    query = Query(targets, _inverse(temperature, hidden), support, with_entropy)
    if support is None:
        return _apply(hidden, weight, query)
    kept = support >= 0
    cut = kept.any(dim=1)
    if not bool((((support == targets[:, None]) & kept).any(dim=1) | ~cut).all()):
        raise ValueError("a target lies outside the support it was sampled from")
    if bool(cut.all()):
        return _apply(hidden, weight, query)
    if not bool(cut.any()):
        return _apply(hidden, weight, replace(query, support=None))
    halves = [_apply(hidden[cut], weight, query[cut]), _apply(hidden[~cut], weight, replace(query[~cut], support=None))]
    order = torch.cat([cut.nonzero()[:, 0], (~cut).nonzero()[:, 0]]).argsort()
    entropies = [entropy for _, entropy in halves if entropy is not None]
    return torch.cat([values for values, _ in halves])[order], torch.cat(entropies)[order] if entropies else None


def _apply(hidden: Tensor, weight: Tensor, query: Query) -> tuple[Tensor, Tensor | None]:
    """Log-probs [N] and entropy [N] by the cheapest of the three ways."""
    vocabulary = weight.shape[0]
    function: type[KeptLogprobs | DirectLogprobs | TiledLogprobs] = TiledLogprobs
    if query.support is not None and query.support.shape[1] * GATHER_COST <= vocabulary:
        function = KeptLogprobs
    elif hidden.shape[0] * vocabulary <= head.DIRECT:
        function = DirectLogprobs
    logprobs, entropy = function.apply(hidden, weight, query)  # type: ignore[no-untyped-call]
    return logprobs, entropy if query.with_entropy else None


def _inverse(temperature: float | Tensor, hidden: Tensor) -> Tensor | None:
    """1 / temperature [N] in the precision of log-probs; None where it is 1 for all."""
    if not isinstance(temperature, Tensor):
        if temperature == 1:
            return None
        temperature = torch.full(hidden.shape[:1], temperature, dtype=torch.float64)
    if bool((temperature <= 0).any()):
        raise ValueError("temperature must be above 0 to score tokens")
    return temperature.reciprocal().to(hidden.device, accumulator(hidden.dtype))


def score_batch(
    policy: Policy,
    batch: TokenBatch,
    select: Tensor,
    space: TokenSpace,
    *,
    temperature: float | Tensor,
    support: Tensor | None = None,
) -> Tensor:
    """Log-probs [B, S, T] of the positions in `select` (bool [B, S, T]) under `policy`, 0 elsewhere, with gradient.

    Only the heads those positions come from are asked for, only those positions' rows reach a head, and sequences
    without such positions do not reach the network. `temperature` is one for all, [B] or [B, S]; `support`
    [B, S, T, K] as in `selected_logprobs`. float32, or float64 for a float64 policy. Raises ValueError when a selected
    position has no earlier position it could be predicted from.
    """
    score, used = ScoredPolicy(policy, space), select.flatten(1).any(dim=1).nonzero()[:, 0]
    if len(used) in (0, len(select)):
        return score(batch, select, temperature=temperature, support=support)[0]  # type: ignore[no-any-return]
    scored, _ = score(
        batch.rows(used),
        select[used],
        temperature=temperature[used] if isinstance(temperature, Tensor) else temperature,
        support=None if support is None else support[used],
    )
    return torch.zeros(select.shape, dtype=scored.dtype, device=scored.device).index_put((used,), scored)


def _at(temperature: float | Tensor, row: Tensor, stream: Tensor) -> float | Tensor:
    """Temperature [N] of positions in sequences `row` and streams `stream`."""
    if not isinstance(temperature, Tensor):
        return temperature
    return temperature[row] if temperature.dim() == 1 else temperature[row, stream]


@final
class ScoredPolicy(nn.Module):
    """A policy whose forward pass scores tokens; what a training backend wraps."""

    def __init__(
        self, policy: Policy, space: TokenSpace, scalars: Sequence[ScalarHead] = (), *, hidden_size: int | None = None
    ) -> None:
        """Score `policy`; `scalars` are trained beside it and read its hidden states of width `hidden_size`."""
        super().__init__()
        self.policy = policy
        self.space = space
        self.scalar_heads = ScalarHeads(scalars, hidden_size)

    def head_parameters(self) -> tuple[nn.Parameter, ...]:
        """Distinct head weights, used outside the modules that own them."""
        weights = [self.policy.head_weight(index) for index in range(len(self.space.heads))]
        return tuple({id(weight): weight for weight in weights}.values())

    def forward(
        self,
        batch: TokenBatch,
        select: Tensor,
        *,
        temperature: float | Tensor,
        support: Tensor | None = None,
        heads: frozenset[int] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-probs [B, S, T] as `score_batch`, and the values of every scalar head, [B, T] or [B], by its name.

        `heads` adds heads to those the selection needs.

        Where parameters are partitioned over ranks every rank must walk through the same modules: give all of them the
        union of their heads. An empty selection with no `heads` walks through the main heads.
        """
        b, s, t = select.nonzero(as_tuple=True)
        sources = batch.sources[b, s, t].long()
        wanted = frozenset(torch.unique(sources).tolist()) | (heads or frozenset())
        wanted = wanted or frozenset(self.space.main_heads)
        trunk = self.space.main_heads[0]
        if len(self.scalar_heads):
            wanted |= {trunk}
        hidden = self.policy.hidden(batch, wanted)
        rows, parts = [], []
        for index in sorted(wanted):
            here = (sources == index).nonzero()[:, 0]
            row_b, row_s, row_t = b[here], s[here], t[here]
            origin = row_t - self.space.heads[index].shift
            if bool((origin < 0).any()):
                raise ValueError(f"head {self.space.heads[index].name!r} cannot predict a position this early in a row")
            logprobs, _ = selected_logprobs(
                hidden[index][row_b, origin],
                self.policy.head_weight(index),
                batch.ids[row_b, row_s, row_t],
                temperature=_at(temperature, row_b, row_s),
                support=None if support is None else support[row_b, row_s, row_t],
            )
            rows.append(here)
            parts.append(logprobs)
        order, scored = torch.cat(rows), torch.cat(parts)
        place = (b[order], s[order], t[order])
        shift = self.space.heads[trunk].shift
        values = self.scalar_heads(hidden[trunk], batch.lengths, shift=shift) if len(self.scalar_heads) else {}
        return torch.zeros(select.shape, dtype=scored.dtype, device=scored.device).index_put(place, scored), values
