"""A `pairs` stage: answers to preferences, or to the best of them, as records that later stages read.

Prompts are done in chunks, chunk c by rank c modulo N, and what is made of a prompt depends on its answers and the
plan's seed alone: so the pairs are the same on any number of processes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.feeding.pair_records import record_again, record_of
from wavalign.engine.feeding.pairing import REASONS, SAID, Sample, pairs_of
from wavalign.engine.stages.cursor import Cursor
from wavalign.engine.stages.dataset import SUMMARY, DatasetPart
from wavalign.engine.stages.pairing import Pairing
from wavalign.engine.state.files import write_json
from wavalign.errors import DataError

COUNTED = ("prompts", "pairs", "merged", *REASONS)


def run(stage: StagePlan, cursor: Cursor) -> None:
    """Pair this rank's share of the answers; the first rank sums up."""
    cursor.observer.stage(stage.name, 0)
    pairing = cursor.pairing(stage)
    try:
        _write(stage, cursor, pairing)
    finally:
        pairing.close()
    cursor.complete(stage)


def _write(stage: StagePlan, cursor: Cursor, pairing: Pairing) -> None:
    folder, size = cursor.stage_folder(stage), stage.stage.pairs.chunk
    about = _about(stage, cursor.plan.seed)
    part = DatasetPart(folder, cursor.world, {**about, "read": pairing.digest, **_options(stage)}, COUNTED)
    new, kept = (-(-len(each) // size) for each in (pairing.groups, pairing.earlier))
    mine = range(new + kept)[cursor.world.rank :: cursor.world.size]
    if not part.chunks and cursor.world.is_first:
        part.counts.update(pairing.unread)
    for done, number in enumerate(mine[part.chunks :], part.chunks):
        cursor.observer.progress("pairing answers", done, len(mine))
        if number < new:
            groups = pairing.groups[number * size : (number + 1) * size]
            part.append(_made(pairing, groups, part, about))
        else:
            earlier = pairing.earlier[(number - new) * size : (number - new + 1) * size]
            part.counts["merged"] += len(earlier)
            part.append([record_again(each, str(part.path.parent)) for each in earlier])
    cursor.observer.progress("pairing answers", len(mine), len(mine))
    _sum_up(cursor, stage, part, about)


def _made(
    pairing: Pairing,
    groups: Sequence[Sequence[Sample]],
    part: DatasetPart,
    about: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Records of one chunk."""
    counts, folder, made = part.counts, str(part.path.parent), list[dict[str, Any]]()
    for samples in groups if pairing.score is None else pairing.score(groups):
        found = pairs_of(samples, pairing.section, lambda reason: counts.update([reason]), seed=about["seed"])
        counts["prompts"] += 1
        counts["pairs"] += len(found)
        made += [record_of(each, about, folder) for each in found]
    return made


def _about(stage: StagePlan, seed: int) -> dict[str, Any]:
    """What all records of a stage say of who made them."""
    about: dict[str, Any] = {"stage": stage.name, "by": stage.stage.pairs.type, "seed": seed}
    return about if stage.stage.round is None else {**about, "round": stage.stage.round.number}


def _options(stage: StagePlan) -> dict[str, Any]:
    """What decides which pairs there are."""
    rewards = {name: each.model_dump(mode="json") for name, each in stage.stage.rewards.items()}
    return {"pairs": stage.stage.pairs.model_dump(mode="json"), "rewards": rewards}


def _sum_up(cursor: Cursor, stage: StagePlan, part: DatasetPart, about: Mapping[str, Any]) -> None:
    """Say what all ranks wrote; raises DataError, on all of them, where there is no pair."""
    parts = cursor.world.gather([part.name, dict(part.counts)])
    counts = {name: sum(each[1][name] for each in parts) for name in COUNTED}
    made = "best answers" if about["by"] == "best" else "pairs"
    out = ", ".join(f"{counts[name]} {SAID[name]}" for name in REASONS if counts[name])
    left_out = f"; left out: {out}" if out else ""
    if not counts["pairs"] + counts["merged"]:
        raise DataError(
            f"stage {stage.name} made no {made} of the answers to {counts['prompts']} prompts{left_out}",
            hint="look at what the answers hold (wavalign data check), and at the stage's pairs section",
        )
    merged = f", and {counts['merged']} of earlier rounds" if counts["merged"] else ""
    said = f"stage {stage.name} made {counts['pairs']} {made} of {counts['prompts']} prompts{merged}{left_out}"
    cursor.observer.message(said)
    if cursor.world.is_first:
        files = [f"{name}.jsonl" for name, count in parts if count["pairs"] + count["merged"]]
        write_json(cursor.stage_folder(stage) / SUMMARY, {"files": files, **counts, **about})
