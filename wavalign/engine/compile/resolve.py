"""Pass 1: every `type` to its class, every option checked against the class's Params, every default filled in."""

from collections.abc import Mapping
from typing import Any, TypeVar, final

from wavalign.engine.compile.stage_links import WRITTEN, writer_of
from wavalign.errors import Problem, quoted
from wavalign.plugins.api import Architecture
from wavalign.plugins.guard import Guard, origin_of
from wavalign.plugins.registry import Registry
from wavalign.schema.component import Component, WeightedComponent
from wavalign.schema.loading import read_params
from wavalign.schema.marks import Path, Source
from wavalign.schema.model import ModelSection
from wavalign.schema.reward import RewardSection
from wavalign.schema.stage import Stage

C = TypeVar("C", bound=Component)
_LINKED: Mapping[str, tuple[str, str]] = {
    "data": ("source", "use {type: jsonl, stage: NAME}"),
    "reward": ("reward", "use {type: reward_model, stage: NAME}"),
}
"""By kind, what names a stage in words, and how it is to be written."""


@final
class Resolver:
    """Resolves components one by one and collects what is wrong with them."""

    def __init__(self, registry: Registry, source: Source) -> None:
        self.registry, self.source = registry, source
        self.problems: list[Problem] = []

    def component(self, kind: str, component: C, path: Path) -> C:
        """The component with complete, JSON-ready params; problems are noted and leave it as it was.

        A plugin that exists and cannot be used is no problem of the recipe: its PluginError is raised.
        """
        if component.type not in self.registry.types(kind):
            hint = self.registry.suggestion(kind, component.type)
            message = f"no {kind} named '{quoted(component.type)}'"
            self.problems.append(self.problem("unknown_type", message, (*path, "type"), hint))
            return component
        plugin = self.registry.get(kind, component.type)
        beside = tuple(name for name in type(component).model_fields if name != "params")
        with Guard(origin_of(plugin, kind, component.type), "options"):  # its validators are its own code
            params, problems = read_params(
                plugin.Params, component.params, prefix=path, source=self.source, beside=beside
            )
            content = None if params is None else params.model_dump(mode="json")
        self.problems.extend(problems)
        return component if content is None else component.model_copy(update={"params": content})

    def mapping(self, kind: str, components: Mapping[str, C], path: Path) -> dict[str, C]:
        """Each component of a mapping."""
        return {name: self.component(kind, each, (*path, name)) for name, each in components.items()}

    def stage(self, stage: Stage, path: Path) -> Stage:
        """Every component of a stage but its terms, which are resolved with the objective."""
        model, data = stage.model, stage.data
        model = model.model_copy(
            update={
                "architecture": self.component("architecture", model.architecture, (*path, "model", "architecture")),
                "codec": None
                if model.codec is None
                else self.component("codec", model.codec, (*path, "model", "codec")),
                "nar": None if model.nar is None else self.component("nar", model.nar, (*path, "model", "nar")),
                "freeze": self._frozen_groups(model) if model.freeze is None else model.freeze,
            }
        )
        data = data.model_copy(
            update={
                "prompts": self._sources(data.prompts, (*path, "data", "prompts")),
                "demonstrations": self._sources(data.demonstrations, (*path, "data", "demonstrations")),
                "samples": self._sources(data.samples, (*path, "data", "samples")),
                "families": {
                    name: self._sources(sources, (*path, "data", "families", name))
                    for name, sources in data.families.items()
                },
                "evaluation": {
                    name: self._sources(sources, (*path, "data", "evaluation", name))
                    for name, sources in data.evaluation.items()
                },
            }
        )
        sampling = {
            kind: self.component(kind, component, (*path, "rollout", kind))
            for kind, component in (("sampler", stage.rollout.sampler), ("provider", stage.rollout.provider))
        }
        metrics = self.mapping("metric", stage.evaluation.metrics, (*path, "evaluation", "metrics"))
        return stage.model_copy(
            update={
                "model": model,
                "data": data,
                "rollout": stage.rollout.model_copy(update=sampling),
                "rewards": {
                    name: self._reward(reward, (*path, "rewards", name)) for name, reward in stage.rewards.items()
                },
                "evaluation": stage.evaluation.model_copy(update={"metrics": metrics}),
            }
        )

    def _frozen_groups(self, model: ModelSection) -> tuple[str, ...]:
        """What the architecture keeps frozen; nothing for one that does not exist, which is noted elsewhere."""
        if model.architecture.type not in self.registry.types("architecture"):
            return ()
        plugin = self.registry.get("architecture", model.architecture.type)
        kept = plugin.frozen_groups if issubclass(plugin, Architecture) else ()
        adapter = model.adapter
        return kept if adapter is None else tuple(g for g in kept if g not in (*adapter.groups, *adapter.also_train))

    def _sources(self, sources: Any, path: Path) -> Any:
        if sources is None:
            return None
        # One source may be written without the list: the marks then lack the index, and the nearest mark serves.
        return tuple(self._source(each, (*path, index)) for index, each in enumerate(sources))

    def _source(self, source: WeightedComponent, path: Path) -> WeightedComponent:
        """A data source; one that names a stage has its `path` from there."""
        return self.component("data", self._linked("data", source, "path", path), path)

    def _reward(self, reward: RewardSection, path: Path) -> RewardSection:
        """A reward; one that names a stage has its `model` from there."""
        return self.component("reward", self._linked("reward", reward, "model", path), path)

    def _linked(self, kind: str, component: C, key: str, path: Path) -> C:
        """The component with the address of what the stage that it names leaves, as its option `key`."""
        stage = writer_of(component)
        if stage is None:
            return component
        what, remedy = _LINKED[kind]
        address = f"{WRITTEN}{stage}"
        if component.params.get(key, address) != address:  # a resolved recipe has the address
            message = f"the {what} has a `{key}` and names a `stage`"
            hint = "remove one of the two (`!replace` before a mapping leaves out what is shared)"
            self.problems.append(self.problem("conflict", message, (*path, "stage"), hint))
            return component
        known = component.type in self.registry.types(kind)
        if known and key not in self.registry.get(kind, component.type).Params.model_fields:
            message = f"a {what} of type {component.type} reads {'no files' if kind == 'data' else 'no reward model'}"
            self.problems.append(self.problem("conflict", message, (*path, "stage"), remedy))
            return component
        return component.model_copy(update={"params": {**component.params, key: address}})

    def problem(self, code: str, message: str, path: Path, hint: str = "") -> Problem:
        """A problem at `path`, named by the path its author wrote."""
        return Problem(code, self.source.dotted(path), message, hint, self.source.where(path))
