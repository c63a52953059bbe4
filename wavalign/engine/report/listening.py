"""Answers to listen to: chosen among those that a run kept, for a terminal and as a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavalign import __version__
from wavalign.engine.report.cards import Card, Given, before_and_after, sampled
from wavalign.engine.report.data import Measure, RunData, Sample
from wavalign.engine.report.page import COLUMNS, card_views, environment, filters, sound_note
from wavalign.engine.report.sides import Column
from wavalign.engine.report.sound import SoundBox
from wavalign.engine.report.suspicion import suspicions
from wavalign.engine.state.files import write_text
from wavalign.errors import UsageError

TRAIN = "train"
ANSWER = (Column("Answer", "the answer", "c2"),)


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the kept answers are meant; what is None is not asked for."""

    split: str | None = None
    """A held-out split, or `train`; None for all held-out ones, or training where nothing else was kept."""
    stage: str | None = None
    step: int | None = None
    """None for the last one that kept any."""
    item: int | None = None
    """Place in the held-out split; in training which prompt of the step."""
    dialogue: str | None = None
    worst: str | None = None
    """Name of a reward or value by which the lowest come first."""
    best: str | None = None
    both: bool = False
    """Answers before and after training side by side."""
    count: int = 8


@final
@dataclass(frozen=True, slots=True)
class Chosen:
    """Answers in the order in which one listens."""

    cards: Sequence[Card]
    columns: Sequence[Column]
    left_out: int
    """Further ones that were chosen."""
    says: str
    """What they are, in words."""
    measures: Mapping[str, Measure]


def choose(run: RunData, choice: Choice) -> Chosen:
    """The answers that `choice` means; raises UsageError, saying what there is, where there are none."""
    if not run.samples:
        raise UsageError(
            f"{run.folder} keeps no answers",
            hint="a run keeps `evaluation.samples` of every measurement and those of every `log_rollouts_every` steps",
        )
    columns: Sequence[Column] = COLUMNS if choice.both else ANSWER
    if choice.both:
        cards, says = _both(run, choice), "before and after training"
    else:
        samples, says = _samples(run, choice)
        cards = [_card(each) for each in samples]
    cards = [card for card in cards if _asked(card, choice)]
    if not cards:
        raise UsageError(f"no kept answer is that: {_words(choice)}", hint=there_is(run))
    name = choice.worst or choice.best
    if name is not None:
        cards, says = _ordered(cards, name, lowest=choice.worst is not None), f"{says}, by {name}"
    return Chosen(cards[: choice.count], columns, max(0, len(cards) - choice.count), says, run.measures)


def write_page(run: RunData, chosen: Chosen, out: Path) -> Path:
    """Write the chosen answers as one page with players, and give its path."""
    box = SoundBox()
    views, notes = card_views(chosen.cards, chosen.columns, box, chosen.measures)
    notes += [f"Sound could not be read: {what}" for what in box.unreadable]
    page = environment().get_template("listening.html")
    html = page.render(
        version=__version__,
        name=run.name,
        folder=str(run.folder),
        says=chosen.says,
        cards=views,
        filters=filters(views),
        sound_note=sound_note(box),
        notes=notes,
    )
    write_text(out, html)
    return out


def values_of(given: Given) -> dict[str, float | None]:
    """Rewards and values of an answer by the names that it may be chosen by."""
    sample = given.sample
    rewards = {} if sample is None else {"reward": sample.reward, **sample.parts}
    return {**given.values, **{name: value for name, value in rewards.items() if name != "reward" or value is not None}}


def there_is(run: RunData) -> str:
    """What a run kept, in words."""
    found: dict[tuple[str, str], list[int]] = {}
    for each in run.samples:
        steps = found.setdefault((each.stage, each.split), [])
        steps += [each.step] if each.step not in steps else []
    parts = []
    for (stage, split), steps in found.items():
        shown = ", ".join(map(str, steps[:3])) + (f", ... {steps[-1]}" if len(steps) > 3 else "")
        parts.append(f"stage {stage}, split {split}, step {shown}")
    return "it kept: " + "; ".join(parts[:6]) + ("; ..." if len(parts) > 6 else "")


def _samples(run: RunData, choice: Choice) -> tuple[list[Sample], str]:
    """Samples of one moment of every split that is asked for."""
    there = [each for each in run.samples if choice.stage in (None, each.stage)]
    held_out = [each for each in there if each.split != TRAIN]
    if choice.split is not None:
        there = [each for each in there if each.split == choice.split]
    elif held_out:
        there = held_out
    if choice.step is not None:
        there = [each for each in there if each.step == choice.step]
    last = {each.split: (each.stage, each.step) for each in there}
    kept = [each for each in there if last[each.split] == (each.stage, each.step)]
    moments = [f"{split} at step {step} of {stage}" for split, (stage, step) in last.items()]
    return kept, ", ".join(moments) if run.stages else f"{run.name}: {run.description}"


def _both(run: RunData, choice: Choice) -> list[Card]:
    if choice.split == TRAIN or choice.step is not None or choice.stage is not None:
        raise UsageError(
            "before and after are the first and the last measurement of a held-out split",
            hint="leave out --step, --stage and --split train",
        )
    cards = [card for card in before_and_after(run) if any(each is not None and each.sample for each in card.answers)]
    return [card for card in cards if choice.split in (None, card.split)]


def _card(sample: Sample) -> Card:
    given = sampled(sample)
    reasons = suspicions(
        given.text, finished=given.finished, values=given.values, details=given.shown, reference=given.reference
    )
    return Card(sample.split, sample.dialogue, (given,), tuple(reasons), frozenset({"suspicious"} if reasons else ()))


def _asked(card: Card, choice: Choice) -> bool:
    sample = card.any.sample
    place = None if sample is None else sample.group if sample.split == TRAIN else sample.item
    return choice.item in (None, place) and choice.dialogue in (None, card.dialogue)


def _ordered(cards: Sequence[Card], name: str, *, lowest: bool) -> list[Card]:
    """Cards whose last answer has a value of this name; raises UsageError where none has."""
    known: dict[str, None] = {}
    valued: list[tuple[float, int]] = []
    for place, card in enumerate(cards):
        last = next(each for each in reversed(card.answers) if each is not None)
        values = values_of(last)
        known |= dict.fromkeys(values)
        value = values.get(name)
        if value is not None:
            valued.append((value if lowest else -value, place))
    if not valued:
        have = ", ".join(each for each in known if "/" not in each) or "none"
        raise UsageError(f"no answer here has a value {name!r}", hint=f"they have: {have}")
    return [cards[place] for _, place in sorted(valued)]


def _words(choice: Choice) -> str:
    asked = {
        "stage": choice.stage,
        "split": choice.split,
        "step": choice.step,
        "item": choice.item,
        "dialogue": choice.dialogue,
    }
    return ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None) or "any"
