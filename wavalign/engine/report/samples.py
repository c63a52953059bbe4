"""Answers side by side: before, after, reference, with what was heard and how it was scored."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from wavalign.engine.report.data import RunData, Sample
from wavalign.engine.report.sound import Player, SoundBox
from wavalign.engine.report.summary import Pair, latest_rollouts, pairs

MOST_PAIRS = 24
"""Dialogues shown on a page."""


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
    """One column of a sample card."""

    title: str
    spoken: str
    """What its player plays, in words."""
    colour: str
    filled: bool
    text: str
    step: int | None
    cut: bool
    sound: Player | None
    sound_note: str
    heard: tuple[tuple[str, str], ...]
    scores: tuple[Score, ...]


@final
@dataclass(frozen=True, slots=True)
class SampleView:
    """One dialogue."""

    split: str
    dialogue: str
    question: str
    sound: Player | None
    sides: tuple[SideView, ...]


def sample_views(run: RunData, box: SoundBox) -> tuple[list[SampleView], list[SampleView], list[str]]:
    """Held-out pairs; the last training rollouts where there are none; notes on what is not shown."""
    found = pairs(run)
    notes = []
    if len(found) > MOST_PAIRS:
        notes.append(f"{len(found) - MOST_PAIRS} of {len(found)} sampled dialogues are not shown; see rollouts.jsonl.")
    held_out = [_pair_view(pair, box) for pair in found[:MOST_PAIRS]]
    rollouts = [] if held_out else [_rollout_view(sample, box) for sample in latest_rollouts(run)]
    return held_out, rollouts, notes


def _pair_view(pair: Pair, box: SoundBox) -> SampleView:
    shown = pair.shown
    before, after = pair.before, pair.after
    paths = (
        shown.question_audio,
        before.audio if before is not None else None,
        after.audio if after is not None else None,
        shown.reference_audio,
    )
    question, *sounds = _players(paths, box)
    sides = []
    if before is not None:
        sides.append(_answer(before, "Before", "before", sounds[0]))
    if after is not None:
        sides.append(_answer(after, "After", "c2", sounds[1]))
    if shown.reference is not None or shown.reference_audio is not None:
        sides.append(_reference(shown, sounds[2]))
    return SampleView(pair.split, pair.dialogue, shown.question, question, tuple(sides))


def _rollout_view(sample: Sample, box: SoundBox) -> SampleView:
    question, answer, reference = _players((sample.question_audio, sample.audio, sample.reference_audio), box)
    sides = [_answer(sample, "Rollout", "c2", answer)]
    if sample.reference is not None or sample.reference_audio is not None:
        sides.append(_reference(sample, reference))
    return SampleView(sample.split, sample.dialogue, sample.question, question, tuple(sides))


def _players(paths: tuple[Path | None, ...], box: SoundBox) -> list[Player | None]:
    """Players of one card; answers share a time scale, the question (first) stands alone."""
    clips = [box.read(path) for path in paths]
    longest = max((clip.seconds for clip in clips[1:] if clip is not None), default=1.0)
    first = clips[0]
    question = box.player(first, first.seconds if first is not None else 1.0)
    return [question, *(box.player(clip, longest) for clip in clips[1:])]


def _answer(sample: Sample, title: str, colour: str, sound: Player | None) -> SideView:
    heard = tuple((_detail_name(key), value) for key, value in sample.details.items())
    scores = [Score("reward", sample.reward, "")] if sample.reward is not None else []
    scores += [Score(name, value, sample.reasons.get(name, "")) for name, value in sample.parts.items()]
    return SideView(
        title=title,
        spoken=f"the answer {title.lower()} training" if title != "Rollout" else "the rollout",
        colour=colour,
        filled=colour != "before",
        text=sample.text,
        step=sample.step,
        cut=sample.finished is False,
        sound=sound,
        sound_note="" if sound is not None or sample.audio is None else "The sound of this answer is not in this page.",
        heard=heard,
        scores=tuple(scores),
    )


def _reference(sample: Sample, sound: Player | None) -> SideView:
    missing = sound is None and sample.reference_audio is not None
    return SideView(
        title="Reference",
        spoken="the reference answer",
        colour="gold",
        filled=True,
        text=sample.reference or "",
        step=None,
        cut=False,
        sound=sound,
        sound_note="The sound of this reference is not in this page." if missing else "",
        heard=(),
        scores=(),
    )


def _detail_name(key: str) -> str:
    """`speech/heard` -> `heard (speech)`; a bare key stays."""
    reward, _, name = key.rpartition("/")
    return f"{name} ({reward})" if reward else name
