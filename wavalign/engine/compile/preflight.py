"""What a dry run looks at outside the recipe: data, weights, masks, disk, devices, memory. It starts nothing."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, Protocol, TypeVar, final

import torch

from wavalign.engine.compile.adapter import WeightCounts, count_weights, trained_line
from wavalign.engine.compile.components import read_headings, there_before
from wavalign.engine.compile.half_precision import WORTH, cpu_products
from wavalign.engine.compile.memory import estimate_memory
from wavalign.engine.compile.memory_sizes import RowSizes
from wavalign.engine.compile.operators import ROLLOUTS
from wavalign.engine.compile.plan import MARGIN, Cluster, Memory, Plan, StagePlan, TermPlan
from wavalign.engine.compile.stage_links import codec_before
from wavalign.engine.compile.streams import missing_heads, unknown_streams
from wavalign.errors import DataError, PluginError, WavAlignError
from wavalign.plugins.api import Architecture, Mask
from wavalign.plugins.batch import Dialogue, TokenSequence
from wavalign.schema.component import WeightedComponent
from wavalign.storage.tensors import StoredTensor, check_fit, check_types, check_values

HEAD = 32
"""Records of each heading that are read, encoded and counted."""
FEWER_BYTES = (
    "lower batch.micro_batch, set runtime.gradient_checkpointing, raise runtime.engine.zero, use more processes,"
    " or train an adapter (model.adapter)"
)
T = TypeVar("T")
Level = Literal["ok", "warning", "error"]


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    stage: str
    what: str
    level: Level
    message: str
    hint: str = ""


@final
@dataclass(frozen=True, slots=True)
class Preflight:
    """Everything that was looked at."""

    findings: tuple[Finding, ...]
    memory: tuple[tuple[str, Memory], ...]
    """Per train stage, with the lengths of the data seen."""
    sizes: Mapping[str, tuple[WeightCounts, RowSizes]]
    """What memory was estimated from, by stage."""

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")


class Tools(Protocol):
    """What preflight needs constructed; `run/builder.py` is the only one to construct, and hands it in."""

    def architecture(self, stage: StagePlan) -> Architecture:
        """The stage's architecture."""

    def tensors(self, stage: StagePlan) -> Mapping[str, StoredTensor] | None:
        """Headers of the stage's checkpoint, no tensor read; None where only fetching it would tell."""

    def head(self, sources: Sequence[WeightedComponent], count: int) -> tuple[list[Dialogue], int | None]:
        """`count` dialogues of a heading and how many it has; None where that would take reading a stream."""

    def rows(
        self, stage: StagePlan, architecture: Architecture, dialogues: Sequence[Dialogue]
    ) -> list[tuple[TokenSequence, TokenSequence | None]]:
        """Prompt and target of each dialogue, as tokens."""

    def mask(self, term: TermPlan) -> Mask:
        """The term's mask."""

    def missing_files(self, stage: StagePlan) -> Sequence[tuple[str, str]]:
        """What options name and is not there, with what to do."""

    def records(self, stage: StagePlan, heading: str, architecture: Architecture | None) -> "RecordsSeen | None":
        """All records of a heading, looked at; None for one that no run of the stage reads."""


class RecordsSeen(Protocol):
    """What looking at every record found."""

    @property
    def records(self) -> int: ...
    @property
    def streams(self) -> int: ...
    @property
    def remote(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def bad(self) -> int: ...
    @property
    def problems(self) -> tuple[DataError, ...]: ...


def preflight(plan: Plan, tools: Tools, cluster: Cluster, *, folder: str) -> Preflight:
    """Look at everything a run of `plan` would touch; problems become findings, not exceptions."""
    inspection = _Inspection(plan, tools, cluster)
    inspection.disk(folder)
    inspection.precision()
    inspection.nodes(folder)
    for stage in plan.stages:
        inspection.stage(stage)
    return Preflight(tuple(inspection.findings), tuple(inspection.memory), inspection.sizes)


@final
class _Inspection:
    """Collects findings."""

    def __init__(self, plan: Plan, tools: Tools, cluster: Cluster) -> None:
        self.plan, self.tools, self.cluster = plan, tools, cluster
        self.findings: list[Finding] = []
        self.memory: list[tuple[str, Memory]] = []
        self.sizes: dict[str, tuple[WeightCounts, RowSizes]] = {}
        self._sizes: dict[str, int | None] = {}
        """Dialogues of the present stage's headings; None of a stream."""
        self._singles = 1
        """Most rows that one of them comes to."""

    def nodes(self, folder: str) -> None:
        """What is taken for granted of several machines."""
        if self.plan.nodes == 1:
            return
        each = self.plan.processes_per_node
        counts = f"{self.plan.nodes} nodes x {each} process{'es' * (each != 1)}, {self.plan.processes} in all"
        self._add("", "nodes", "ok", f"{counts}; {folder}, this Python and the recipe's files must be on all of them")

    def disk(self, folder: str) -> None:
        """Space where the run will write."""
        free = shutil.disk_usage(folder).free
        level: Level = "ok" if free > 2**30 else "error"
        hint = "" if level == "ok" else "free some space or set runtime.folder"
        self._add("", "disk", level, f"{free / 2**30:.1f} GiB free at {folder}", hint)

    def precision(self) -> None:
        """Whether a CPU that computes is one for the precision that is asked for."""
        if self.plan.device != "cpu" or not any(stage.kind.network for stage in self.plan.stages):
            return
        products = cpu_products()
        if self.plan.runtime.precision == "fp16":
            hint = "fp16 is for GPUs that have no bfloat16; keep runtime.precision: float32 on a CPU"
            self._add("", "precision", "warning", "fp16 on a CPU is slow", hint)
        elif self.plan.runtime.precision == "bf16" and products.ratio < 1:
            self._add("", "precision", "warning", f"bf16 on this CPU: {products.text}", products.advice)
        elif self.plan.runtime.precision == "float32" and products.ratio >= WORTH:
            self._add("", "precision", "ok", f"float32; {products.advice} ({products.text})")

    def stage(self, stage: StagePlan) -> None:
        """Data, weights, masks and memory of one stage."""
        self._sizes, self._singles = {}, 1
        for message, hint in self.tools.missing_files(stage):
            self._add(stage.name, "files", "error", message, hint)
        opened = {name: self._head(stage, name, sources) for name, sources in self._headings(stage).items()}
        heads = {name: head for name, head in opened.items() if head is not None}
        for each in stage.warnings:
            self._add(stage.name, each.path, "warning", each.message, each.hint)
        architecture = None
        if stage.kind.network:
            architecture = self._try(stage.name, "model", lambda: self.tools.architecture(stage))
        heads = {name: head for name, head in heads.items() if self._records(stage, name, architecture)}
        if architecture is None:
            return
        space = architecture.tokens
        for problem in (*unknown_streams(stage.stage, space.streams), *missing_heads(stage.stage, space)):
            self._add(stage.name, problem.path, "error", problem.message, problem.hint)
        self._weights(stage, architecture)
        rows: dict[str, list[tuple[TokenSequence, TokenSequence | None]]] = {}
        if codec_before(self.plan.stages, stage):
            self._add(stage.name, "tokens", "ok", "counted when the codec of an earlier stage is fitted")
            heads = {}
        for name, dialogues in heads.items():
            found = self._try(
                stage.name,
                f"{name} as tokens",
                lambda d=dialogues: self.tools.rows(stage, architecture, d),  # type: ignore[misc]
            )
            rows[name] = [each for each in found or [] if _stays(stage, name, *each)]
            self._singles = max(self._singles, *(len(each.singles) for each in dialogues), 1)
        if stage.geometry is not None:
            self._masks(stage, rows)
        self._estimate(stage, architecture, rows)

    def _headings(self, stage: StagePlan) -> dict[str, Sequence[WeightedComponent]]:
        """Headings that the stage will read, with the sources that are there; the others are noted."""
        data, found = stage.stage.data, dict[str, Sequence[WeightedComponent]]()
        wanted = read_headings(stage)
        if stage.kind.learns:
            wanted |= {f"evaluation.{name}": sources for name, sources in data.evaluation.items()}
        for name, sources in wanted.items():
            for each in (source.stage for source in sources if source.stage is not None):
                self._add(stage.name, f"data.{name}", "ok", f"written by stage {each}, and looked at when it is there")
            if there := there_before(sources):
                found[name] = there
        return found

    def _head(self, stage: StagePlan, name: str, sources: Sequence[WeightedComponent]) -> list[Dialogue] | None:
        found = self._try(stage.name, f"data.{name}", lambda: self.tools.head(sources, HEAD))
        if found is None:
            return None
        dialogues, total = found
        self._sizes[name] = total
        size = f"{total} dialogues" if total is not None else "a stream"
        self._add(stage.name, f"data.{name}", "ok", f"{size}, {len(dialogues)} read")
        return dialogues

    def _records(self, stage: StagePlan, name: str, architecture: Architecture | None) -> bool:
        """Whether every record of a heading can be used; what is wrong is noted."""
        what = f"records of {name}"
        seen = self._try(stage.name, what, lambda: self.tools.records(stage, name, architecture))
        if seen is None:
            return True
        for problem in seen.problems:
            self._add(stage.name, what, "error", problem.message, problem.hint)
        if seen.bad > len(seen.problems):
            self._add(stage.name, what, "error", f"{seen.bad - len(seen.problems)} more of {seen.records} are bad")
        parts = [f"{seen.records} looked at"] if seen.records else []
        parts += [f"{seen.streams} streams cannot be looked at whole before they are read"] if seen.streams else []
        parts += [f"{seen.remote} sound files lie elsewhere and were not looked for"] if seen.remote else []
        parts += [f"{seen.dropped} left out as too long (data.too_long: drop)"] if seen.dropped else []
        if not seen.bad:
            self._add(stage.name, what, "warning" if seen.streams else "ok", "; ".join(parts))
        return not seen.bad

    def _weights(self, stage: StagePlan, architecture: Architecture) -> None:
        checkpoint = stage.stage.model.checkpoint
        if checkpoint is None:
            self._add(stage.name, "weights", "ok", "random, or those of the stage before")
            return
        wanted = architecture.parameter_shapes()

        def fits() -> str | None:
            stored = self.tools.tensors(stage)
            if stored is None:
                message = f"{checkpoint} holds pickles; whether they fit shows when they are fetched"
                self._add(stage.name, "weights", "warning", message)
                return None
            check_fit(stored, wanted, architecture.ignored_keys, where=checkpoint)
            with torch.device("meta"):
                lasting = architecture.empty_policy().state_dict()
            floating = [name for name in wanted if name in lasting and lasting[name].is_floating_point()]
            check_types(stored, floating, where=checkpoint)
            return check_values(stored, floating, where=checkpoint)

        unread = self._try(stage.name, "weights", fits)
        if unread is not None:
            count = sum(torch.Size(shape).numel() for shape in wanted.values())
            message = f"{len(wanted)} tensors, {count / 1e6:.2f} M parameters"
            self._add(stage.name, "weights", "ok", f"{message}; {unread}" if unread else message)

    def _masks(self, stage: StagePlan, rows: dict[str, list[tuple[TokenSequence, TokenSequence | None]]]) -> None:
        """How many tokens of gold answers each term would train; for rollouts they stand in for the samples."""
        for term in (each for each in stage.terms if each.lives):
            sampled = term.family == ROLLOUTS
            heading = "prompts" if sampled else term.family
            targets = [target for _, target in rows.get(heading, []) if target is not None]
            if not targets:
                if sampled:
                    message = "its prompts have no gold answers to count on; rollouts will show"
                    self._add(stage.name, f"term {term.name}", "ok", message)
                continue
            mask = self.tools.mask(term)
            counts = [int((mask.weights(each.roles[None]) > 0).sum()) for each in targets]
            total, empty = sum(each.roles.numel() for each in targets), counts.count(0)
            text = f"{sum(counts)} of {total} tokens of {len(targets)} answers"
            if empty:
                hint = "look at its tokens: and at what the data's targets hold"
                # A policy may answer in tokens its gold answers lack.
                level: Level = "error" if not sampled and empty == len(targets) else "warning"
                self._add(stage.name, f"term {term.name}", level, f"{text}; none in {empty} answers", hint)
            else:
                self._add(stage.name, f"term {term.name}", "ok", text)

    def _estimate(
        self,
        stage: StagePlan,
        architecture: Architecture,
        rows: dict[str, list[tuple[TokenSequence, TokenSequence | None]]],
    ) -> None:
        sizes = self._row_sizes(stage, architecture, rows)
        weights = self._try(stage.name, "trained", lambda: count_weights(stage.stage.model, architecture))
        if weights is None:
            return
        if stage.kind.learns:
            self._add(stage.name, "trained", "ok", trained_line(stage.stage.model, weights))
        memory = estimate_memory(
            architecture.dimensions(),
            weights=weights,
            stage=stage,
            runtime=self.plan.runtime,
            row=sizes,
            cluster=self.cluster,
        )
        self.memory.append((stage.name, memory))
        self.sizes[stage.name] = (weights, sizes)
        levels: dict[str, Level] = {"yes": "ok", "tight": "warning", "no": "error"}
        level, hint = levels[memory.fits], "" if memory.fits == "yes" else FEWER_BYTES
        message = f"about {memory.total / 2**30:.2f} of {memory.capacity / 2**30:.1f} GiB a process"
        if memory.fits == "tight":
            message += f": less than {MARGIN:.0%} to spare, so that it may not fit"
        again = sum(row.bytes for row in memory.rows if row.phase in ("train", "learn", "update"))
        on_host = not any(row.name == "CUDA" for row in memory.rows)
        if on_host and memory.fits == "yes" and 0 < memory.capacity < memory.total + again:
            message += f"; the allocator may hold up to {again / 2**30:.2f} GiB more between tensors, which do not fit"
            level, hint = "warning", "set MALLOC_MMAP_THRESHOLD_=1048576 in the environment, or lower batch.micro_batch"
        self._add(stage.name, "memory", level, message, hint)

    def _row_sizes(
        self,
        stage: StagePlan,
        architecture: Architecture,
        rows: dict[str, list[tuple[TokenSequence, TokenSequence | None]]],
    ) -> RowSizes:
        pairs = [pair for each in rows.values() for pair in each]
        longest = stage.stage.rollout.max_new_tokens
        limit, ranks = stage.stage.evaluation.limit, max(1, self.plan.processes)
        held_out = [size or 0 for name, size in self._sizes.items() if name.startswith("evaluation.")]
        most = max(held_out, default=0)
        return RowSizes(
            len(architecture.tokens.streams),
            prompt=max((row.length for row, _ in pairs), default=0),
            answer=max(
                longest if stage.graph.gives("rollouts") else 0,
                max((row.length for _, row in pairs if row is not None), default=0),
            ),
            sampled=longest,
            singles=self._singles,
            held_out=ceil((most if limit is None else min(most, limit)) / ranks),
        )

    def _try(self, stage: str, what: str, look: Callable[[], T]) -> T | None:
        try:
            return look()
        except WavAlignError as error:
            if isinstance(error, PluginError) and error.placed:
                raise  # its code failed: that is no finding about the world around it
            self._add(stage, what, "error", error.message, error.hint)
            return None

    def _add(self, stage: str, what: str, level: Level, message: str, hint: str = "") -> None:
        self.findings.append(Finding(stage, what, level, message, hint))


def _stays(stage: StagePlan, heading: str, prompt: TokenSequence, target: TokenSequence | None) -> bool:
    """Whether a row is one that a run may see: not left out as too long."""
    data = stage.stage.data
    if heading.startswith("evaluation.") or data.too_long != "drop":
        return True
    answer = target.length if target is not None and heading in data.learned else 0
    pairs = ((prompt.length, data.max_prompt_tokens), (answer, data.max_target_tokens))
    return all(bound is None or length <= bound for length, bound in pairs)
