"""What a `pairs` stage demands of its sections."""

from collections.abc import Callable

from wavalign.schema.marks import Path
from wavalign.schema.pairs import GoldenPairs
from wavalign.schema.stage import Stage

Note = Callable[[str, str, Path, str], None]
"""Takes a problem's code, message, path and hint."""


def check_pairs(stage: Stage, note: Note) -> None:
    """Note what is missing of answers, golden answers and rounds."""
    section, data = stage.pairs, stage.data
    if data.samples is None:
        hint = "add data.samples: answers to pair, e.g. {type: jsonl, stage: NAME} of a generate stage"
        note("missing_section", "pairs needs data.samples", ("data", "samples"), hint)
    if isinstance(section, GoldenPairs) and section.gold == "demonstrations" and data.demonstrations is None:
        message = "golden answers are taken from data.demonstrations, and that is not there"
        note("missing_section", message, ("data", "demonstrations"), "add them, or set gold: reference")
    if section.merge != "none" and stage.round is None:
        message = f"merge: {section.merge} is of earlier rounds, and the stage is in no `repeat`"
        note("conflict", message, ("pairs", "merge"), "leave it out, or put the stage into a repeat")
