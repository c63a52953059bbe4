"""Training as it went: some groups of answers at several steps with their rewards, and what should worry a reader."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

from markupsafe import Markup

from wavalign.engine.report.data import RunData, Sample
from wavalign.engine.report.preferences import preference_worries
from wavalign.engine.report.sides import Score, marked, scores
from wavalign.engine.report.sound import Player, SoundBox
from wavalign.engine.report.summary import Row
from wavalign.engine.report.suspicion import suspicions

MOST_STEPS, MOST_GROUPS = 4, 2
"""Steps shown, and groups of each."""
DRIFT = "drift/"
"""Begins the keys that the drift alarm logs."""
OFTEN = 0.5
"""Share of steps or answers from which a nuisance is said."""


@final
@dataclass(frozen=True, slots=True)
class AnswerView:
    """One answer of a group."""

    text: str
    cut: bool
    scores: tuple[Score, ...]
    """The reward first, then its parts where there are several."""
    advantage: float | None
    heard: Markup | None
    sound: Player | None
    reasons: tuple[str, ...]
    times: int = 1
    """How many of the group's answers are this one; those with sound stand alone."""


@final
@dataclass(frozen=True, slots=True)
class GroupView:
    """The answers to one prompt at one step."""

    question: str
    reference: str
    answers: tuple[AnswerView, ...]
    is_dead: bool
    """All rewards are equal: there is nothing to prefer."""


@final
@dataclass(frozen=True, slots=True)
class StepView:
    """What was kept of one step."""

    stage: str
    step: int
    groups: tuple[GroupView, ...]
    kept: int
    """Groups that were kept of this step."""
    dead: int
    """Of those, groups with equal rewards."""


def steps(run: RunData, box: SoundBox) -> list[StepView]:
    """Groups at the first, the last and some steps between; of each the first one and that with the widest rewards."""
    by_step: dict[tuple[str, int], list[Sample]] = {}
    for sample in run.samples:
        if sample.split == "train":
            by_step.setdefault((sample.stage, sample.step), []).append(sample)
    times = list(by_step)
    count = min(MOST_STEPS, len(times))
    chosen = {times[round(index * (len(times) - 1) / max(1, count - 1))] for index in range(count)}
    return [_step(time, by_step[time], box) for time in times if time in chosen]


def worries(run: RunData, found: Sequence[Row]) -> list[str]:
    """What a reader should know before believing the numbers; empty for nothing."""
    said = []
    flat = [line.values["zero_variance_groups"] for line in run.train if "zero_variance_groups" in line.values]
    dead = sum(value >= 1 for value in flat)
    if dead:
        said.append(
            f"In {dead} of {len(flat)} steps all answers of every group got the same reward: there was nothing to "
            "prefer, and terms that learn from advantages learned nothing there. Sample hotter, take larger groups, or "
            "look for a reward that tells answers apart."
        )
    cut = [line.values["truncated"] for line in run.train if "truncated" in line.values]
    late = cut[-max(1, len(cut) // 10) :]
    if late and sum(late) / len(late) >= OFTEN:
        said.append(
            f"At the end {sum(late) / len(late):.0%} of the training answers were cut off at the token limit: their "
            "rewards are those of unfinished answers."
        )
    said += [*_guarded(run), *_drifted(run)]
    said += preference_worries(run)
    for row in found:
        if row.gold_fails and not row.is_part:
            said.append(
                f"Not one gold answer counts as right by {row.name} on {row.split}: the metric cannot tell right from "
                "wrong there, and the gold answers' value is no ceiling."
            )
        if any(row.unmeasured) and not row.is_part:
            when = " and ".join(word for word, there in zip(("before", "after"), row.unmeasured, strict=True) if there)
            said.append(f"{row.name} on {row.split} could be measured on no item {when} training.")
    return said


def _drifted(run: RunData) -> Iterator[str]:
    """Values that got worse while the reward rose, as the run noticed it, each where it was noticed last."""
    last = {(line.split, key): line for line in run.lines for key in line.values if key.startswith(DRIFT)}
    for (split, key), line in last.items():
        name, change = key.removeprefix(DRIFT), line.values[key]
        newest = max(each.step for each in run.lines if each.split == split and each.stage == line.stage)
        when = f"at step {line.step:,}" + ("" if line.step == newest else "; later measurements did not show it")
        yield (
            f"Drift: the training reward rose while {name} on {split}, which has another instrument than the rewards, "
            f"got worse on the same items by {abs(change):.3g} ({when}). The policy may be gaming the reward: listen "
            "to the samples before you believe it."
        )


def _guarded(run: RunData) -> Iterator[str]:
    """Guards that most answers tripped at the end: what remains to be learned from is little."""
    names = sorted({key for line in run.train for key in line.values if key.endswith("/tripped")})
    for name in names:
        shares = [line.values[name] for line in run.train if name in line.values]
        late = shares[-max(1, len(shares) // 10) :]
        if sum(late) / len(late) >= OFTEN:
            yield (
                f"At the end {sum(late) / len(late):.0%} of the training answers tripped the guard "
                f"{name.split('/')[1]}: its bound is wrong, or the policy answers to what no reward sees. "
                "The answers' lines in rollouts.jsonl say why."
            )


def _step(time: tuple[str, int], samples: Sequence[Sample], box: SoundBox) -> StepView:
    groups: dict[tuple[int | None, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.group, sample.dialogue), []).append(sample)
    kept = list(groups.values())
    widest = sorted(kept, key=_width, reverse=True)
    shown = [kept[0], *(group for group in widest if group is not kept[0])][:MOST_GROUPS]
    dead = sum(_is_dead(group) for group in kept)
    return StepView(time[0], time[1], tuple(_group(group, box) for group in shown), len(kept), dead)


def _width(group: Sequence[Sample]) -> float:
    rewards = [sample.reward for sample in group if sample.reward is not None]
    return max(rewards) - min(rewards) if rewards else -1.0


def _is_dead(group: Sequence[Sample]) -> bool:
    return len(group) > 1 and _width(group) == 0


def _group(group: Sequence[Sample], box: SoundBox) -> GroupView:
    first = group[0]
    clips = [box.read(sample.audio) for sample in group]
    longest = max((clip.seconds for clip in clips if clip is not None), default=1.0)
    answers = [_answer(sample, box.player(clip, longest)) for sample, clip in zip(group, clips, strict=True)]
    return GroupView(first.question, first.reference or "", _counted(answers), _is_dead(group))


def _counted(answers: Sequence[AnswerView]) -> tuple[AnswerView, ...]:
    """Equal answers once, in order of appearance."""
    found: list[AnswerView] = []
    for answer in answers:
        place = next((i for i, each in enumerate(found) if replace(each, times=1) == answer and not answer.sound), None)
        if place is None:
            found.append(answer)
        else:
            found[place] = replace(found[place], times=found[place].times + 1)
    return tuple(found)


def _answer(sample: Sample, sound: Player | None) -> AnswerView:
    heard = next((text for key, text in sample.details.items() if key.rpartition("/")[2] == "heard"), None)
    parts = scores(sample)
    alone = len(sample.parts) == 1 and not sample.reasons
    return AnswerView(
        text=sample.text,
        cut=sample.finished is False,
        scores=parts[:1] if alone and sample.reward is not None else parts,
        advantage=sample.advantage,
        heard=marked(heard, sample.text),
        sound=sound,
        reasons=tuple(suspicions(sample.text, finished=sample.finished, values={}, details={"heard": heard})),
    )
