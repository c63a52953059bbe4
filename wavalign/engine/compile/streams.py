"""Streams a recipe names, held against those the architecture has.

An architecture knows its streams once it stands over its tokenizer, so this is looked at before a run and when a stage
is built, not while a recipe is compiled.
"""

from wavalign.errors import Problem
from wavalign.schema.stage import Stage
from wavalign.schema.translation import did_you_mean


def unknown_streams(stage: Stage, streams: tuple[str, ...]) -> list[Problem]:
    """A problem for every name in `rollout.streams` and `evaluation.sampling.streams` that is not in `streams`."""
    places = (
        ("rollout.streams", stage.rollout.streams),
        ("evaluation.sampling.streams", stage.evaluation.sampling.streams),
    )
    return [
        Problem(
            "unknown_key",
            f"{place}.{name}",
            f"{stage.model.architecture.type} has no stream named '{name}' (stage {stage.name})",
            did_you_mean(name, streams) or f"its streams: {', '.join(streams)}",
        )
        for place, named in places
        for name in named
        if name not in streams
    ]
