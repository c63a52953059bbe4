"""`wavalign data pairs`: the pairs of files that are there, without a run."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pydantic import TypeAdapter, ValidationError

from wavalign.engine.feeding.pair_records import record_of, samples_by_prompt
from wavalign.engine.feeding.pairing import REASONS, SAID, pairs_of
from wavalign.engine.state.files import storage_errors
from wavalign.errors import DataError, UsageError
from wavalign.plugins.api import DataSource
from wavalign.schema.pairs import GoldenPairs, PairsSection


@final
@dataclass(frozen=True, slots=True)
class PairsMade:
    """What became of the answers."""

    answers: int
    prompts: int
    made: int
    left_out: Mapping[str, int]
    """Counts by reason, in words."""


def section_of(options: Mapping[str, Any]) -> PairsSection:
    """A `pairs` section from plain options; UsageError where one is wrong."""
    try:
        section: PairsSection = TypeAdapter[PairsSection](PairsSection).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "type"
        hint = "types are golden, scored, best and given; docs/pairs.md lists their options"
        raise UsageError(f"pairs: {place}: {first['msg']}", hint=hint) from error
    if section.merge != "none":
        raise UsageError("pairs: merge is of earlier rounds of a run", hint="leave it out")
    if isinstance(section, GoldenPairs) and section.gold == "demonstrations":
        raise UsageError("pairs: here golden answers are those that the records hold", hint="leave gold out")
    return section


def write_pairs(sources: Sequence[DataSource], section: PairsSection, output: str, *, seed: int) -> PairsMade:
    """Pair the records of prepared sources and write them to the file `output`; DataError where there is no pair.

    Scores are those of the records; no reward is asked. The file is there whole, or as it was.
    """
    dropped, lines, made = Counter[str](), list[str](), 0
    dialogues = [source.record(index) for source in sources for index in range(len(source))]
    groups = samples_by_prompt(dialogues, section, lambda reason: dropped.update([reason]))
    folder = str(Path(output).absolute().parent)
    for samples in groups:
        for pair in pairs_of(samples, section, lambda reason: dropped.update([reason]), seed=seed):
            record = record_of(pair, {"by": section.type, "seed": seed}, folder)
            lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            made += 1
    left_out = {SAID[reason]: dropped[reason] for reason in REASONS if dropped[reason]}
    if not made:
        said = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(
            f"no pair can be made of the {len(dialogues)} records{f': {said}' if said else ''}",
            hint="look at what they hold: wavalign data check",
        )
    with storage_errors(output):
        path, partial = Path(output), Path(f"{output}.part")
        partial.write_text("".join(lines), encoding="utf-8")
        partial.replace(path)
    return PairsMade(len(dialogues), len(groups), made, left_out)
