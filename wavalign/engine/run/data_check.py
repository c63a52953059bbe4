"""Construct what `inspection` looks at: the headings of a recipe, or one source by path."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from wavalign.engine.compile.components import headings_there, writers_of
from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.compile.stage_links import codec_before
from wavalign.engine.contracts.construct import construct
from wavalign.engine.feeding.inspection import CountTokens, DataLook, Heading, look_at
from wavalign.engine.feeding.lengths import Lengths
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.preflight_tools import PreflightTools
from wavalign.engine.state.distributed import World
from wavalign.errors import UsageError
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import Dialogue
from wavalign.plugins.guard import origin_of
from wavalign.plugins.registry import Registry
from wavalign.schema.component import WeightedComponent


def check_source(type_: str, options: Mapping[str, Any], *, limit: int | None, sounds: bool) -> DataLook:
    """Look at one data source; raises UsageError where its options are wrong."""
    label = f"{options.get('path', type_)} ({type_})"
    return look_at([Heading("data", [(label, source_of(type_, options))])], limit=limit, sounds=sounds)


def source_of(type_: str, options: Mapping[str, Any]) -> DataSource:
    """One data source, not prepared; raises UsageError where its options are wrong."""
    plugin = Registry().get(DataSource.kind, type_)
    origin = origin_of(plugin, DataSource.kind, type_)
    try:
        source: DataSource = construct(DataSource, plugin, origin, options, {"seed": 0})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "options"
        hint = f"`wavalign plugins show data.{type_}` lists its options; --type names another source"
        raise UsageError(f"source {type_}: {place}: {first['msg']}", hint=hint) from error
    return source


def check_recipe(plan: Plan, *, only: Sequence[str] = (), limit: int | None, sounds: bool, tokens: bool) -> DataLook:
    """Look at the headings of a plan, or at `only` some; raises UsageError where there is no such heading.

    A heading that is alike in several stages is looked at once. `tokens` counts them under the stage's architecture.
    """
    builder = Builder(plan, World.single("cpu"), lambda *_: None)
    found: dict[str, list[tuple[StagePlan, str, Sequence[WeightedComponent]]]] = {}
    for stage in plan.stages:
        for name, sources in headings_there(stage).items():
            known = found.setdefault(name, [])
            if all(sources != other for _, _, other in known):
                known.append((stage, name, sources))
    unknown = [name for name in only if name not in found]
    if unknown:
        writers = [name for stage in plan.stages for name in writers_of(stage, unknown[0])]
        hint = f"stage {writers[0]} writes it: name RUN/stages/{writers[0]}/data" if writers else ""
        raise UsageError(f"the recipe has no data.{unknown[0]}", hint=hint or f"it has: {', '.join(found)}")
    headings = []
    for name, uses in found.items():
        for stage, _, sources in uses if not only or name in only else ():
            count = _token_counter(builder, stage, plan) if tokens else None
            lengths = _lengths(builder, stage, name, counted=tokens)
            label = name if len(uses) == 1 else f"{name} ({stage.name})"
            labelled = [(_label(each), builder.source(each)) for each in sources]
            headings.append(Heading(label, labelled, count, lengths, imitated=name in stage.stage.data.learned))
    return look_at(headings, limit=limit, sounds=sounds)


def _token_counter(builder: Builder, stage: StagePlan, plan: Plan) -> CountTokens:
    """Lengths of prompt and target under the stage's architecture."""
    if not stage.kind.network or codec_before(plan.stages, stage):
        message = f"the data of stage {stage.name} has no tokens before its codec is fitted"
        raise UsageError(message, hint="leave --tokens out, or name headings of another recipe")
    tools = PreflightTools(builder)
    encoder = tools.encoder(stage, tools.architecture(stage))

    def count(dialogue: Dialogue) -> Mapping[str, int]:
        names = [name for name, _ in dialogue.named_answers]
        targets = {name: encoder.target(each).length for name, each in zip(names, dialogue.singles, strict=False)}
        return {"prompt": encoder.prompt(dialogue.singles[0]).length, **targets}

    return count


def _lengths(builder: Builder, stage: StagePlan, heading: str, *, counted: bool) -> Lengths | None:
    """Bounds of a heading: those of the recipe, and with `counted` also those of its model."""
    data, model = stage.stage.data, stage.stage.model
    bound = data.max_prompt_tokens is not None or data.max_target_tokens is not None
    known = stage.kind.network and (model.checkpoint is not None or model.preset is not None)
    if not known or not (counted or (bound and not heading.startswith("evaluation."))):
        return None
    return builder.lengths(stage, heading, PreflightTools(builder).architecture(stage))


def _label(component: WeightedComponent) -> str:
    """What a person calls a source: its path, or its type."""
    path = component.params.get("path")
    if path is None:
        return component.type
    return f"{path if isinstance(path, str) else ', '.join(path)} ({component.type})"
