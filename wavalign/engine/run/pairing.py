"""A `pairs` stage, constructed: its answers, golden answers, earlier rounds, and the rewards that decide."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.feeding.feeds import CodeCache, Encoder
from wavalign.engine.feeding.pair_records import PAIR, record_again, samples_by_prompt
from wavalign.engine.feeding.pairing import Sample
from wavalign.engine.run.builder import Builder
from wavalign.engine.stages.dataset import DATA
from wavalign.engine.stages.pairing import Pairing, Score
from wavalign.engine.step.guards import guarded
from wavalign.engine.step.reward_budget import check_budget
from wavalign.engine.step.reward_inputs import shown_to
from wavalign.engine.step.reward_pool import RewardPool
from wavalign.engine.step.rewards import Scores, collect_scores
from wavalign.engine.step.rollouts import Roller, check_codes
from wavalign.errors import DataError
from wavalign.plugins import audio
from wavalign.plugins.api import Sampler
from wavalign.plugins.batch import Dialogue, Message, Rollout, RolloutGroup
from wavalign.schema.component import WeightedComponent
from wavalign.schema.pairs import Facet, GoldenPairs, PairsSection, Ranked, rewards_asked
from wavalign.storage.cache import cache_folder


def pairing(builder: Builder, stage: StagePlan, start: Path | None, earlier: Sequence[Path]) -> Pairing:
    """What a stage pairs; every rank calls it. `earlier` are the folders of earlier rounds, the last one last."""
    section, data = stage.stage.pairs, stage.stage.data
    assert data.samples is not None
    dialogues = _records(builder, data.samples)
    gold = None
    if isinstance(section, GoldenPairs) and section.gold == "demonstrations":
        assert data.demonstrations is not None
        gold = _golden(_records(builder, data.demonstrations))
    unread = list[str]()
    groups = samples_by_prompt(dialogues, section, unread.append, gold=gold)
    kept = _kept(builder, stage, earlier)
    names = rewards_asked(section, stage.stage.rewards)
    score, close = _scorer(builder, stage, start, names) if names else (None, _nothing)
    known = sorted(f"{name}: {message!r}" for name, message in (gold or {}).items())
    return Pairing(_decided(stage, section), groups, kept, unread, _digest([*dialogues, *kept], known), score, close)


def _records(builder: Builder, sources: Sequence[WeightedComponent]) -> list[Dialogue]:
    """All records of a heading, those of a stream too."""
    return builder.feed(sources, 0).all(None)


def _golden(dialogues: Sequence[Dialogue]) -> Mapping[str, Message]:
    """Golden answers by the prompt's id; raises DataError where two records have one id."""
    found = dict[str, Message]()
    for each in dialogues:
        if each.id in found:
            hint = "golden answers are found by the prompt's id: give every record its own"
            raise DataError(f"data.demonstrations: {each.label}: another record has this id too", hint=hint)
        if each.target is not None:
            found[each.id] = each.target
    return found


def _kept(builder: Builder, stage: StagePlan, earlier: Sequence[Path]) -> list[Dialogue]:
    """What earlier rounds made that is merged: of the round before what it made itself, or all it has."""
    section, mine = stage.stage.pairs, stage.stage.round
    if section.merge == "none" or mine is None or not earlier:
        return []
    found = _records(builder, [WeightedComponent(type="jsonl", params={"path": str(earlier[-1] / DATA)})])
    if section.merge == "all":
        return found
    return [each for each in found if each.metadata.get(PAIR, {}).get("round") == mine.number - 1]


def _decided(stage: StagePlan, section: PairsSection) -> PairsSection:
    """With the rewards as facets, by their weights, where no facets are named."""
    rewards = {name: each for name, each in stage.stage.rewards.items() if each.guard is None}
    if not isinstance(section, Ranked) or section.facets or not rewards:
        return section
    return section.model_copy(update={"facets": {name: Facet(weight=each.weight) for name, each in rewards.items()}})


def _digest(dialogues: Sequence[Dialogue], known: Sequence[str]) -> str:
    """Sum of records and golden answers; files by their name alone, as a run's folder may be moved."""
    digest = hashlib.sha256()
    for each in dialogues:
        content = _unplaced({**record_again(each, ""), "members": each.members})
        digest.update(json.dumps(content, sort_keys=True, default=repr).encode())
    for line in known:
        digest.update(line.encode())
    return digest.hexdigest()[:16]


def _unplaced(value: object) -> object:
    """Without the folders of sound files."""
    if isinstance(value, Mapping):
        return {
            key: str(each).rsplit("/", 1)[-1] if key == "audio" and isinstance(each, str) else _unplaced(each)
            for key, each in value.items()
        }
    return [_unplaced(each) for each in value] if isinstance(value, list | tuple) else value


def _nothing() -> None:
    """Nothing scores."""


def _scorer(
    builder: Builder, stage: StagePlan, start: Path | None, names: Sequence[str]
) -> tuple[Score, Callable[[], None]]:
    """What asks the rewards `names`, and what ends them. No network is built but that of a reward that has one."""
    section = stage.stage
    codec, architecture = builder.codec(stage, start), builder.architecture(stage, start)
    check_codes(architecture.tokens, codec)
    encoder = Encoder(architecture, None if codec is None else CodeCache(codec, cache_folder() / "codes.sqlite"))
    sampler = builder.plugin(Sampler, section.rollout.sampler, "rollout.sampler")
    roller = Roller(architecture, encoder, sampler, codec, builder.nar(stage, architecture, codec))
    pool = builder.rewards(stage, names, roller)
    listens = any("waveform" in each.reward.needs for each in pool.rewards)
    budget, counts = builder.plan.runtime.reward_failure_budget, dict.fromkeys(names, 0)
    asked = 0

    def score(groups: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
        nonlocal asked
        rolled = [_rolled(each, roller, listens=listens) for group in groups for each in group]
        if not rolled:
            return [list(group) for group in groups]
        values, asked = _asked(pool, rolled, roller), asked + len(rolled)
        for name, failed in values.failed.items():
            counts[name] += failed
        check_budget(values, pool.rewards, counts, calls=asked, budget=budget)
        # What a guard drops has no scores; what else a missing score means is for the pairs to say.
        known = values.judged_parts if values.guards else values.parts
        parts = {name: part[:, 0].tolist() for name, part in known.items()}
        flat = iter(range(len(rolled)))
        return [[_scored(each, parts, next(flat)) for each in group] for group in groups]

    return score, pool.close


def _rolled(sample: Sample, roller: Roller, *, listens: bool) -> RolloutGroup:
    """An answer of a record as a reward is shown it: its sound read, or decoded where it is there as codes."""
    dialogue, completion = sample.dialogue, roller.encoder.target(sample.dialogue)
    answer = replace(roller.architecture.decode_completion(completion), finished=sample.finished)
    rollout = Rollout(completion, torch.zeros(completion.ids.shape), answer)
    prompt = replace(dialogue, target=sample.gold)
    group = RolloutGroup(prompt, roller.encoder.prompt(dialogue), (rollout,))
    clip = sample.answer.audio
    if not listens or clip is None:
        return group
    if clip.has_sound:
        return replace(group, rollouts=(replace(rollout, waveform=audio.read(clip, sample_rate=None)),))
    return roller.with_sound([group])[0]


def _asked(pool: RewardPool, groups: Sequence[RolloutGroup], roller: Roller) -> Scores:
    calls = {
        live.name: pool.score(live.name, shown_to(live.reward.needs, groups, roller.encoder)) for live in pool.rewards
    }
    return guarded(collect_scores(pool.rewards, calls, (len(groups), 1)), pool.rewards)


def _scored(sample: Sample, parts: Mapping[str, Sequence[float]], place: int) -> Sample:
    """A sample with what the rewards said of it; a value that is missing is no score."""
    found = {name: values[place] for name, values in parts.items() if values[place] == values[place]}
    return replace(sample, scores={**sample.scores, **found})
