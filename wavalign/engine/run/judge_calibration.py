"""Ask a recipe's reward about answers that people have scored, several times over, outside a run."""

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import torch

from wavalign.engine.compile.calibrations import identity
from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.feeding.feeds import CodeCache, Encoder
from wavalign.engine.feeding.ratings import Rated
from wavalign.engine.report.agreement import Found, Judged, Numbers, agreement, within_prompts
from wavalign.engine.report.corrections import curve, line, unseen_errors
from wavalign.engine.report.judge_page import Apart
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.reward_models import OpenModels
from wavalign.engine.state.distributed import World
from wavalign.engine.step.reward_inputs import shown_to
from wavalign.engine.step.reward_pool import Call, LiveReward, RewardPool
from wavalign.engine.step.rollouts import Roller, check_codes
from wavalign.errors import DataError, RewardBudgetError, UsageError
from wavalign.plugins import audio
from wavalign.plugins.api import Process, Reward, Sampler
from wavalign.plugins.batch import Answer, Rollout, RolloutGroup, TokenSequence
from wavalign.plugins.guard import Guard, origin_of
from wavalign.schema.calibration import Calibration, Estimate, Replies
from wavalign.schema.environment import resolve_secrets
from wavalign.storage.cache import cache_folder

TOGETHER = 256
"""Answers whose sounds are in memory at a time."""
UNITS = ("words", "seconds")
NO_TOKENS = "this reward counts the answer's tokens, and nobody sampled these answers: people cannot be its measure"
Progress = Callable[[str, int, int], None]


@final
@dataclass(frozen=True, slots=True)
class Calibrating:
    """What is asked of whom, and how often."""

    reward: str
    data: str
    """Where the people's scores come from."""
    stage: str | None = None
    """The first one that has the reward."""
    repeats: int = 3
    scale: tuple[float, float] | None = None
    """Of the people's scores; None where that is the reward's own range."""
    by: tuple[str, ...] = ()
    resamples: int = 1000


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """A calibration, and what it was made of."""

    calibration: Calibration
    judged: Judged
    """The answers that have a value."""
    rated: Sequence[Rated]
    """The same ones."""


def calibrate_reward(plan: Plan, asked: Calibrating, rated: Sequence[Rated], progress: Progress) -> Outcome:
    """Ask, and compare with what people gave.

    Raises UsageError for a reward that is not there or a scale that does not hold the people's scores,
    RewardBudgetError where no answer got a value, and what the reward itself stops at.
    """
    builder, stage = Builder(plan, World.single("cpu"), progress), _stage(plan, asked)
    _check(builder, stage, asked.reward, rated)
    live, roller = _live(builder, stage, asked.reward)
    pool = RewardPool([live], plan.runtime.reward_workers)
    try:
        low, high = live.reward.range
        scale = _scale(asked, rated, (low, high))
        calls, places = _asked(pool, live, rated, roller, asked.repeats, progress)
        counts = {name: float(value) for name, value in live.reward.tally().items()}
    finally:
        pool.close()
    table = np.array([[_value(call) for call in row] for row in calls])
    there = np.flatnonzero(~np.isnan(table).all(axis=0))
    replies = _replies([call for row in calls for call in row], counts)
    if not len(there):
        first = next(iter(replies.reasons), "no reason was given")
        message = f"reward `{asked.reward}` gave no value for any of {len(rated)} answers (first: {first})"
        mend = "mend the reward, or what its rows hold, and calibrate again"
        raise RewardBudgetError(message, hint=NO_TOKENS if "meta tensor" in first else mend)
    known = [rated[place] for place in there.tolist()]
    span = (low, high) if math.isfinite(high - low) else None
    judged = _table(known, table[:, there], places[:, there], span, scale)
    section = stage.stage.rewards[asked.reward]
    made = _made(judged, known, asked)
    calibration = Calibration(
        recipe=plan.name,
        reward=asked.reward,
        judge=identity(section, builder.registry, plan.plugins),
        data=asked.data,
        range=(low if math.isfinite(low) else None, high if math.isfinite(high) else None),
        scale=scale,
        answers=len(known),
        prompts=len(set(judged.prompts)),
        raters=(min(len(each.scores) for each in known), max(len(each.scores) for each in known)),
        repeats=asked.repeats,
        replies=replies,
        **made,
    )
    return Outcome(calibration, judged, known)


def apart(found: Outcome, most: int = 12) -> list[Apart]:
    """The answers over which judge and people differ most; where they share no scale, none."""
    means = np.nanmean(found.judged.scaled, axis=0) if found.judged.span is not None else np.array([])
    off = np.abs(means - found.judged.people) if len(means) else means
    return [
        _apart(found.rated[place], float(means[place])) for place in np.argsort(-off, kind="stable")[:most].tolist()
    ]


def _apart(rated: Rated, judge: float) -> Apart:
    clip = rated.answer.audio
    asked = next((each.text for each in reversed(rated.dialogue.messages) if each.role == "user"), "")
    path = None if clip is None or "://" in clip.url else Path(clip.url)
    return Apart(rated.dialogue.id, asked, rated.answer.text, path, judge, rated.people)


def _made(judged: Judged, known: Sequence[Rated], asked: Calibrating) -> dict[str, object]:
    """What a calibration holds of numbers."""
    fits = {"affine": line(judged), "isotonic": curve(judged)}
    errors = {f"mae_{name}": unseen_errors(judged, fit) for name, fit in (("affine", line), ("isotonic", curve))}
    statistics = _estimates(agreement(judged, errors, resamples=asked.resamples))
    return {
        "statistics": statistics,
        "parts": _parts(judged, known, asked),
        "noise": statistics["noise"].value,
        **fits,
        "prompts_left_out": within_prompts(judged)[1],
    }


def _parts(judged: Judged, known: Sequence[Rated], asked: Calibrating) -> dict[str, dict[str, Estimate]]:
    """The same of parts of the answers, by the keys that are asked for."""
    found = {}
    for key in asked.by:
        kinds = [each.kinds.get(key) for each in known]
        values = list(dict.fromkeys(kind for kind in kinds if kind is not None))
        if not values:
            known_keys = sorted({name for each in known for name in each.kinds})
            hint = f"they have: {', '.join(known_keys)}" if known_keys else "rows may have further keys, e.g. style"
            raise UsageError(f"--by {key}: no row has this key", hint=hint)
        for value in values:
            at = np.array([index for index, kind in enumerate(kinds) if kind == value], dtype=np.intp)
            part = agreement(judged.part(at), resamples=asked.resamples, whole=False)
            found[f"{key}={value}"] = _estimates(part)
    return found


def _estimates(found: Mapping[str, Found]) -> dict[str, Estimate]:
    return {
        name: Estimate(value=_known(each.value), low=_known(each.low), high=_known(each.high), count=each.count)
        for name, each in found.items()
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _table(
    known: Sequence[Rated],
    values: Numbers,
    places: Numbers,
    span: tuple[float, float] | None,
    scale: tuple[float, float],
) -> Judged:
    """What was found of the answers that have a value."""
    lengths = {unit: [getattr(each, unit) for each in known] for unit in UNITS}
    return Judged(
        judge=values,
        people=np.array([each.people for each in known]),
        prompts=[each.prompt for each in known],
        places=places,
        lengths={
            unit: np.array([math.nan if each is None else float(each) for each in column])
            for unit, column in lengths.items()
            if any(each is not None for each in column)
        },
        span=span,
        scale=scale,
    )


def _stage(plan: Plan, asked: Calibrating) -> StagePlan:
    """The stage whose reward is meant."""
    named = [each for each in plan.stages if asked.stage in (None, each.name)]
    if not named:
        names = ", ".join(each.name for each in plan.stages)
        raise UsageError(f"there is no stage `{asked.stage}`", hint=f"there are: {names}")
    found = next((each for each in named if asked.reward in each.stage.rewards), None)
    if found is None:
        known = sorted({name for each in named for name in each.stage.rewards})
        hint = f"there are: {', '.join(known)}" if known else "the recipe has no rewards"
        raise UsageError(f"there is no reward `{asked.reward}`", hint=hint)
    return found


def _scale(asked: Calibrating, rated: Sequence[Rated], span: tuple[float, float]) -> tuple[float, float]:
    """The people's scale, which holds all of their scores."""
    low, high = asked.scale if asked.scale is not None else span
    if not math.isfinite(high - low):
        message = f"the reward goes from {low:g} to {high:g}, which is no scale of people's scores"
        raise UsageError(message, hint="say theirs: --scale LOW HIGH, e.g. --scale 1 5")
    if low >= high:
        raise UsageError(f"--scale {low:g} {high:g} does not rise", hint="e.g. --scale 1 5")
    for each in rated:
        wrong = next((score for score in each.scores if not low <= score <= high), None)
        if wrong is not None:
            whose = "the scale" if asked.scale is not None else "the reward's range"
            message = f"{each.dialogue.origin}: scores: {wrong:g} is outside {whose}, {low:g} to {high:g}"
            raise DataError(message, hint="correct the row, or say the people's scale: --scale LOW HIGH")
    return low, high


def _check(builder: Builder, stage: StagePlan, name: str, rated: Sequence[Rated]) -> None:
    """Raise DataError for the first row that lacks what the reward compares with."""
    section = stage.stage.rewards[name]
    plugin = builder.registry.get("reward", section.type)
    assert issubclass(plugin, Reward)
    with Guard(origin_of(plugin, "reward", section.type, f"rewards.{name}"), "dialogue_needs"):
        params = plugin.Params.model_validate(resolve_secrets(dict(section.params), os.environ))
        found = ((each, plugin.dialogue_needs(params, each.dialogue)) for each in rated)
        lacking = next(((each, lack) for each, lack in found if lack), None)
    if lacking is not None:
        message = f"{lacking[0].dialogue.origin}: reward `{name}` cannot score this row: {lacking[1]}"
        raise DataError(message, hint="rows may have `reference` and `metadata` (docs/calibration.md)")


def _live(builder: Builder, stage: StagePlan, name: str) -> tuple[LiveReward, Roller | None]:
    """The reward as a run would make it, not corrected; and what writes answers as tokens, where it may read them."""
    section = stage.stage.rewards[name]
    plugin = builder.registry.get("reward", section.type)
    assert issubclass(plugin, Reward)
    text_or_sound = bool(plugin.needs) and plugin.needs <= {"text", "waveform"}
    roller = None if text_or_sound and plugin.prepare is Reward.prepare else _roller(builder, stage)
    reward = builder.plugin(Reward, section, f"rewards.{name}")
    if roller is not None:
        reward.prepare(OpenModels(builder, stage, roller))
    reward.join(Process(timeout=section.timeout, fresh=True))
    return LiveReward(name, reward, section.model_copy(update={"scale": None})), roller


def _roller(builder: Builder, stage: StagePlan) -> Roller:
    codec, architecture = builder.codec(stage, None), builder.architecture(stage, None, want="layout")
    check_codes(architecture.tokens, codec)
    encoder = Encoder(architecture, None if codec is None else CodeCache(codec, cache_folder() / "codes.sqlite"))
    sampler = builder.plugin(Sampler, stage.stage.rollout.sampler, "rollout.sampler")
    return Roller(architecture, encoder, sampler, codec, builder.nar(stage, architecture, codec))


def _asked(
    pool: RewardPool, live: LiveReward, rated: Sequence[Rated], roller: Roller | None, repeats: int, progress: Progress
) -> tuple[list[list[Call]], Numbers]:
    """The calls [R][N], and when each was made, 0 to 1 [R, N]; every other pass goes backwards."""
    listens, count = "waveform" in live.reward.needs, len(rated)
    calls, places = list[list[Call]](), np.zeros((repeats, count))
    what = f"asking `{live.name}`"
    for repeat in range(repeats):
        order = list(range(count)) if repeat % 2 == 0 else list(range(count))[::-1]
        row: dict[int, Call] = {}
        for start in range(0, count, TOGETHER):
            progress(what, repeat * count + start, repeats * count)
            part = order[start : start + TOGETHER]
            groups = [_group(rated[each], roller, listens=listens) for each in part]
            if roller is not None:
                groups = shown_to(live.reward.needs, groups, roller.encoder)
            row |= dict(zip(part, pool.score(live.name, groups), strict=True))
        calls.append([row[each] for each in range(count)])
        places[repeat, order] = _places(count, live.reward.batch_size)
    progress(what, repeats * count, repeats * count)
    return calls, places


def _places(count: int, together: int) -> Numbers:
    """Where in the pass each call comes, 0 to 1; where several are judged together, where in their call."""
    if together == 1:
        return np.linspace(0.0, 1.0, count)
    return np.arange(count) % together / (together - 1)


def _group(rated: Rated, roller: Roller | None, *, listens: bool) -> RolloutGroup:
    """An answer as a reward is shown it, with its sound where it listens."""
    clip = rated.answer.audio
    sound = audio.read(clip, sample_rate=None) if listens and clip is not None else None
    if roller is None:
        # Nobody has sampled tokens: what would count them finds no numbers rather than none of them.
        nothing = torch.empty((1, 0), dtype=torch.int64, device="meta")
        tokens = TokenSequence(nothing, torch.empty((1, 0), dtype=torch.int8, device="meta"))
        answer = Answer(rated.answer.text, (), finished=True)
        rollout = Rollout(tokens, torch.empty((1, 0), device="meta"), answer, waveform=sound)
        return RolloutGroup(rated.dialogue, tokens, (rollout,))
    spoken = replace(rated.dialogue, target=rated.answer)
    completion = roller.encoder.target(spoken)
    answer = replace(roller.architecture.decode_completion(completion), text=rated.answer.text)
    rollout = Rollout(completion, torch.zeros(completion.ids.shape), answer, waveform=sound)
    return RolloutGroup(rated.dialogue, roller.encoder.prompt(rated.dialogue), (rollout,))


def _value(call: Call) -> float:
    found = None if call.result is None else call.result.value
    return math.nan if found is None else found


def _replies(calls: Sequence[Call], counts: Mapping[str, float]) -> Replies:
    results = [call.result for call in calls if call.result is not None]
    missing = [each for each in results if each.value is None]
    reasons = Counter(each.reason or "no reason was given" for each in missing)
    absent = sum(each.blame == "answer" for each in missing)
    return Replies(
        asked=len(calls),
        judged=len(results) - len(missing),
        failed=len(missing) - absent,
        absent=absent,
        reasons=dict(reasons.most_common()),
        counts=counts,
    )
