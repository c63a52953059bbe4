"""Stages that answer and learn nothing, constructed: a network without a backend, and the prompts it answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from wavalign.engine.backends.base import DTYPES, Placement
from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.feeding.feeds import CodeCache, Encoder, feed_seed
from wavalign.engine.feeding.lengths import Lengths, bounded_feed
from wavalign.engine.run.builder import Builder
from wavalign.engine.stages.answering import Answering
from wavalign.engine.step.rollouts import Roller, check_codes
from wavalign.engine.step.sampling import check_streams, rollout_options
from wavalign.plugins.api import Policy, Sampler
from wavalign.plugins.batch import Dialogue
from wavalign.storage.cache import cache_folder


def answering(builder: Builder, stage: StagePlan, start: Path | None) -> Answering:
    """The policy of a stage, whole on every rank, and the prompts it answers; every rank calls it."""
    section, world = stage.stage, builder.world
    policy, roller = answerer(builder, stage, start)
    assert section.data.prompts is not None
    sources = [(builder.prepared_source(each), each.weight) for each in section.data.prompts]
    lengths = builder.lengths(stage, "prompts", roller.architecture, roller.encoder)
    seed = feed_seed(builder.plan.seed, stage.name, "prompts")
    feed = bounded_feed(sources, lengths, seed=seed, world=world, look=start is not None)
    prompts = feed.all(section.generate.limit)
    if feed.size is None:  # of a stream nobody has looked at the lengths before
        prompts = _fitting(prompts, lengths)
    options = rollout_options(section.rollout, text_only=roller.codec is None)
    return Answering(policy, roller, with_own_ids(prompts), options, feed.note("prompts"))


def answerer(builder: Builder, stage: StagePlan, start: Path | None) -> tuple[Policy, Roller]:
    """The policy of a stage, whole on every rank, and what draws its answers."""
    section, world = stage.stage, builder.world
    codec = builder.codec(stage, start)
    architecture = builder.architecture(stage, start)
    check_streams(section, architecture.tokens)
    check_codes(architecture.tokens, codec)
    placement = Placement(world.device, dtype=DTYPES[builder.plan.runtime.precision])
    with guarded_block(architecture, "building its network"):
        policy = builder.starting_weights(stage, architecture).policy(placement)
    encoder = Encoder(architecture, None if codec is None else CodeCache(codec, cache_folder() / "codes.sqlite"))
    sampler = builder.plugin(Sampler, section.rollout.sampler, "rollout.sampler")
    return policy, Roller(architecture, encoder, sampler, codec, builder.nar(stage, architecture, codec))


def _fitting(dialogues: Sequence[Dialogue], lengths: Lengths) -> list[Dialogue]:
    """Those that are not too long; raises DataError where none may be left out."""
    if not lengths.bounds.drop:
        lengths.refuse(dialogues)
    return [each for each in dialogues if lengths.too_long(each) is None]


def with_own_ids(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """The same, those whose id a source before had already under another."""
    seen = Counter[str]()
    found = []
    for each in dialogues:
        seen[each.id] += 1
        found.append(each if seen[each.id] == 1 else replace(each, id=f"{each.id}~{seen[each.id]}"))
    return found
