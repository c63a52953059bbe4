"""A plan as a tree of lines, as a Mermaid chart, and against another plan."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, final

from wavalign.engine.compile.adapter import adapter_line
from wavalign.engine.compile.components import read_headings
from wavalign.engine.compile.plan import Geometry, Graph, Memory, MemoryRow, Operator, Plan, StagePlan, TermPlan
from wavalign.schema.pairs import rewards_asked

_SCOPES = {"collect": "once a step", "update": "once an update", "micro_batch": "once a micro-batch"}


@final
@dataclass(frozen=True, slots=True)
class Branch:
    """A line and the branches under it."""

    text: str
    under: tuple["Branch", ...] = ()


def tree(plan: Plan, trained: Mapping[str, str] | None = None) -> str:
    """The plan for a reader; `trained` says by stage what an adapter comes to, where that was counted."""
    each = plan.processes_per_node
    processes = f"{each} process{'es' if each != 1 else ''}"
    if plan.nodes > 1:
        processes = f"{plan.nodes} nodes x {processes}"
    where = f"{processes} on {plan.device}, {plan.runtime.precision}"
    head = f"{plan.name}  seed {plan.seed}, {where}, plan {plan.fingerprint}"
    return "\n".join(_lines(Branch(head, tuple(_stage(stage, trained or {}) for stage in plan.stages))))


def mermaid(plan: Plan) -> str:
    """A flow chart: one box per stage, one node per operator, an edge from who gives a value to who needs it."""
    lines = ["flowchart TD"]
    for number, stage in enumerate(plan.stages):
        lines.append(f'  subgraph s{number}["{stage.name}"]')
        operators = stage.graph.operators
        makers = {value: each.name for each in operators for value in each.gives}
        ids = {each.name: f"s{number}n{index}" for index, each in enumerate(operators)}
        lines += [f'    {ids[each.name]}["{each.name}"]' for each in operators]
        for each in operators:
            givers = dict.fromkeys((makers[value], value) for value in each.needs)
            lines += [f'    {ids[giver]} -->|"{value}"| {ids[each.name]}' for giver, value in givers]
        lines.append("  end")
    lines += [f"  s{number} --> s{number + 1}" for number in range(len(plan.stages) - 1)]
    return "\n".join(lines)


def memory_lines(memory: Memory, lead: str = "") -> list[str]:
    """The estimate as a tree."""
    branch = _memory(memory)
    return list(_lines(Branch(lead + branch.text, branch.under)))


def differences(old: Plan, new: Plan) -> list[str]:
    """`path: old -> new` for every value that differs, in the order of the new plan."""
    before, after = dict(_flat(old.model_dump(mode="json"))), dict(_flat(new.model_dump(mode="json")))
    changed = [key for key in after if key not in before or before[key] != after[key]]
    gone = [key for key in before if key not in after]
    lines = [
        f"~ {key}: {before[key]} -> {after[key]}" if key in before else f"+ {key}: {after[key]}" for key in changed
    ]
    return lines + [f"- {key}: {before[key]}" for key in gone]


def _stage(plan: StagePlan, trained: Mapping[str, str]) -> Branch:
    span = f"steps {plan.first_step + 1} to {plan.first_step + plan.steps}" if plan.steps else plan.stage.type
    parts = _read(plan)
    parts += [Branch("terms", tuple(_term(term) for term in plan.terms))] if plan.terms else []
    parts += _KINDS[plan.stage.type](plan) if plan.stage.type in _KINDS else []
    parts += _best_of(plan)
    if plan.stage.model.adapter is not None and plan.kind.learns:
        parts.append(Branch(f"trained  {trained.get(plan.name, adapter_line(plan.stage.model.adapter))}"))
    if plan.geometry is not None:
        parts.append(_geometry(plan.geometry))
    parts += _graph(plan.graph)
    if plan.memory is not None:
        parts.append(_memory(plan.memory))
    if plan.deepspeed is not None:
        zero = plan.deepspeed["zero_optimization"]["stage"]
        parts.append(Branch(f"DeepSpeed, ZeRO {zero} (the whole configuration: --format json)"))
    parts += [Branch(f"warning  {each.path}: {each.message}", (Branch(each.hint),)) for each in plan.warnings]
    return Branch(f"stage {plan.name}  {span}", tuple(parts))


def _read(plan: StagePlan) -> list[Branch]:
    """Headings of data that earlier stages write."""
    found = []
    for heading, sources in read_headings(plan).items():
        names = ", ".join(each.stage for each in sources if each.stage is not None)
        found += [Branch(f"data.{heading}  written by stage {names}")] if names else []
    return found


def _generate(plan: StagePlan) -> list[Branch]:
    """What a stage writes."""
    rollout, codec, limit = plan.stage.rollout, plan.stage.model.codec, plan.stage.generate.limit
    prompts = "each prompt" if limit is None else f"{limit} prompts"
    drawn = f"temperature {rollout.temperature:g}, top_k {rollout.top_k}, top_p {rollout.top_p:g}"
    sound = f"with sound by {codec.type}" if codec is not None else "as text"
    said = f"{prompts} x {rollout.group_size} answers of up to {rollout.max_new_tokens} tokens, {drawn}, {sound}"
    return [Branch(f"writes  {said}"), Branch(f"leaves  stages/{plan.name}/data")]


def _evaluate(plan: StagePlan) -> list[Branch]:
    """What a stage measures."""
    section = plan.stage
    metrics, splits = (", ".join(names) for names in (section.evaluation.metrics, section.data.evaluation))
    return [Branch(f"measures  {metrics} on {splits}")]


def _pairs(plan: StagePlan) -> list[Branch]:
    """What a stage makes of answers."""
    section = plan.stage.pairs
    asked = ", ".join(rewards_asked(section, plan.stage.rewards))
    said = f"{section.type}, ordered by {asked}" if asked else section.type
    merged = "" if section.merge == "none" else f", with {section.merge} earlier rounds'"
    return [Branch(f"pairs  {said}{merged}"), Branch(f"leaves  stages/{plan.name}/data")]


def _reward_model(plan: StagePlan) -> list[Branch]:
    """What a stage measures and leaves."""
    splits = ", ".join(plan.stage.data.evaluation)
    return [
        Branch(f"measures  accuracy and calibration on the pairs of {splits}"),
        Branch(f"leaves  stages/{plan.name}/reward_model"),
    ]


def _best_of(plan: StagePlan) -> list[Branch]:
    """What measuring the best of several answers costs."""
    best, names = plan.stage.evaluation.best_of, plan.stage.choosing
    if best is None or not names:
        return []
    cost = f"{best.n} times the sampling, and {best.n} calls of each reward a dialogue"
    return [Branch(f"measures the best of {best.n} answers by {', '.join(names)}: {cost}")]


_KINDS: Mapping[str, Callable[[StagePlan], list[Branch]]] = {
    "generate": _generate,
    "pairs": _pairs,
    "evaluate": _evaluate,
    "reward_model": _reward_model,
}
"""What is shown of a stage beside its graph."""


def _term(term: TermPlan) -> Branch:
    parts = [
        f"{term.name}: {term.loss.type} over {term.mask.type}({_options(term.mask.params)})",
        f"share {term.share}",
    ]
    parts.append(f"weight {term.weight:g}")
    parts.append(f"on {term.family}, {_aggregation(term)}")
    if term.heads != "own":
        parts.append(f"heads {term.heads}")
    if term.brought_by:
        parts.append(f"brought by {term.brought_by}")
    return Branch(", ".join(parts))


def _aggregation(term: TermPlan) -> str:
    """What the term's values are averaged over, in words."""
    return f"{term.aggregation} mean" if term.unit == "token" else f"mean over {term.unit}s"


def _options(params: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in params.items() if value is not None)


def _geometry(sizes: Geometry) -> Branch:
    parts = []
    if sizes.prompts:
        parts.append(f"{sizes.prompts} prompts x {sizes.group_size} answers")
    parts += [f"{each.groups} {each.name}" for each in sizes.families]
    times = f"{sizes.epochs} epochs x {sizes.mini_batches} mini-batches x " if sizes.updates > 1 else ""
    tokens = "" if sizes.micro_batch_tokens is None else f", of up to {sizes.micro_batch_tokens} tokens: more as needed"
    micro = f"{sizes.accumulation} x micro-batch of up to {sizes.micro_batch}{tokens}"
    split = f"{sizes.rows_per_process} rows a process = {times}{micro}"
    return Branch(f"sizes  {' + '.join(parts)} a step; {split}", tuple(map(Branch, _saved(sizes))))


def _saved(sizes: Geometry) -> Iterator[str]:
    """What does not go through the network."""
    if sizes.share_prompts and sizes.group_size > 1:
        once = f"a prompt goes through the network once, not {sizes.group_size} times"
        yield f"{once}: its answers share it (batch.share_prompts)"
    elif sizes.share_prompts:
        yield "what the targets of a dialogue begin with goes through the network once (batch.share_prompts)"
    if sizes.packing:
        yield "rows stand behind one another where that costs less than padding (batch.packing)"
    if sizes.skip_without_signal:
        yield "answers whose advantage is 0 are not run (batch.skip_without_signal)"


def _graph(graph: Graph) -> list[Branch]:
    """Operators in the order in which they run, those of an inner scope between the outer ones."""
    found: list[Branch] = []
    for scope, group in groupby(graph.operators, key=lambda each: each.scope):
        lines = tuple(_operator(each) for each in group)
        again = ", afterwards" if any(branch.text.startswith(f"{scope} ") for branch in found) else ""
        found.append(Branch(f"{scope} ({_SCOPES[scope]}{again})", lines))
    if graph.pruned:
        found.append(Branch("left out", tuple(Branch(f"{each.what}: {each.why}") for each in graph.pruned)))
    return found


def _operator(each: Operator) -> Branch:
    gives = ", ".join(f"{name} {shape}".rstrip() for name, shape in each.gives.items())
    parts = (f"{each.name} [{each.place}]", ", ".join(each.needs), f"-> {gives}" if gives else "", each.detail)
    return Branch("  ".join(part for part in parts if part))


def _memory(memory: Memory) -> Branch:
    of = f" of {_size(memory.capacity)}" if memory.capacity else ""
    rows = tuple(Branch(f"{row.name} {_size(row.bytes)}{_note(row)}") for row in memory.rows)
    return Branch(f"memory per device  {_size(memory.total)}{of} (estimate)", rows)


PHASES = {
    "held": "",
    "collect": "while collecting",
    "train": "while learning and updating",
    "learn": "while learning",
    "update": "while updating",
}
"""When a row of memory is there, in words."""


def _note(row: MemoryRow) -> str:
    """The note behind a row, with the phase it is confined to."""
    words = ", ".join(part for part in (PHASES[row.phase], row.note) if part)
    return f"  {words}" if words else ""


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _lines(branch: Branch) -> Iterator[str]:
    yield branch.text
    for index, child in enumerate(branch.under):
        last = index == len(branch.under) - 1
        for number, line in enumerate(_lines(child)):
            lead = ("└── " if last else "├── ") if number == 0 else ("    " if last else "│   ")
            yield lead + line


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves with dotted paths; lists of records by name where they have one, so that an inserted one moves nothing."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}[{item.get('name', index)}]")
    else:
        yield path, value
