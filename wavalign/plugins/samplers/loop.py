"""The sampling loop over a `DecodingState`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from wavalign.plugins.api import DecodingState, Distribution, Policy
from wavalign.plugins.samplers.drawing import Drawer, penalised, row_uniforms
from wavalign.plugins.samplers.record import Record


@final
class HeadProjections:
    """Logits of a policy's heads in float32.

    A GPU multiplies half precision into float32 by itself; elsewhere a head of lower precision is converted once.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._weights: dict[int, Tensor] = {}

    def logits(self, head: int, hidden: Tensor) -> Tensor:
        """Logits [B, V] of `hidden` [B, H]."""
        weight = self._policy.head_weight(head).detach()
        if weight.is_cuda and weight.dtype == hidden.dtype and weight.dtype in (torch.bfloat16, torch.float16):
            return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        key = weight.data_ptr()
        if key not in self._weights:
            self._weights[key] = weight.float()
        return nn.functional.linear(hidden.float(), self._weights[key])


def sample_rows(
    state: DecodingState,
    heads: HeadProjections,
    distributions: Sequence[Distribution],
    uniforms: Tensor,
    *,
    compact_below: float,
) -> Record:
    """Sample each stream from its distribution until every row of `state` is finished or `uniforms` [B, S, T] are used.

    Finished rows leave the batch once the live ones are less than `compact_below` of it.
    """
    device = state.finished().device
    count, streams, steps = uniforms.shape
    record = Record(count, streams, steps, device=device)
    drawers = [Drawer(each.temperature, each.top_k, each.top_p) for each in distributions]
    uniforms, rows = uniforms.to(device), torch.arange(count, device=device)
    for step in range(steps):
        turn, hidden = state.heads(), state.hidden()
        draws = []
        for stream, head in enumerate(turn):
            logits = heads.logits(head, hidden[:, stream])
            penalty, window = distributions[stream].repetition_penalty, distributions[stream].repetition_window
            recent = record.recent(stream, step, rows, window) if penalty != 1 else None
            logits = logits if recent is None else penalised(logits, recent, penalty)
            draws.append(drawers[stream].draw(logits, uniforms[rows, stream, step]))
        record.sources[:, step] = torch.tensor(turn, dtype=torch.int8)
        roles = state.append(record.write(step, rows, draws, state.forced()))
        finished = state.finished()
        record.close(step, rows, roles, finished)
        live = int((~finished).sum())
        if live == 0:
            break
        if live < compact_below * len(rows):
            kept = (~finished).nonzero()[:, 0]
            state.keep(kept)
            rows = rows[kept]
    return record


def unique_names(ids: Sequence[str]) -> list[str]:
    """One name a prompt: a dialogue that comes again is told apart by how often it came before."""
    seen: Counter[str] = Counter()
    names = []
    for name in ids:
        names.append(f"{name}\0{seen[name]}")
        seen[name] += 1
    return names


def uniforms_of(seed: int, names: Sequence[str], group_size: int, shape: tuple[int, int]) -> Tensor:
    """Uniform numbers [P * G, S, T], every row from a stream of its own."""
    return torch.stack([row_uniforms(seed, f"{name}\0{index}", shape) for name in names for index in range(group_size)])


@contextmanager
def evaluation_mode(policy: nn.Module) -> Iterator[None]:
    """Put `policy` in eval mode, then every module of it back into the mode it was in."""
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
