"""Recipe to Plan: the passes in order, every problem collected."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import final

from wavalign.engine.compile.advantage_checks import advantage_problems, compares
from wavalign.engine.compile.ahead import ahead_warnings
from wavalign.engine.compile.calibrations import corrections, weak_calibrations
from wavalign.engine.compile.checks import StageChecks, check_runtime, measured_in_round, watch_problem
from wavalign.engine.compile.gate_checks import gate_problems
from wavalign.engine.compile.geometry import only_measuring, plan_geometry
from wavalign.engine.compile.graph import build_graph
from wavalign.engine.compile.instruments import shared_instruments
from wavalign.engine.compile.lowering import deepspeed_config
from wavalign.engine.compile.operators import scalar_outputs
from wavalign.engine.compile.pair_checks import golden_warnings
from wavalign.engine.compile.parts import left_out, stage_parts
from wavalign.engine.compile.plan import Cluster, Graph, Plan, StagePlan, TermPlan, Warned
from wavalign.engine.compile.resolve import Resolver
from wavalign.engine.compile.stage_links import start_of
from wavalign.engine.compile.terms import TermPlanner
from wavalign.errors import PluginError, Problem, RecipeError
from wavalign.plugins.files import digest
from wavalign.plugins.registry import Registry
from wavalign.plugins.scalars import ScalarHead
from wavalign.schema.calibration import Correction
from wavalign.schema.loading import LoadedRecipe, names_of
from wavalign.schema.marks import Path as TreePath
from wavalign.schema.marks import in_file_order
from wavalign.schema.objective import CriticSection
from wavalign.schema.runtime import RuntimeSection
from wavalign.schema.salvage import Broken
from wavalign.schema.stage import Stage
from wavalign.schema.stage_kinds import KINDS

READ_BY_GEOMETRY = {"type", "model", "data", "rollout", "batch", "rewards", "objective", "evaluation", "runtime"}
"""Sections that graph and sizes are made of: where one lacks something, nothing is said of them."""


def compile_recipe(loaded: LoadedRecipe, cluster: Cluster) -> Plan:
    """The plan of a loaded recipe for a cluster; RecipeError with every problem, PluginError for a broken plugin."""
    if not loaded.problems:
        return _Compiler(loaded, cluster).compile()
    raise RecipeError(in_file_order([*loaded.problems, *_further(loaded, cluster)], names_of(loaded.source)))


def _further(loaded: LoadedRecipe, cluster: Cluster) -> list[Problem]:
    """What the passes find in the parts of a recipe that the schema left whole."""
    try:
        _Compiler(loaded, cluster).compile()
    except RecipeError as error:
        return [problem for problem in error.problems if not _follows(problem, loaded.broken)]
    except PluginError:
        return []  # shown when the recipe is right: another kind of failure, with another exit code
    return []


def _without_answers(stage: Stage) -> Stage:
    """A stage whose held-out splits are pairs, without what shared sections say of answers."""
    if not KINDS[stage.type].pairs:
        return stage
    evaluation = stage.evaluation.model_copy(update={"metrics": {}, "best_of": None})
    return stage.model_copy(update={"evaluation": evaluation, "rewards": {}})


def device_of(runtime: RuntimeSection, cluster: Cluster) -> str:
    """`cuda` or `cpu`."""
    return runtime.device if runtime.device != "auto" else ("cuda" if cluster.gpus else "cpu")


def _follows(problem: Problem, broken: Broken) -> bool:
    """Whether a problem would not be there without what was taken out."""
    lacks = {path[-1] for path in broken.paths}
    return (
        broken.holds(problem)
        or (problem.code == "missing_gate" and bool(lacks & {"gate", "objective"}))
        or (problem.code == "unknown_type" and "plugins" in lacks)
    )


def scalar_heads(graph: Graph, terms: Sequence[TermPlan], *, detach: bool = False) -> tuple[ScalarHead, ...]:
    """Heads beside the network that somebody reads; those whose earlier word is needed are there whoever learns."""
    read = {name for name in scalar_outputs(terms) if graph.gives(name)}
    read |= {"values"} if graph.gives("old_values") else set()
    return tuple(ScalarHead(name, unit, detach) for name, unit in scalar_outputs(terms).items() if name in read)


@final
class _Compiler:
    """One compilation."""

    def __init__(self, loaded: LoadedRecipe, cluster: Cluster) -> None:
        self.recipe, self.source, self.cluster = loaded.recipe, loaded.source, cluster
        self.broken = loaded.broken
        self.registry = Registry(self.recipe.plugins)
        self.resolver = Resolver(self.registry, self.source)
        self.device = device_of(self.recipe.runtime, cluster)
        asked = self.recipe.runtime.processes
        self.processes = (max(1, cluster.gpus) if self.device == "cuda" else 1) if asked == "auto" else asked

    def compile(self) -> Plan:
        """Run the passes; raise when anything was noted."""
        runtime = self._runtime()
        stages: list[StagePlan] = []
        for index, stage in enumerate(self.recipe.stages):
            done = stages[-1].first_step + stages[-1].steps if stages else 0
            stages.append(self._stage(stage, index, done, runtime))
        self._check_best(runtime)
        self._check_rounds()
        problems = in_file_order(self.resolver.problems, names_of(self.source))
        if problems:
            raise RecipeError(problems)
        return Plan(
            name=self.recipe.name,
            description=self.recipe.description,
            seed=self.recipe.seed,
            device=self.device,
            processes=self.processes,
            runtime=runtime,
            plugins=self.recipe.plugins,
            plugin_digests=tuple(digest(file) for file in self.recipe.plugins),
            stages=tuple(stages),
        )

    def _runtime(self) -> RuntimeSection:
        runtime = self.recipe.runtime
        if "runtime" not in self.broken.sections(0):
            check_runtime(runtime, self.cluster, self._note_at(()))
        trackers = tuple(
            self.resolver.component("tracker", each, ("runtime", "trackers", index))
            for index, each in enumerate(runtime.trackers)
        )
        return runtime.model_copy(update={"trackers": trackers})

    def _stage(self, stage: Stage, index: int, first_step: int, runtime: RuntimeSection) -> StagePlan:
        path: TreePath = ("stages", index)
        before = len(self.resolver.problems)
        stage = self.resolver.stage(_without_answers(stage), path)
        terms = TermPlanner(self.resolver, stage, path).plan() if stage.objective is not None else ()
        stage = self._objective(stage, path)
        note = self._note_at(path)
        broken = self.broken.sections(index)
        StageChecks(stage, terms, self.registry, note, broken=broken).run(weights=self._has_weights(index))
        learned = terms if KINDS[stage.type].learns else ()
        plan = StagePlan(name=stage.name, first_step=first_step, stage=stage, terms=learned)
        if len(self.resolver.problems) == before and not broken & READ_BY_GEOMETRY:
            plan = plan.model_copy(update={"corrections": self._corrections(stage, note)})
        if len(self.resolver.problems) > before or not KINDS[stage.type].learns or broken & READ_BY_GEOMETRY:
            return plan
        rules = (advantage_problems, gate_problems)
        for where, message, hint in chain.from_iterable(rule(stage, learned, self.registry) for rule in rules):
            note("conflict", message, where, hint)
        if len(self.resolver.problems) > before:
            return plan
        if stage.steps:
            parts = stage_parts(stage, terms, self.registry)
            graph = build_graph(parts, left_out(stage, terms, parts))
            if graph.gives("rollouts") and stage.rollout.group_size < 2 and (message := compares(graph, parts)):
                note("geometry", message, ("rollout", "group_size"), "2 or more; the papers use 4 and 8")
            geometry = plan_geometry(stage, graph, terms, self.processes, note)
        else:
            graph, geometry = Graph(operators=()), only_measuring(self.processes)
            plan = plan.model_copy(update={"terms": ()})
        lowered = None
        if runtime.engine.type == "deepspeed":
            lowered = deepspeed_config(
                runtime.engine,
                stage.optim,
                precision=runtime.precision,
                micro_batch=geometry.micro_batch,
                accumulation=geometry.accumulation,
                processes=self.processes,
                device=self.device,
            )
        critic = stage.objective.critic if stage.objective is not None else CriticSection()
        scalars = scalar_heads(graph, plan.terms, detach=critic.detach)
        if scalars and critic.type == "separate" and runtime.engine.type == "deepspeed":
            message = "a separate critic is trained by the plain engine alone"
            hint = "take objective.critic.type: shared, or runtime.engine.type: plain"
            note("conflict", message, ("objective", "critic"), hint)
        decided = {"graph": graph, "geometry": geometry, "deepspeed": lowered, "scalars": scalars}
        plan = plan.model_copy(update=decided)
        return plan.model_copy(update={"warnings": tuple(self._warnings(plan, path))})

    def _corrections(self, stage: Stage, note: "_Note") -> dict[str, Correction]:
        """By reward, what its calibration makes of its values; those that cannot be used are noted."""
        found: dict[str, Correction] = {}
        for name, each in corrections(stage, self.registry, self.recipe.plugins):
            if isinstance(each, Correction):
                found[name] = each
            else:
                note(*each)
        return found

    def _warnings(self, plan: StagePlan, path: TreePath) -> Iterator[Warned]:
        """What a reader of the results should know, with its place in the recipe."""
        found = chain(
            shared_instruments(plan, self.registry),
            golden_warnings(plan, self.recipe.stages),
            ahead_warnings(plan, self.registry),
            weak_calibrations(plan),
        )
        for each in found:
            place = self.resolver.problem("warning", each.message, (*path, *each.path.split(".")), each.hint)
            yield each.model_copy(update={"path": place.path, "where": str(place.where or "")})

    def _check_best(self, runtime: RuntimeSection) -> None:
        """The value by which checkpoints are kept must be measured in some stage."""
        best = runtime.keep_best
        if best is None or any(self.broken.sections(index) for index in range(len(self.recipe.stages))):
            return
        reasons = [watch_problem(best, stage) for stage in self.recipe.stages if KINDS[stage.type].learns]
        if all(reasons):
            hint = "set evaluation.every, and name a value of a split of data.evaluation, e.g. heldout/text_accuracy"
            message = next(iter(reasons), f"`{best.metric}`: no stage trains")
            self._note_at(())("bad_value", message, ("runtime", "keep_best", "metric"), hint)

    def _check_rounds(self) -> None:
        """The value by which rounds end early must be measured in every one of them."""
        stages = self.recipe.stages
        for index, stage in enumerate(stages):
            stop = stage.round.stop_early if stage.round is not None else None
            if stage.round is None or stop is None or stage.round.number > 1:
                continue
            body = [each for each in stages if each.round == stage.round]
            if body[0] != stage or any(self.broken.sections(stages.index(each)) for each in body):
                continue
            if not any(measured_in_round(stop, each) for each in body):
                message = f"`{stop.metric}` is measured in no stage of the rounds"
                hint = "give a train or evaluate stage of theirs evaluation.metrics and a split by that name"
                self._note_at(("stages", index))("bad_value", message, ("round", "stop_early", "metric"), hint)

    def _has_weights(self, index: int) -> bool:
        """Whether the stage that the one at `index` starts from leaves a model."""
        stages = self.recipe.stages
        start = start_of(stages, index)
        return any(each.name == start and KINDS[each.type].leaves == "weights" for each in stages[:index])

    def _objective(self, stage: Stage, path: TreePath) -> Stage:
        objective = stage.objective
        if objective is None:
            return stage
        path = (*path, "objective")
        update = {"advantage": self.resolver.component("advantage", objective.advantage, (*path, "advantage"))}
        if objective.gate is not None:
            update["gate"] = self.resolver.component("gate", objective.gate, (*path, "gate"))
        return stage.model_copy(update={"objective": objective.model_copy(update=update)})

    def _note_at(self, prefix: TreePath) -> "_Note":
        return _Note(self.resolver, prefix)


@final
class _Note:
    """Takes problems of one part of the recipe."""

    def __init__(self, resolver: Resolver, prefix: TreePath) -> None:
        self.resolver, self.prefix = resolver, prefix

    def __call__(self, code: str, message: str, path: TreePath, hint: str) -> None:
        self.resolver.problems.append(self.resolver.problem(code, message, (*self.prefix, *path), hint))
