"""Tokens, log-probs and roles that a sampling loop collects, and the rollouts made of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from wavalign.plugins.api import Architecture, Buffers
from wavalign.plugins.batch import Dialogue, Rollout, RolloutGroup, TokenSequence
from wavalign.plugins.samplers.drawing import Draw

RESULTS = ("ids", "roles", "logprobs", "done", "text_over")
"""Tensors that rollouts are made of."""


@final
class Transcript:
    """Tokens of B rows, S streams and up to T steps, on the device that samples.

    A step writes in place: `uniforms` are read and `ids`, `roles`, `logprobs` [B, S, T], `done` [B, T] and `text_over`
    [B] written. With a `window` the number of the step is read from a tensor, and the kept ids of the last so many
    steps stand in `kept` [B, S, window, K] until they are flushed. Rows that leave the batch are put away.
    """

    def __init__(self, uniforms: Tensor, *, device: torch.device, window: int = 0, width: int = 0) -> None:
        """`uniforms` [B, S, T], one number for every token to be drawn; of at most `width` ids if that is given."""
        count, streams, steps = uniforms.shape
        self.rows, self.shared, self.host = Buffers(), Buffers(), 0
        """`host` counts the steps."""
        self._window, self._flushed = window, 0
        self.sources: list[tuple[int, ...]] = []
        """Per step, the head of every stream: the same for all rows."""
        if window and width:
            self.rows["kept"] = torch.zeros((count, streams, window, width), dtype=torch.int32, device=device)
        self.rows["uniforms"] = uniforms.to(device)
        self.rows["ids"] = torch.zeros(uniforms.shape, dtype=torch.int64, device=device)
        self.rows["roles"] = torch.zeros(uniforms.shape, dtype=torch.int8, device=device)
        self.rows["logprobs"] = torch.zeros(uniforms.shape, dtype=torch.float32, device=device)
        self.rows["done"] = torch.ones(count, steps, dtype=torch.bool, device=device)
        """[B, T]: complete after the step; rows that have left the batch are."""
        self.rows["text_over"] = torch.zeros(count, dtype=torch.bool, device=device)
        """[B]: the text is complete."""
        self.shared["step"] = torch.zeros(1, dtype=torch.int64, device=device)
        self.shared["short"] = torch.zeros(1, dtype=torch.bool, device=device)
        self.members = torch.arange(count, device=device)
        """[B], the rows of the call that are in the batch."""
        self._away: dict[str, Tensor] | None = None
        self.supports: list[tuple[Tensor, Tensor]] = []
        """Per step: the rows [R] that sampled and their kept ids [R, S, K], padded by -1, on the CPU; -1 alone where
        nothing was cut."""

    @property
    def steps(self) -> int:
        """Steps written so far."""
        return self.host

    @property
    def live(self) -> int:
        """Rows that are sampled; behind them there may be copies that fill a batch."""
        return len(self.members)

    def uniforms(self, stream: int) -> Tensor:
        """The numbers [B] that `stream` is drawn by."""
        table = self.rows["uniforms"][:, stream]
        return table.index_select(1, self.shared["step"])[:, 0] if self._window else table[:, self.steps]

    def write(self, draws: Sequence[Draw], *, forced: Tensor, direct: bool = False) -> Tensor:
        """Note the draws of all streams, overruled where `forced` [B, S] is an id; gives ids [B, S].

        `direct` brings kept ids to the CPU at once, however many they are.
        """
        free = forced < 0
        ids = torch.where(free, torch.stack([draw.ids for draw in draws], dim=1), forced)
        logprobs = torch.stack([draw.logprobs for draw in draws], dim=1).masked_fill(~free, 0.0)
        self._put("ids", ids)
        self._put("logprobs", logprobs)
        width = max((draw.support.shape[1] for draw in draws if draw.support is not None), default=0)
        if width:
            support = ids.new_full((*ids.shape, width), -1, dtype=torch.int32)
            for stream, draw in enumerate(draws):
                if draw.support is not None:
                    support[:, stream, : draw.support.shape[1]] = draw.support
            self._note(support.masked_fill(~free[:, :, None], -1), direct=direct or not self._window)
        return ids

    def recent(self, stream: int, window: int) -> Tensor | None:
        """The newest `window` ids [B, window] of `stream`; None while there are no more than that."""
        if self.steps <= window:
            return None
        said = self.rows["ids"][:, stream]
        if not self._window:
            return said[:, self.steps - window : self.steps]
        return said.index_select(1, torch.arange(-window, 0, device=said.device) + self.shared["step"])

    def note_short(self, draws: Sequence[Draw], finished: Tensor) -> None:
        """Note whether a draw of a row that is not `finished` [B] did not look far enough."""
        for draw in draws:
            if draw.short is not None:
                self.shared["short"].logical_or_((draw.short & ~finished).any())

    def fell_short(self) -> bool:
        """Whether any draw since the last restart did not look far enough."""
        return bool(self.shared["short"])

    def close(self, roles: Tensor, *, finished: Tensor, text_over: Tensor) -> None:
        """Note what the layout made of the step: `roles` [B, S], and which rows and which texts it completed."""
        self._put("roles", roles)
        self._put("done", finished)
        self.rows["text_over"].copy_(text_over)
        if self._window:
            self.shared["step"].add_(1)

    def advance(self, heads: tuple[int, ...]) -> None:
        """Count the step, whose streams were predicted by `heads`."""
        self.sources[self.host :] = [heads]
        self.host += 1

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices into the batch) only."""
        self.leave(rows)
        self.rows.select(rows)

    def leave(self, rows: Tensor) -> None:
        """Put away the batch, which is to go on with `rows` (indices) in its place."""
        self._put_away()
        self.members = self.members[rows]

    def flush(self) -> None:
        """Bring the kept ids of the last steps to the CPU."""
        if "kept" in self.rows:
            kept, members = self.rows["kept"][: self.live].to("cpu", copy=True), self.members.cpu()
            self.supports += [(members, kept[:, :, step % self._window]) for step in range(self._flushed, self.host)]
        self._flushed = self.host

    def groups(
        self, architecture: Architecture, prompts: Sequence[tuple[Dialogue, TokenSequence]], group_size: int
    ) -> list[RolloutGroup]:
        """The rollouts of all prompts, rows of one prompt adjacent, on the CPU and fit for autograd."""
        self._put_away()
        assert self._away is not None
        # Tensors made in inference mode cannot be saved for a backward pass, copies can.
        ids, roles, logprobs = (self._away[name].cpu().clone() for name in ("ids", "roles", "logprobs"))
        done = self._away["done"]
        lengths = ((~done).sum(dim=1) + 1).clamp(max=done.shape[1]).tolist()
        finished, text_over = done[:, -1].tolist(), self._away["text_over"].tolist()
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

    def _put(self, name: str, values: Tensor) -> None:
        """Write `values` [B, ...] of this step, which is the last dimension of the tensor of that name."""
        table = self.rows[name]
        if self._window:
            table.index_copy_(table.dim() - 1, self.shared["step"], values.unsqueeze(-1))
        else:
            table[..., self.steps] = values

    def _note(self, support: Tensor, *, direct: bool) -> None:
        """Note the kept ids [B, S, K] of this step."""
        if direct:
            self.supports.append((self.members.cpu(), support[: self.live].cpu()))
            self._flushed = self.host + 1
        else:
            kept = self.rows["kept"]
            wide = functional.pad(support, (0, kept.shape[3] - support.shape[2]), value=-1)
            kept.index_copy_(2, self.shared["step"] % self._window, wide.unsqueeze(2))

    def _put_away(self) -> None:
        """Note what the rows of the batch have said so far."""
        if self._away is None:
            self._away = {name: self.rows[name][: self.live].clone() for name in RESULTS}
            return
        with torch.inference_mode():
            for name, whole in self._away.items():
                whole.index_copy_(0, self.members, self.rows[name][: self.live])

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
