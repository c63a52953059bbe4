"""Tokens, log-probs and roles that a sampling loop collects, and the rollouts made of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wavalign.plugins.api import Architecture
from wavalign.plugins.batch import Dialogue, Rollout, RolloutGroup, TokenSequence
from wavalign.plugins.samplers.drawing import Draw


@final
class Transcript:
    """Tokens of B rows, S streams and up to T steps, on the device that samples."""

    def __init__(self, rows: int, streams: int, steps: int, *, device: torch.device) -> None:
        shape = (rows, streams, steps)
        self.ids = torch.zeros(shape, dtype=torch.int64, device=device)
        self.roles = torch.zeros(shape, dtype=torch.int8, device=device)
        self.logprobs = torch.zeros(shape, dtype=torch.float32, device=device)
        self.sources: list[tuple[int, ...]] = []
        """Per step, the head of every stream: the same for all rows."""
        self.done = torch.ones(rows, steps, dtype=torch.bool, device=device)
        """[B, T]: complete after the step; rows that have left the batch are."""
        self.text_over = torch.zeros(rows, dtype=torch.bool, device=device)
        """[B]: the text is complete."""
        self.supports: list[tuple[Tensor, Tensor]] = []
        """Per step: the rows [R] that sampled and their kept ids [R, S, K], padded by -1, on the CPU; -1 alone where
        nothing was cut."""

    @property
    def steps(self) -> int:
        """Steps written so far."""
        return len(self.sources)

    def write(self, rows: Tensor, draws: Sequence[Draw], *, heads: tuple[int, ...], forced: Tensor) -> Tensor:
        """Note the draws of all streams for `rows` [R], overruled where `forced` [R, S] is an id; gives ids [R, S]."""
        step = self.steps
        free = forced < 0
        ids = torch.where(free, torch.stack([draw.ids for draw in draws], dim=1), forced)
        self.ids[:, :, step].index_copy_(0, rows, ids)
        logprobs = torch.stack([draw.logprobs for draw in draws], dim=1)
        self.logprobs[:, :, step].index_copy_(0, rows, torch.where(free, logprobs, 0.0))
        self.sources.append(heads)
        width = max((draw.support.shape[1] for draw in draws if draw.support is not None), default=0)
        if width:
            support = ids.new_full((*ids.shape, width), -1, dtype=torch.int32)
            for stream, draw in enumerate(draws):
                if draw.support is not None:
                    support[:, stream, : draw.support.shape[1]] = draw.support
            self.supports.append((rows.cpu(), torch.where(free[:, :, None], support, -1).cpu()))
        return ids

    def recent(self, stream: int, rows: Tensor, window: int) -> Tensor | None:
        """The newest `window` ids [R, window] of `rows`; None while there are no more than that."""
        return self.ids[rows, stream, self.steps - window : self.steps] if self.steps > window else None

    def close(self, rows: Tensor, roles: Tensor, *, finished: Tensor, text_over: Tensor) -> None:
        """Note what the layout made of the step: `roles` [R, S], and which rows and which texts it completed."""
        step = self.steps - 1
        self.roles[:, :, step].index_copy_(0, rows, roles)
        self.done[:, step].index_copy_(0, rows, finished)
        self.text_over.index_copy_(0, rows, text_over)

    def groups(
        self, architecture: Architecture, prompts: Sequence[tuple[Dialogue, TokenSequence]], group_size: int
    ) -> list[RolloutGroup]:
        """The rollouts of all prompts, rows of one prompt adjacent, on the CPU and fit for autograd."""
        # Tensors made in inference mode cannot be saved for a backward pass, copies can.
        ids, roles, logprobs = (x.cpu().clone() for x in (self.ids, self.roles, self.logprobs))
        lengths = ((~self.done).sum(dim=1) + 1).clamp(max=self.done.shape[1]).tolist()
        finished, text_over = self.done[:, -1].tolist(), self.text_over.tolist()
        sources = torch.tensor(self.sources, dtype=torch.int8).t()
        supports = self._row_supports(lengths) if self.supports else [None] * len(lengths)
        rollouts = []
        for row, length in enumerate(lengths):
            completion = TokenSequence(
                ids[row, :, :length].clone(), roles[row, :, :length].clone(), sources[:, :length].clone()
            )
            said = architecture.decode_completion(completion)
            answer = replace(said, finished=finished[row], text_finished=text_over[row])
            rollouts.append(Rollout(completion, logprobs[row, :, :length].clone(), answer, supports[row]))
        return [
            RolloutGroup(dialogue, prompt, tuple(rollouts[index * group_size : (index + 1) * group_size]))
            for index, (dialogue, prompt) in enumerate(prompts)
        ]

    def _row_supports(self, lengths: Sequence[int]) -> list[Tensor | None]:
        """Kept ids [S, Tc, K] of every row, each as wide as that row needs."""
        steps: list[list[Tensor]] = [[] for _ in lengths]
        for rows, support in self.supports:
            for index, row in enumerate(rows.tolist()):
                steps[row].append(support[index].t())
        result: list[Tensor | None] = []
        for length, kept in zip(lengths, steps, strict=True):
            table = pad_sequence(kept[:length], padding_value=-1).permute(2, 1, 0)
            result.append(table[:, :, : int((table >= 0).sum(dim=-1).max())].clone())
        return result
