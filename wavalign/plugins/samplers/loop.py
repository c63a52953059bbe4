"""The sampling loop over a `DecodingState`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from wavalign.plugins.api import DecodingState, Distribution, Policy
from wavalign.plugins.samplers.drawing import Draw, Drawer, penalised, row_uniforms
from wavalign.plugins.samplers.transcript import Transcript


@final
class HeadProjections:
    """Logits of a policy's heads in float32, also under autocast: scoring computes them so.

    A GPU multiplies half precision into float32 by itself; elsewhere a head of lower precision is converted once.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._weights: dict[int, Tensor] = {}
        self._room: Tensor | None = None

    def logits(self, head: int, hidden: Tensor) -> Tensor:
        """Logits [B, V] of `hidden` [B, H], to be overwritten at will; the next call takes their place."""
        weight = self._policy.head_weight(head).detach()
        with torch.autocast(weight.device.type, enabled=False):
            if weight.is_cuda and weight.dtype == hidden.dtype and weight.dtype in (torch.bfloat16, torch.float16):
                return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
            key = weight.data_ptr()
            if key not in self._weights:
                self._weights[key] = weight.float()
            rows, vocabulary = len(hidden), len(weight)
            if self._room is None or self._room.numel() < rows * vocabulary:
                self._room = torch.empty(rows * vocabulary, device=weight.device)  # once: so much memory comes slowly
            room = self._room[: rows * vocabulary].view(rows, vocabulary)
            return torch.mm(hidden.float(), self._weights[key].t(), out=room)


@final
class StreamDrawer:
    """Draws the ids of one stream."""

    def __init__(self, stream: int, distribution: Distribution) -> None:
        self._stream = stream
        self._penalty, self._window = distribution.repetition_penalty, distribution.repetition_window
        self._drawer = Drawer(distribution.temperature, distribution.top_k, distribution.top_p)

    def draw(self, logits: Tensor, uniforms: Tensor, transcript: Transcript, rows: Tensor) -> Draw:
        """The coming ids of `rows` from `logits` [R, V], which are overwritten, with `uniforms` [R]."""
        if self._penalty != 1:
            recent = transcript.recent(self._stream, rows, self._window)
            logits = logits if recent is None else penalised(logits, recent, self._penalty)
        return self._drawer.draw(logits, uniforms)


def sample_rows(
    state: DecodingState,
    heads: HeadProjections,
    distributions: Sequence[Distribution],
    uniforms: Tensor,
    *,
    compact_below: float,
) -> Transcript:
    """Sample each stream from its distribution until every row of `state` is finished or `uniforms` [B, S, T] are used.

    Finished rows leave the batch once the live ones are less than `compact_below` of it.
    """
    device = state.finished().device
    count, streams, steps = uniforms.shape
    transcript = Transcript(count, streams, steps, device=device)
    drawers = [StreamDrawer(stream, each) for stream, each in enumerate(distributions)]
    left, rows = uniforms.permute(2, 1, 0).contiguous().to(device), torch.arange(count, device=device)
    for step in range(steps):
        turn, hidden = state.heads(), state.hidden()
        draws = [
            drawers[stream].draw(heads.logits(head, hidden[:, stream]), left[step, stream], transcript, rows)
            for stream, head in enumerate(turn)
        ]
        roles = state.append(transcript.write(rows, draws, heads=turn, forced=state.forced()))
        finished = state.finished()
        transcript.close(rows, roles, finished=finished, text_over=state.text_over())
        if (step + 1) % look_every(device):
            continue
        live = int((~finished).sum())
        if live == 0:
            break
        if live < compact_below * len(rows):
            kept = (~finished).nonzero()[:, 0]
            state.keep(kept)
            left, rows = left[:, :, kept], rows[kept]
    return transcript


def look_every(device: torch.device) -> int:
    """Steps between looks at which rows are finished: on an accelerator to look is to wait for it."""
    return 1 if device.type == "cpu" else 8


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
