"""Answers being sampled: what one step of the loop computes, whoever runs it."""

from collections.abc import Hashable, Sequence
from typing import final

from torch import Tensor

from wavalign.plugins.api import DecodingState, Distribution, StaticDecodingState
from wavalign.plugins.samplers.drawing import Draw, Drawer, penalised
from wavalign.plugins.samplers.heads import HeadProjections
from wavalign.plugins.samplers.transcript import Transcript


@final
class StreamDrawer:
    """Draws the ids of one stream."""

    def __init__(self, stream: int, distribution: Distribution, *, most: int = 0) -> None:
        self._stream = stream
        self._penalty, self._window = distribution.repetition_penalty, distribution.repetition_window
        cuts = (distribution.temperature, distribution.top_k, distribution.top_p)
        self.drawer, self._widest = Drawer(*cuts, most), Drawer(*cuts)
        self.key = (distribution, most)
        """What a recorded draw depends on."""

    @property
    def window(self) -> int | None:
        """How many ids must have been said before any of them is penalised; None where none ever is."""
        return self._window if self._penalty != 1 else None

    @property
    def may_fall_short(self) -> bool:
        """Whether a draw may find that it did not look far enough."""
        return self.drawer.cuts and not self.drawer.top_k and self.drawer.most > 0

    def draw(self, logits: Tensor, transcript: Transcript, *, wide: bool = False) -> Draw:
        """The coming ids from `logits` [B, V], which are overwritten; `wide` looks as far as it must."""
        if self._penalty != 1:
            recent = transcript.recent(self._stream, self._window)
            logits = logits if recent is None else penalised(logits, recent, self._penalty)
        return (self._widest if wide else self.drawer).draw(logits, transcript.uniforms(self._stream))


@final
class Batch:
    """A decoding state, the transcript of its rows, and how their ids are drawn."""

    def __init__(
        self, state: DecodingState, heads: HeadProjections, drawers: Sequence[StreamDrawer], transcript: Transcript
    ) -> None:
        self.state, self.heads, self.drawers, self.transcript = state, heads, tuple(drawers), transcript
        self.static = state if isinstance(state, StaticDecodingState) else None
        """The state, if its step changes tensors in place."""

    def step(self, *, wide: bool = False) -> None:
        """The tensors' part of a step; `advance` ends it. With `wide` it may have to wait for an accelerator."""
        state, transcript = self.state, self.transcript
        self._turn, hidden = state.heads(), state.hidden()
        draws = [
            drawer.draw(self.heads.logits(head, hidden[:, stream]), transcript, wide=wide)
            for stream, (drawer, head) in enumerate(zip(self.drawers, self._turn, strict=True))
        ]
        transcript.note_short(draws, state.finished())
        ids = transcript.write(draws, forced=state.forced(), direct=wide)
        roles = state.append(ids) if self.static is None else self.static.take(ids)
        transcript.close(roles, finished=state.finished(), text_over=state.text_over())

    def advance(self) -> None:
        """Python's part of a step."""
        if self.static is None:
            self.transcript.advance(self._turn)
        else:
            self.transcript.advance(self.static.heads())
            self.static.advance()

    def phase(self) -> Hashable:
        """What a recorded step depends on and the tensors do not say."""
        assert self.static is not None
        said = [drawer.window is not None and self.transcript.steps > drawer.window for drawer in self.drawers]
        return self.static.phase(), tuple(said)

    def constants(self) -> Hashable:
        """What every recorded step depends on."""
        assert self.static is not None
        state, transcript = self.static, self.transcript
        shapes = state.rows.shapes(first=1), transcript.rows.shapes(first=1)
        shared = state.shared.shapes(), transcript.shared.shapes(), self.heads.shared.shapes()
        return state.constants(), shapes, shared, tuple(drawer.key for drawer in self.drawers)

    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices) only."""
        self.state.keep(rows)
        self.transcript.keep(rows)

    def live(self) -> Tensor:
        """Bool [B]: rows that are not finished."""
        return ~self.state.finished()[: self.transcript.live]
