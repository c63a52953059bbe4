"""Rows as the model sees them: tokens with roles, and where each term's mask has weight. No network is built."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch

from wavalign.engine.compile.components import headings_there
from wavalign.engine.compile.operators import ROLLOUTS
from wavalign.engine.compile.plan import Plan, StagePlan, TermPlan
from wavalign.engine.compile.stage_links import codec_before
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.preflight_tools import PreflightTools
from wavalign.engine.state.distributed import World
from wavalign.errors import UsageError
from wavalign.plugins.api import Architecture, Mask
from wavalign.plugins.batch import Dialogue, Message, Role, TokenSequence, concatenate
from wavalign.schema.component import WeightedComponent


@final
@dataclass(frozen=True, slots=True)
class TokenView:
    """One position of one stream."""

    position: int
    id: int
    text: str
    role: str
    """Name of the role, in small letters."""
    weights: Mapping[str, float]
    """By term, where it is not 0."""


@final
@dataclass(frozen=True, slots=True)
class StreamView:
    """One stream of a row."""

    name: str
    tokens: tuple[TokenView, ...]


@final
@dataclass(frozen=True, slots=True)
class TermView:
    """What a term weighs in a row."""

    name: str
    positions: Mapping[str, int]
    """Positions with weight, by role."""
    weight: float
    """Sum over the row."""


@final
@dataclass(frozen=True, slots=True)
class RowView:
    """One dialogue as a row."""

    heading: str
    dialogue: str
    """Its id."""
    messages: tuple[tuple[str, str, str | None], ...]
    """Role, text and address of the sound of each turn; the answer to imitate is called `target`."""
    prompt_length: int
    target_length: int | None
    """None where there is no answer to imitate."""
    heard: tuple[tuple[int, int], ...]
    """(first position, number of positions) of sound that is heard as features."""
    streams: tuple[StreamView, ...]
    terms: tuple[TermView, ...]


def preview(
    plan: Plan, *, headings: Sequence[str], stage: str | None, count: int, progress: Callable[[str, int, int], None]
) -> list[RowView]:
    """The first rows of some headings of a stage; raises UsageError where there is no such stage or heading.

    `count` dialogues are spread over each heading. An answer to imitate stands for the answers of a prompt.
    """
    builder = Builder(plan, World.single("cpu"), progress)
    chosen = _stage(plan, stage)
    tools = PreflightTools(builder)
    known = headings_there(chosen)
    wanted = _wanted(known, headings)
    architecture = tools.architecture(chosen)
    return [row for name in wanted for row in _Rows(tools, architecture, chosen, name).views(known[name], count)]


@final
class _Rows:
    """The rows of one heading."""

    def __init__(self, tools: PreflightTools, architecture: Architecture, stage: StagePlan, heading: str) -> None:
        self._tools, self._architecture, self._stage, self._heading = tools, architecture, stage, heading
        learned = ROLLOUTS if heading == "prompts" else heading
        terms = [term for term in stage.terms if term.family == learned]
        self._masks: list[tuple[TermPlan, Mask]] = [(term, tools.mask(term)) for term in terms]

    def views(self, sources: Sequence[WeightedComponent], count: int) -> list[RowView]:
        """`count` dialogues, spread over the heading."""
        dialogues, _ = self._tools.head(sources, count)
        rows = self._tools.rows(self._stage, self._architecture, dialogues)
        singles = [(name, single) for each in dialogues for name, single in _named(each)]
        return [self._view(name, each, *row) for (name, each), row in zip(singles, rows, strict=True)]

    def _view(self, name: str, dialogue: Dialogue, prompt: TokenSequence, target: TokenSequence | None) -> RowView:
        space = self._architecture.tokens
        row = prompt if target is None else concatenate(prompt, target, space)
        weights = {term.name: mask.weights(row.roles[None])[0] for term, mask in self._masks}
        turns = [(turn.role, turn) for turn in dialogue.messages]
        turns += [(name, dialogue.target)] if dialogue.target is not None else []
        return RowView(
            heading=self._heading,
            dialogue=dialogue.id,
            messages=tuple((role, turn.text, _sound(turn)) for role, turn in turns),
            prompt_length=prompt.length,
            target_length=None if target is None else target.length,
            heard=tuple((each.start, each.length) for each in row.sounds),
            streams=tuple(
                StreamView(name, self._tokens(row, index, weights)) for index, name in enumerate(space.streams)
            ),
            terms=tuple(_term(name, row.roles, each) for name, each in weights.items()),
        )

    def _tokens(self, row: TokenSequence, stream: int, weights: Mapping[str, torch.Tensor]) -> tuple[TokenView, ...]:
        """Every position of one stream of `row`, with its `weights` [S, T] by term."""
        ids, roles = row.ids[stream].tolist(), row.roles[stream].tolist()
        columns = {name: each[stream].tolist() for name, each in weights.items()}
        return tuple(
            TokenView(
                position=t,
                id=ids[t],
                text=self._architecture.token_text(ids[t]),
                role=Role(roles[t]).name.lower(),
                weights={name: column[t] for name, column in columns.items() if column[t]},
            )
            for t in range(row.length)
        )


def _term(name: str, roles: torch.Tensor, weights: torch.Tensor) -> TermView:
    """What a term weighs of a row: `roles` and `weights` are [S, T]."""
    counts = {role.name.lower(): int(((roles == int(role)) & (weights > 0)).sum()) for role in Role}
    return TermView(name, {role: count for role, count in counts.items() if count}, float(weights.double().sum()))


def _stage(plan: Plan, name: str | None) -> StagePlan:
    """The stage called `name`, or the first that has rows; it must not wait for a codec that is yet to be fitted."""
    trained = [each for each in plan.stages if each.kind.network]
    found = next((each for each in trained if name in (None, each.name)), None)
    if found is None:
        names = ", ".join(each.name for each in trained)
        raise UsageError(f"the recipe has no stage '{name}' with rows", hint=f"it has: {names or 'none'}")
    if codec_before(plan.stages, found):
        message = f"the rows of stage {found.name} have no codes before its codec is fitted"
        raise UsageError(message, hint="give model.codec.checkpoint by --set, or look at another recipe")
    return found


def _wanted(known: Mapping[str, Sequence[WeightedComponent]], asked: Sequence[str]) -> list[str]:
    """Names of headings; `evaluation` means all that are held out."""
    found = []
    for name in asked:
        mine = [each for each in known if each == name or each.startswith(f"{name}.")]
        if not mine:
            raise UsageError(f"the stage has no data.{name}", hint=f"it has: {', '.join(known)}")
        found += mine
    return found or [name for name in known if not name.startswith("evaluation.")]


def _named(dialogue: Dialogue) -> list[tuple[str, Dialogue]]:
    """A dialogue for each target, by its name; the dialogue itself where there is none."""
    names = [name for name, _ in dialogue.named_answers] or ["target"]
    return list(zip(names, dialogue.singles, strict=True))


def _sound(turn: Message) -> str | None:
    """What a turn sounds like, for people: its file, else how many codes it has."""
    if turn.audio is None or turn.audio.has_sound:
        return turn.audio.url if turn.audio is not None else None
    return f"{len(turn.audio.codes or ())} codes"
