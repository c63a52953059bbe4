"""What a plan asks of its data and its files, collected from the stages, the rewards and the metrics."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from pydantic import BaseModel

from wavalign.engine.compile.components import read_headings
from wavalign.engine.compile.plan import StagePlan
from wavalign.engine.compile.stage_links import codec_before
from wavalign.engine.feeding.record_check import Ask, Demands, RecordsLook, check_records
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.pair_evaluation import check_pair
from wavalign.engine.run.parts import used_rewards
from wavalign.engine.run.reward_models import unfit_models
from wavalign.errors import DataError, PreflightError
from wavalign.plugins.api import Architecture, Codec, Metric, Reward
from wavalign.plugins.batch import Dialogue
from wavalign.plugins.guard import Guard, origin_of
from wavalign.schema.component import Component, WeightedComponent
from wavalign.schema.shapes import Option, leaves, must_exist

_PATTERN = frozenset("*?[")


def headings(stage: StagePlan, *, made: bool = False) -> dict[str, Sequence[WeightedComponent]]:
    """Headings that a run of the stage reads, with the sources that are there before it, or that stages `made`."""
    found = dict[str, Sequence[WeightedComponent]]()
    for name, sources in read_headings(stage).items():
        if wanted := tuple(each for each in sources if (each.stage is not None) == made):
            found[name] = wanted
    return found


def demands_of(builder: Builder, stage: StagePlan, heading: str, architecture: Architecture | None) -> Demands:
    """What is asked of the records of one heading."""
    imitated = heading in stage.graph.made_for("data_rows")
    return Demands(
        target=imitated,
        target_sound=heading != "prompts",
        words=architecture.check_words if architecture is not None else None,
        needs=list(_needs(builder, stage, heading)),
        whole=partial(check_pair, heading=heading) if stage.kind.pairs and heading.startswith("evaluation.") else None,
        lengths=None if architecture is None else builder.lengths(stage, heading, architecture),
        enough=_enough(builder, stage) if heading == "demonstrations" and stage.kind.leaves == "codec" else None,
    )


def _needs(builder: Builder, stage: StagePlan, heading: str) -> Iterator[tuple[str, Ask]]:
    if heading in ("prompts", "samples"):
        for name in used_rewards(stage):
            yield f"rewards.{name}", _ask(builder, "reward", stage.stage.rewards[name], f"rewards.{name}")
    elif heading.startswith("evaluation."):
        for name in stage.stage.choosing:
            yield f"rewards.{name}", _ask(builder, "reward", stage.stage.rewards[name], f"rewards.{name}")
        for name, metric in stage.stage.evaluation.metrics.items():
            yield f"evaluation.metrics.{name}", _ask(builder, "metric", metric, f"evaluation.metrics.{name}")


def _ask(builder: Builder, kind: str, component: Component, name: str) -> Ask:
    plugin = builder.registry.get(kind, component.type)
    assert issubclass(plugin, Reward | Metric)
    origin = origin_of(plugin, kind, component.type, name)
    with Guard(origin, "options"):
        params = plugin.Params.model_validate(dict(component.params))

    def ask(dialogue: Dialogue) -> str | None:
        with Guard(origin, "dialogue_needs"):
            return plugin.dialogue_needs(params, dialogue)

    return ask


def _enough(builder: Builder, stage: StagePlan) -> Callable[[Sequence[float]], str | None]:
    component = stage.stage.model.codec
    assert component is not None
    plugin = builder.registry.get("codec", component.type)
    assert issubclass(plugin, Codec)
    origin = origin_of(plugin, "codec", component.type, "model.codec")
    with Guard(origin, "options"):
        params = plugin.Params.model_validate(dict(component.params))

    def lacking(seconds: Sequence[float]) -> str | None:
        with Guard(origin, "fit_lacks"):
            return plugin.fit_lacks(params, seconds)

    return lacking


def look_at_records(
    builder: Builder, stage: StagePlan, heading: str, architecture: Architecture | None, *, made: bool = False
) -> RecordsLook:
    """All records of a heading."""
    sources = [source for source, _ in builder.feed(headings(stage, made=made)[heading], 0).sources]
    return check_records(sources, demands_of(builder, stage, heading, architecture), builder.progress)


def check_before_training(builder: Builder, stages: Sequence[StagePlan]) -> None:
    """Raise the first problem of files and records of the stages that are to run, saying how many there are.

    Every rank comes along, for preparing a source is done together; the first alone looks.
    """
    for stage in stages:
        for message, hint in missing_files(builder, stage):
            raise PreflightError(message, hint=hint)
    looked = set[str]()
    for stage in stages:
        architecture = _known(builder, stage)
        for heading, sources in headings(stage).items():
            if not builder.world.is_first:
                builder.feed(sources, 0)
                continue
            if (asked := _asked(builder, stage, heading)) in looked:
                continue
            looked.add(asked)
            _refuse(heading, look_at_records(builder, stage, heading, architecture))


def check_made(builder: Builder, stage: StagePlan) -> None:
    """The same of what earlier stages wrote for a stage that begins."""
    made = headings(stage, made=True)
    architecture = _known(builder, stage) if made else None
    for heading, sources in made.items():
        if builder.world.is_first:
            _refuse(heading, look_at_records(builder, stage, heading, architecture, made=True))
        else:
            builder.feed(sources, 0)


def _refuse(heading: str, look: RecordsLook) -> None:
    if look.problems:
        first, more = look.problems[0], f" (and {look.bad - 1} more records)" if look.bad > 1 else ""
        raise DataError(f"data.{heading}: {first.message}{more}", hint=first.hint)


def _asked(builder: Builder, stage: StagePlan, heading: str) -> str:
    """All that decides what is asked of a heading's records: equal for stages that ask the same of the same."""
    section, fitted = stage.stage, codec_before(builder.plan.stages, stage)
    operators = sorted(each.name for each in stage.graph.operators)
    parts = (section.model, section.data, section.evaluation)
    rewards = sorted((name, each.model_dump_json()) for name, each in section.rewards.items())
    return repr((heading, section.type, fitted, operators, [each.model_dump_json() for each in parts], rewards))


def _known(builder: Builder, stage: StagePlan) -> Architecture | None:
    """The stage's architecture where it is known before the stages in front have run."""
    model = stage.stage.model
    own = model.checkpoint is not None or model.preset is not None
    return builder.architecture(stage, None, want="layout") if stage.kind.network and own else None


def missing_files(builder: Builder, stage: StagePlan) -> Iterator[tuple[str, str]]:
    """Files that options of the stage's plugins name and that are not there, with what to do."""
    yield from unfit_models(builder, stage, _known(builder, stage) if _scores_by_model(stage) else None)
    for kind, name, component in _components(stage):
        plugin = builder.registry.get(kind, component.type)
        for place, path in _paths(plugin.Params, component.params):
            plain = path.removeprefix("file://")
            if kind == "data" and place.split(".")[0] == "path":
                continue  # the source says it better when it is opened
            if "://" in plain or _PATTERN & set(plain) or plain.startswith("${env:") or os.path.exists(plain):
                continue
            yield f"{name}.{place}: no file {path}", "check the path; relative ones count from the recipe"


def _scores_by_model(stage: StagePlan) -> bool:
    return any(each.type == "reward_model" for each in stage.stage.rewards.values())


def _paths(params: type[BaseModel], content: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for place, value, accepted in leaves((Option(params),), dict(content), ()):
        if isinstance(value, str) and value and must_exist(accepted):
            yield ".".join(map(str, place)), value


def _components(stage: StagePlan) -> Iterator[tuple[str, str, Component]]:
    section = stage.stage
    for kind, name, one in (
        ("architecture", "model.architecture", section.model.architecture),
        ("codec", "model.codec", section.model.codec),
        ("nar", "model.nar", section.model.nar),
        ("sampler", "rollout.sampler", section.rollout.sampler),
        ("provider", "rollout.provider", section.rollout.provider),
    ):
        if one is not None and not (kind == "codec" and stage.kind.leaves == "codec"):
            yield kind, name, one
    if stage.kind.learns or stage.stage.choosing or stage.stage.type == "pairs":
        asked = used_rewards(stage) if stage.stage.type == "pairs" else section.rewards
        yield from (("reward", f"rewards.{name}", section.rewards[name]) for name in asked)
    if stage.kind.measures:
        yield from (("metric", f"evaluation.metrics.{name}", each) for name, each in section.evaluation.metrics.items())
    for name, sources in headings(stage).items():
        yield from (("data", f"data.{name}", each) for each in sources)
