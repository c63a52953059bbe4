"""Log-probabilities of chosen tokens, without the matrix of all log-probabilities.

`head_logprobs` is the one place where hidden states meet a head; `score_batch` and `ScoredPolicy` apply it to the
selected positions of a batch and to no other, `selected_logprobs` to any rows.

Letters: N rows, H hidden, V vocabulary, K kept ids, B sequences, S streams, T tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, final

import torch
from torch import Tensor, nn

from wavalign.engine.models import fused_logprobs as head
from wavalign.engine.models.fused_logprobs import DirectLogprobs, KeptLogprobs, Query, TiledLogprobs
from wavalign.engine.models.packed_rows import laid_out
from wavalign.engine.models.scalar_heads import ScalarHeads
from wavalign.engine.models.scored_positions import COLD, OUTSIDE, find_positions, inverse
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import TokenBatch, TokenSpace
from wavalign.plugins.packing import Packing
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
    if bool((temperature <= 0).any()) if isinstance(temperature, Tensor) else temperature <= 0:
        raise ValueError(COLD)
    query = Query(targets, inverse(temperature, targets, hidden.dtype), support, with_entropy)
    if support is None:
        return head_logprobs(hidden, weight, query)
    cut = (support >= 0).any(dim=1)
    outside = cut & ~(support == targets[:, None]).any(dim=1)
    some_outside, all_cut, some_cut = torch.stack([outside.any(), cut.all(), cut.any()]).tolist()
    if some_outside:
        raise ValueError(OUTSIDE)
    if all_cut:
        return head_logprobs(hidden, weight, query)
    if not some_cut:
        return head_logprobs(hidden, weight, replace(query, support=None))
    halves = [
        head_logprobs(hidden[cut], weight, query[cut]),
        head_logprobs(hidden[~cut], weight, replace(query[~cut], support=None)),
    ]
    order = torch.cat([cut.nonzero()[:, 0], (~cut).nonzero()[:, 0]]).argsort()
    entropies = [entropy for _, entropy in halves if entropy is not None]
    return torch.cat([values for values, _ in halves])[order], torch.cat(entropies)[order] if entropies else None


def head_logprobs(hidden: Tensor, weight: Tensor, query: Query) -> tuple[Tensor, Tensor | None]:
    """Log-probs [N] and entropy [N] of `hidden` [N, H] and `weight` [V, H] by the cheapest of the three ways."""
    vocabulary = weight.shape[0]
    function: type[KeptLogprobs | DirectLogprobs | TiledLogprobs] = TiledLogprobs
    if query.support is not None and query.support.shape[1] * GATHER_COST <= vocabulary:
        function = KeptLogprobs
    elif hidden.shape[0] * vocabulary <= head.DIRECT:
        function = DirectLogprobs
    logprobs, entropy = function.apply(hidden, weight, query)  # type: ignore[no-untyped-call]
    return logprobs, entropy if query.with_entropy else None


class Score(Protocol):
    """Log-probs of a batch."""

    def __call__(
        self, batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> Tensor:
        """[B, S, T] of the positions in `select` (bool [B, S, T]), 0 elsewhere, as `score_batch` gives them."""


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
    scored = ScoredPolicy(policy, space)
    return score_used(
        lambda *given, **named: scored(*given, **named)[0], batch, select, temperature=temperature, support=support
    )


def score_used(
    score: Score,
    batch: TokenBatch,
    select: Tensor,
    *,
    temperature: float | Tensor,
    support: Tensor | None = None,
) -> Tensor:
    """What `score` gives [B, S, T], asked of the sequences alone that `select` takes something of; of all for none."""
    used = select.flatten(1).any(dim=1).nonzero()[:, 0]
    if len(used) in (0, len(select)):
        return score(batch, select, temperature=temperature, support=support)
    scored = score(
        batch.rows(used),
        select[used],
        temperature=temperature[used] if isinstance(temperature, Tensor) else temperature,
        support=None if support is None else support[used],
    )
    return torch.zeros(select.shape, dtype=scored.dtype, device=scored.device).index_put((used,), scored)


@final
class ScoredPolicy(nn.Module):
    """A policy whose forward pass scores tokens; what a training backend wraps."""

    def __init__(
        self,
        policy: Policy,
        space: TokenSpace,
        scalars: Sequence[ScalarHead] = (),
        *,
        hidden_size: int | None = None,
        critic: Policy | None = None,
    ) -> None:
        """Score `policy`; `scalars` are trained beside it and read hidden states of width `hidden_size`.

        They are those of `critic`, a second network that is trained with it, or else of `policy` itself.
        """
        super().__init__()
        self.policy = policy
        self.critic = critic
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
        positions = find_positions(batch, select, self.space.heads, temperature=temperature, support=support)
        wanted = positions.heads | (heads or frozenset()) or frozenset(self.space.main_heads)
        trunk = self.space.main_heads[0]
        if len(self.scalar_heads) and self.critic is None:
            wanted |= {trunk}
        given, packing = self._given(batch, wanted)
        hidden, parts = self.policy.hidden(given, wanted), []
        for index in sorted(wanted):
            weight = self.policy.head_weight(index)
            for rows, cut in positions.parts(index):
                states = _states(hidden[index], packing, positions.place[0][rows], positions.origin[rows])
                query = positions.query(rows, cut=cut, dtype=states.dtype)
                parts.append(head_logprobs(states, weight, query)[0])
        scored = torch.cat(parts)
        nothing = torch.zeros(select.shape, dtype=scored.dtype, device=scored.device)
        return nothing.index_put(positions.place, scored), self._values(batch, given, hidden.get(trunk))

    def _given(self, batch: TokenBatch, heads: frozenset[int]) -> tuple[TokenBatch, Packing | None]:
        """What the network is given, and how it is packed; rows as they are where they cannot be for all `heads`."""
        packing, networks = batch.packing, (self.policy, *(() if self.critic is None else (self.critic,)))
        if packing is None or not all(type(each).packs for each in networks):
            return batch, None
        if max(self.space.heads[head].shift for head in heads) - 1 > packing.options.ahead:
            return batch, None
        return laid_out(batch, packing), packing

    def _values(self, batch: TokenBatch, given: TokenBatch, hidden: Tensor | None) -> dict[str, Tensor]:
        """What the scalar heads say, [B, T] or [B] by name; `hidden` [B, T, H] is what the policy gave of `given`."""
        if not len(self.scalar_heads):
            return {}
        trunk = self.space.main_heads[0]
        if self.critic is not None:
            hidden = self.critic.hidden(given, frozenset({trunk}))[trunk]
        assert hidden is not None  # asked for above
        if given.layout is not None and batch.packing is not None:
            places = batch.packing.place
            hidden = hidden.flatten(0, 1).index_select(0, places.flatten()).view(*places.shape, -1)
        found: dict[str, Tensor] = self.scalar_heads(hidden, batch.lengths, shift=self.space.heads[trunk].shift)
        return found


def _states(hidden: Tensor, packing: Packing | None, rows: Tensor, tokens: Tensor) -> Tensor:
    """Hidden states [N, H] of `tokens` [N] of `rows` [N], from [B, T, H], or from packed ones [R, L, H]."""
    if packing is None:
        return hidden[rows, tokens]
    return hidden.flatten(0, 1).index_select(0, packing.place[rows, tokens])
