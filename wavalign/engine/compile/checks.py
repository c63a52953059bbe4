"""Pass 2: rules between sections, each with a place and a remedy."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import final

from wavalign.engine.compile.ahead import ahead_problems
from wavalign.engine.compile.geometry import nearest_multiples
from wavalign.engine.compile.guard_checks import guard_problems
from wavalign.engine.compile.lowering import unread_options
from wavalign.engine.compile.names import name_problems
from wavalign.engine.compile.offloading import check_offload
from wavalign.engine.compile.operators import DEMONSTRATIONS, POINTS, ROLLOUTS
from wavalign.engine.compile.pair_checks import check_pairs, reads_model
from wavalign.engine.compile.plan import Cluster, TermPlan
from wavalign.engine.compile.reward_checks import (
    Noted,
    best_of_problems,
    declared_needs,
    held_out_problems,
    judging_problems,
    range_problems,
)
from wavalign.plugins.api import Gate, Metric, Reward
from wavalign.plugins.registry import Registry
from wavalign.schema.evaluation import Watched
from wavalign.schema.marks import Path
from wavalign.schema.model import AdapterSection
from wavalign.schema.pairs import rewards_asked
from wavalign.schema.runtime import RuntimeSection
from wavalign.schema.stage import Stage
from wavalign.schema.stage_kinds import KINDS
from wavalign.schema.translation import did_you_mean

Note = Callable[[str, str, Path, str], None]
"""Takes a problem's code, message, path and hint."""

ADD_CODEC = "add model.codec, which turns audio tokens into sound"
"""What helps where something listens."""
WHOLE_GROUPS = ("embed", "text_head", "audio_head")
"""Groups whose matrices are looked up or multiplied tile by tile, never called as a layer."""


def watch_problem(watched: Watched, stage: Stage) -> str:
    """Why a stage does not measure a value between its steps; empty where it does."""
    split = watched.metric.split("/", 1)[0]
    if not stage.measures or split not in stage.data.evaluation:
        return f"`{watched.metric}` is of the split `{split}`, and nothing is measured on it"
    return "" if stage.evaluation.every else f"`{watched.metric}` is watched, and nothing is measured between steps"


def measured_in_round(watched: Watched, stage: Stage) -> bool:
    """Whether a stage leaves a measurement of a value's split at its end, or on the way there."""
    evaluation, split = stage.evaluation, watched.metric.split("/", 1)[0]
    kind = KINDS[stage.type]
    when = evaluation.at_end or evaluation.every > 0 or stage.steps == 0 or not kind.learns
    return stage.measures and split in stage.data.evaluation and when


@final
class StageChecks:
    """What the sections of one stage demand of each other."""

    def __init__(
        self,
        stage: Stage,
        terms: Sequence[TermPlan],
        registry: Registry,
        note: Note,
        *,
        broken: frozenset[str] = frozenset(),
    ) -> None:
        """`broken` names sections of which something was taken out: rules that read one of them say nothing."""
        self.stage, self.terms, self.registry, self.note, self._broken = stage, terms, registry, note, broken

    def run(self, *, weights: bool) -> None:
        """Note every rule that is broken; `weights` says that the stage starts from the model of an earlier one."""
        if self.whole("model", "start"):
            self._model(weights)
        for path, message, hint in name_problems(self.stage):
            self.note("bad_value", message, path, hint)
        _RULES[self.stage.type](self)

    def train(self) -> None:
        """A stage that learns, or measures alone."""
        if self.stage.stop_early is not None and self.whole("evaluation", "data", "stop_early"):
            self._watched(self.stage.stop_early, ("stop_early", "metric"))
        if self.stage.steps == 0:
            if self.whole("evaluation", "model", "data", "steps"):
                self._only_measures()
            return
        if self.whole("objective") and self.stage.objective is None:
            hint = "add e.g. `objective: {terms: {sft: {loss: {type: cross_entropy}}}}`"
            self.note("missing_section", "a train stage needs an objective", ("objective",), hint)
        if self.whole("data", "objective", "rewards", "batch"):
            self._data()
        if self.whole("rollout"):
            self._rollout()
        if self.whole("rewards", "model", "objective", "data"):
            self._rewards()
        if self.whole("evaluation", "model", "data"):
            self._evaluation()

    def reward_model(self) -> None:
        """A stage that learns which answers are preferred."""
        if self.stage.steps == 0 and self.whole("steps"):
            message = "a reward_model stage without steps learns nothing, and leaves no reward model"
            self.note("bad_value", message, ("steps",), "raise steps")
            return
        if self.whole("data"):
            self._noted(held_out_problems(self.stage))
        if self.whole("objective", "data"):
            self._noted(judging_problems(self.terms))
        self.train()

    def _noted(self, problems: Iterable[Noted]) -> None:
        for code, message, path, hint in problems:
            self.note(code, message, path, hint)

    def _only_measures(self) -> None:
        """A stage without steps."""
        if not self.stage.evaluation.metrics:
            message, hint = "the stage neither trains nor measures", "raise steps, or add evaluation.metrics"
            self.note("bad_value", message, ("steps",), hint)
        self._evaluation()

    def _watched(self, watched: Watched, path: Path) -> None:
        """A value that decides something between steps must be measured between steps."""
        problem = watch_problem(watched, self.stage)
        if problem:
            hint = "set evaluation.every, and name a value of a split of data.evaluation, e.g. heldout/text_accuracy"
            self.note("bad_value", problem, path, hint)

    def whole(self, *sections: str) -> bool:
        """Whether nothing was taken out of any of these sections, and the kind of stage is known."""
        return not self._broken & {"type", *sections}

    def _model(self, weights: bool) -> None:
        model = self.stage.model
        if model.checkpoint is not None and model.preset is not None:
            self.note("conflict", "give checkpoint or preset, not both", ("model", "preset"), "remove one of the two")
        if model.checkpoint is None and model.preset is None and reads_model(self.stage) and not weights:
            hint = "checkpoint: path/to/folder, or preset: tiny with a tokenizer"
            self.note("missing_key", "the model has neither checkpoint nor preset", ("model",), hint)
        if model.nar is not None and model.codec is None:
            message = "a nar completes frames of a codec, and there is none"
            self.note("missing_section", message, ("model", "nar"), "add model.codec")
        if model.adapter is not None and KINDS[self.stage.type].learns:
            self._adapter(model.adapter)

    def _adapter(self, adapter: AdapterSection) -> None:
        path: Path = ("model", "adapter")
        for group in adapter.groups:
            if group in WHOLE_GROUPS:
                message = f"{group} cannot be adapted: its matrix is used outside its layer"
                hint = f"train it in full: also_train: [{group}]"
                self.note("bad_value", message, (*path, "groups"), hint)
            if group in adapter.also_train:
                message = f"{group} is adapted and also trained in full"
                self.note("conflict", message, (*path, "also_train"), "name it in one of the two")
        for group in self.stage.model.freeze or ():
            if group in (*adapter.groups, *adapter.also_train):
                message = f"{group} is frozen and named by the adapter"
                hint = "an adapter freezes everything else by itself; remove freeze"
                self.note("conflict", message, ("model", "freeze"), hint)

    def generate(self) -> None:
        """A stage that answers prompts."""
        if self.whole("data") and self.stage.data.prompts is None:
            hint = "add data.prompts: what is answered, e.g. {type: jsonl, path: questions.jsonl}"
            self.note("missing_section", "generate needs data.prompts", ("data", "prompts"), hint)

    def evaluate(self) -> None:
        """A stage that measures."""
        if not self.whole("evaluation", "model", "data"):
            return
        if not self.stage.evaluation.metrics:
            hint = "add evaluation.metrics, e.g. `{text: {type: text_accuracy}}`"
            self.note("missing_section", "evaluate needs evaluation.metrics", ("evaluation", "metrics"), hint)
        self._evaluation()

    def fit_codec(self) -> None:
        """A stage that fits a codec."""
        if not self.whole("model", "data"):
            return
        if self.stage.model.codec is None:
            self.note("missing_section", "fit_codec needs model.codec", ("model", "codec"), "add codec: {type: ...}")
        if self.stage.data.demonstrations is None:
            hint = "add data.demonstrations: the sound the codec is fitted on"
            self.note("missing_section", "fit_codec needs data.demonstrations", ("data", "demonstrations"), hint)

    def _data(self) -> None:
        data, live = self.stage.data, [term for term in self.terms if term.lives]
        for name in (each for each in self.stage.batch.families if each not in data.families):
            message, hint = f"there is no data.families.{name}", did_you_mean(name, tuple(data.families))
            self.note("unknown_key", message, ("batch", "families", name), hint or "add it, or leave this out")
        if self.terms and not live:
            message, hint = "no term has a weight and a share above 0, so nothing is learned", "raise one of them"
            self.note("bad_value", message, ("objective", "terms"), hint)
        for term in live:
            name = term.brought_by or term.name
            path: Path = ("objective", "terms", name)
            if term.family == ROLLOUTS and data.prompts is None:
                hint = "add data.prompts, e.g. {type: jsonl, path: questions.jsonl}"
                message = f"term `{name}` learns from rollouts, and data.prompts is not there"
                self.note("missing_section", message, path, hint)
            elif term.family not in (ROLLOUTS, *data.learned):
                heading = f"data.{term.family}" if term.family == DEMONSTRATIONS else f"data.families.{term.family}"
                hint = f"add {heading}, e.g. {{type: jsonl, path: gold.jsonl}}"
                message = f"term `{name}` learns from {term.family}, and {heading} is not there"
                self.note("missing_section", message, path, hint)
            if POINTS.keys() & set(term.needs) and self.stage.batch.families.get(term.family) == 1:
                hint = "two or more: an answer is compared with what is said to other questions of the step"
                message = f"term `{name}` needs a reference point, and a step has one dialogue of {term.family}"
                self.note("bad_value", message, ("batch", "families", term.family), hint)
            asked = next((each for each in ("advantages", "returns") if each in term.needs), None)
            if asked is not None and not self.stage.rewards:
                hint = "add rewards, e.g. `rewards: {answer: {type: answer_match}}`"
                message = f"term `{name}` needs {asked}, and there are no rewards"
                self.note("missing_section", message, path, hint)

    def _rollout(self) -> None:
        self._noted(ahead_problems(self.stage))
        if self.stage.rollout.resample is not None and not self.stage.rewards and self.whole("rewards"):
            message = "rollout.resample replaces groups whose rewards are equal, and there are no rewards"
            self.note("missing_section", message, ("rollout", "resample"), "add rewards, or remove it")
        for name, stream in self.stage.rollout.streams.items():
            path: Path = ("rollout", "streams", name)
            if stream.temperature == 0:
                message, hint = "rollouts are drawn at a temperature above 0", "only evaluation.sampling may be greedy"
                self.note("bad_value", message, (*path, "temperature"), hint)
            if stream.repetition_penalty != 1:
                message = "a repetition penalty draws from another distribution than the one that is learned"
                hint = "leave it at 1; evaluation.sampling.streams may have one"
                self.note("bad_value", message, (*path, "repetition_penalty"), hint)

    def _rewards(self) -> None:
        objective = self.stage.objective
        self._asked(self.stage.rewards)
        if objective is None or objective.gate is None:
            return
        gate = self._plugin("gate", objective.gate.type)
        if gate is None or not issubclass(gate, Gate) or not gate.needs_rewards or not self._gate_is_used():
            return
        for there, what in ((self.stage.rewards, "rewards"), (self.stage.data.prompts, "data.prompts")):
            if not there:
                hint = f"add {what}, or use {{type: fixed, value: 0.5}}"
                message = f"the gate reads the rewards of rollouts, and {what} is not there"
                self.note("missing_section", message, ("objective", "gate"), hint)

    def listen(self, names: Iterable[str]) -> None:
        """Rewards that listen need what makes sound of codes."""
        for name, plugin in self._known(names):
            if "waveform" in declared_needs(self.stage.rewards[name], plugin) and self.stage.model.codec is None:
                self.note("missing_section", _listens(name), ("rewards", name), ADD_CODEC)

    def guards(self, names: Iterable[str]) -> None:
        """Guards among rewards have something to guard."""
        self._noted(guard_problems(self.stage, dict(self._known(names))))

    def _gate_is_used(self) -> bool:
        return any(term.share.moves and term.lives for term in self.terms)

    def _evaluation(self) -> None:
        stage = self.stage
        self._best_of()
        if stage.evaluation.metrics and not stage.data.evaluation:
            hint = "add data.evaluation, or remove the metrics"
            self.note("missing_section", "there are metrics and no data.evaluation", ("evaluation", "metrics"), hint)
        for name, metric in stage.evaluation.metrics.items():
            plugin = self._plugin("metric", metric.type)
            listens = plugin is not None and issubclass(plugin, Metric) and "waveform" in plugin.needs
            if listens and stage.model.codec is None:
                path: Path = ("evaluation", "metrics", name)
                self.note("missing_section", f"metric `{name}` listens, and there is no codec", path, "add model.codec")

    def _best_of(self) -> None:
        """Rewards that choose are looked at with those of the steps, where there are any."""
        stage = self.stage
        if not self.whole("rewards"):
            return
        self._noted(best_of_problems(stage))
        if KINDS[stage.type].learns and stage.steps:
            return
        if stage.choosing:
            self._asked(stage.choosing)

    def _asked(self, names: Iterable[str]) -> None:
        """Rewards that a stage asks."""
        for name, plugin in self._known(names):
            self._noted(range_problems(self.stage, name, plugin))
        self.guards(names)
        self.listen(names)

    def _known(self, names: Iterable[str]) -> Iterator[tuple[str, type[Reward]]]:
        for name in (each for each in names if each in self.stage.rewards):
            plugin = self._plugin("reward", self.stage.rewards[name].type)
            if plugin is not None and issubclass(plugin, Reward):
                yield name, plugin

    def _plugin(self, kind: str, type_: str) -> type | None:
        return self.registry.get(kind, type_) if type_ in self.registry.types(kind) else None


def _listens(name: str) -> str:
    return f"reward `{name}` listens, and there is no codec"


def _pairs(checks: StageChecks) -> None:
    """A stage that pairs answers."""
    stage = checks.stage
    if checks.whole("pairs", "data", "rewards", "model"):
        check_pairs(stage, checks.note)
        asked = rewards_asked(stage.pairs, stage.rewards)
        checks.listen(asked)
        if asked:
            checks.guards(asked)


_RULES: Mapping[str, Callable[[StageChecks], None]] = {
    "train": StageChecks.train,
    "fit_codec": StageChecks.fit_codec,
    "generate": StageChecks.generate,
    "pairs": _pairs,
    "reward_model": StageChecks.reward_model,
    "evaluate": StageChecks.evaluate,
}
"""What a kind of stage demands of its sections."""


def check_runtime(runtime: RuntimeSection, cluster: Cluster, note: Note) -> None:
    """Rules between the runtime section and the machine."""
    check_offload(runtime.engine, note)
    for name in unread_options(runtime.engine):
        where = "plain" if runtime.engine.type == "plain" else f"at ZeRO stage {runtime.engine.zero}"
        note(
            "conflict",
            f"the engine is {where} and reads no {name}",
            ("runtime", "engine", "options", name),
            "remove it",
        )
    if runtime.keep_every and runtime.checkpoint_every and runtime.keep_every % runtime.checkpoint_every:
        nearest = nearest_multiples(runtime.keep_every, runtime.checkpoint_every)
        message = f"keep_every is {runtime.keep_every}; checkpoints come every {runtime.checkpoint_every} steps"
        note("conflict", message, ("runtime", "keep_every"), f"a multiple of checkpoint_every: {nearest}")
    if cluster.nodes:  # machines elsewhere have devices of their own
        _check_nodes(runtime, cluster, note)
        return
    if runtime.device == "cuda" and cluster.gpus == 0:
        note("no_device", "device is cuda, and this machine has no GPU", ("runtime", "device"), "use device: auto")
    count = runtime.processes
    if count != "auto" and cluster.gpus and runtime.device != "cpu" and count > cluster.gpus:
        hint = f"at most {cluster.gpus}, or `auto`"
        note("no_device", f"{count} processes and {cluster.gpus} GPUs", ("runtime", "processes"), hint)


def _check_nodes(runtime: RuntimeSection, cluster: Cluster, note: Note) -> None:
    """Rules between the runtime section and the machines that a hostfile, an allocation or a launcher names."""
    if runtime.nodes not in ("auto", cluster.nodes):
        message = f"the recipe wants {runtime.nodes} nodes, and there are {cluster.nodes}"
        hint = f"`auto` takes those there are; or {cluster.nodes}, or as many lines of the hostfile (nodes of the job)"
        note("nodes", message, ("runtime", "nodes"), hint)
    if runtime.processes != "auto" and cluster.slots and runtime.processes > cluster.slots:
        message = f"{runtime.processes} processes on each node, and they have room for {cluster.slots}"
        note("nodes", message, ("runtime", "processes"), f"at most {cluster.slots}, or `auto`")
