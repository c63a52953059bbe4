"""Cards and training rollouts ready for the template: players, verdicts, what was heard beside what was written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import final

from markupsafe import Markup, escape

from wavalign.engine.report.cards import Card, Given, mains, verdict
from wavalign.engine.report.data import Measure, Sample
from wavalign.engine.report.plots import number
from wavalign.engine.report.sound import Player, SoundBox
from wavalign.engine.report.suspicion import is_wordless

STYLE = ("style_asked", "style_measured")
"""Details that are shown in words of their own."""


@final
@dataclass(frozen=True, slots=True)
class Column:
    """Whose answers stand in one column of the cards."""

    title: str
    spoken: str
    """What its players play, in words."""
    colour: str
    filled: bool = True


@final
@dataclass(frozen=True, slots=True)
class Badge:
    """What one metric says of one answer."""

    name: str
    verdict: str
    """`right`, `wrong`, or `` for a number."""
    value: str
    says: str


@final
@dataclass(frozen=True, slots=True)
class Score:
    """A reward of one answer; value None with the reason."""

    name: str
    value: float | None
    reason: str


@final
@dataclass(frozen=True, slots=True)
class SideView:
    """One column of a card."""

    column: Column
    step: int | None
    text: str
    cut: bool
    sound: Player | None
    sound_note: str
    heard: Markup | None
    """The transcript, what is not in the text marked; None where nobody listened."""
    style: tuple[str, str] | None
    """Asked and measured."""
    others: tuple[tuple[str, str], ...]
    badges: tuple[Badge, ...]
    scores: tuple[Score, ...]


@final
@dataclass(frozen=True, slots=True)
class CardView:
    """One held-out question with its answers."""

    split: str
    dialogue: str
    question: str
    style: str
    """The style that was asked for; empty for none."""
    sound: Player | None
    sides: tuple[SideView, ...]
    reasons: tuple[str, ...]
    tags: str
    """Separated by blanks, for the filter."""


@final
class CardMaker:
    """Turns cards into views; `measures` explains their values, what is right everywhere is not said every time."""

    def __init__(self, box: SoundBox, measures: Mapping[str, Measure], cards: Sequence[Card]) -> None:
        self.box, self.measures = box, measures
        found: dict[str, set[bool]] = {}
        for given in (answer for card in cards for answer in card.answers if answer is not None):
            for name, value in given.values.items():
                # What is no verdict is told always.
                told = value is None or verdict(value, measures.get(name)) == 1.0
                found.setdefault(name, set()).add(told)
        self.quiet = {name for name, kinds in found.items() if kinds == {True}} if len(cards) > 1 else set()

    def view(self, card: Card, columns: Sequence[Column]) -> CardView:
        """One card, its answers in `columns`, the reference last."""
        shown = card.any
        sample = shown.sample
        paths = [
            None if sample is None else sample.question_audio,
            *(None if answer is None else answer.audio for answer in card.answers),
            None if sample is None else sample.reference_audio,
        ]
        question, *sounds, golden = self._players(paths)
        sides = [
            self._answer(answer, column, sound)
            for answer, column, sound in zip(card.answers, columns, sounds, strict=True)
            if answer is not None
        ]
        if shown.reference is not None or golden is not None or paths[-1] is not None:
            sides.append(self._reference(shown, golden))
        asked = next((text for given in card.answers if given and (text := _text(given.shown.get(STYLE[0])))), "")
        tags = " ".join(sorted(card.tags))
        return CardView(
            card.split, card.dialogue, shown.question, asked, question, tuple(sides), card.reasons, tags
        )  # fmt: skip

    def _players(self, paths: Sequence[Path | None]) -> list[Player | None]:
        """Players of one card; answers share a time scale, the question (first) stands alone."""
        clips = [self.box.read(path) for path in paths]
        longest = max((clip.seconds for clip in clips[1:] if clip is not None), default=1.0)
        first = clips[0]
        question = self.box.player(first, first.seconds if first is not None else 1.0)
        return [question, *(self.box.player(clip, longest) for clip in clips[1:])]

    def _answer(self, given: Given, column: Column, sound: Player | None) -> SideView:
        kept = given.audio is not None
        note = "" if sound is not None else "Its sound is not in this page." if kept else "Its sound was not kept."
        sample = given.sample
        silent = sample is not None and not kept
        return SideView(
            column=column,
            step=given.step,
            text=given.text,
            cut=given.finished is False,
            sound=sound,
            sound_note="No sound." if silent else note,
            heard=marked(given.shown.get("heard"), _wanted(given)),
            style=_style(given.shown),
            others=_others(given.shown, sample),
            badges=self._badges(given.values),
            scores=() if sample is None else scores(sample),
        )

    def _reference(self, shown: Given, sound: Player | None) -> SideView:
        sample = shown.sample
        missing = sound is None and sample is not None and sample.reference_audio is not None
        heard = {} if sample is None else sample.reference_shown
        return SideView(
            column=Column("Reference", "the reference answer", "gold"),
            step=None,
            text=shown.reference or "",
            cut=False,
            sound=sound,
            sound_note="The sound of this reference is not in this page." if missing else "",
            heard=marked(heard.get("heard"), shown.reference or _wanted(shown)),
            style=_style(heard),
            others=_others(heard, None),
            badges=self._badges({} if sample is None else sample.reference_values),
            scores=(),
        )

    def _badges(self, values: Mapping[str, float | None]) -> tuple[Badge, ...]:
        told = {name: value for name, value in mains(values).items() if name not in self.quiet}
        return tuple(self._badge(name, value) for name, value in told.items() if value is not None)

    def _badge(self, name: str, value: float) -> Badge:
        measure = self.measures.get(name)
        unit, says = (measure.unit, measure.says) if measure is not None else ("", "")
        said = verdict(value, measure)
        if said is not None:
            return Badge(name, "right" if said else "wrong", "", says)
        return Badge(name, "", f"{number(value)} {unit}".strip(), says)


def scores(sample: Sample) -> tuple[Score, ...]:
    """Reward and its parts."""
    found = [Score("reward", sample.reward, "")] if sample.reward is not None else []
    found += [Score(name, value, sample.reasons.get(name, "")) for name, value in sample.parts.items()]
    return tuple(found)


def marked(heard: str | float | None, text: str) -> Markup | None:
    """A transcript with the words in `<mark>` that the text does not have there; None where nobody listened."""
    if not isinstance(heard, str):
        return None
    said, wanted = heard.split(), text.split()
    plain, bare = ([word.casefold().strip(".,;:!?\"'“”") for word in words] for words in (wanted, said))
    parts = []
    for kind, _, _, start, end in SequenceMatcher(None, plain, bare, autojunk=False).get_opcodes():
        words = escape(" ".join(said[start:end]))
        if words:
            parts.append(words if kind == "equal" else Markup("<mark>{}</mark>").format(words))
    return Markup(" ").join(parts)


def _wanted(given: Given) -> str:
    """The words that should be heard: those that are written, or, where no words are owed, those that were given."""
    return given.question if is_wordless(given.reference) and not given.text.strip() else given.text


def _style(shown: Mapping[str, str | float | None]) -> tuple[str, str] | None:
    asked, measured = (_text(shown.get(key)) for key in STYLE)
    return (asked, measured or "not to be told") if asked else None


def _others(shown: Mapping[str, str | float | None], sample: Sample | None) -> tuple[tuple[str, str], ...]:
    """What else metrics and rewards showed."""
    heard = shown.get("heard")
    found = [
        (key.replace("_", " "), _text(value))
        for key, value in shown.items()
        # Two metrics that listen hear the same.
        if key not in ("heard", *STYLE) and value is not None and not (key.endswith(".heard") and value == heard)
    ]
    for key, text in ({} if sample is None else sample.details).items():
        reward, _, name = key.rpartition("/")
        if text != shown.get("heard"):
            found.append((f"{name} ({reward})" if reward else name, text))
    return tuple(found)


def _text(value: str | float | None) -> str:
    return value if isinstance(value, str) else "" if value is None else number(value)
