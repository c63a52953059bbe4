"""Streams and heads a recipe names, held against those the architecture has.

An architecture knows them once it stands over its tokenizer, so this is looked at before a run and when a stage
is built, not while a recipe is compiled.
"""

from wavalign.errors import Problem
from wavalign.plugins.batch import TokenSpace
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


def missing_heads(stage: Stage, space: TokenSpace) -> list[Problem]:
    """A problem for every term that asks for multi-token-prediction heads where there are none."""
    if stage.objective is None or len(space.heads) > len(space.streams):
        return []
    return [
        Problem(
            "conflict",
            f"objective.terms.{name}.heads",
            f"{stage.model.architecture.type} has no multi-token-prediction heads here (stage {stage.name})",
            "leave the term out, or use a checkpoint that has them",
        )
        for name, term in stage.objective.terms.items()
        if term.heads == "mtp"
    ]
