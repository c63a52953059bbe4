"""A plan as a tree, as a chart, and against another."""

import pytest

from wavalign.engine.compile.plan import (
    FamilySize,
    Geometry,
    Graph,
    Memory,
    MemoryRow,
    Operator,
    Plan,
    Pruned,
    StagePlan,
    TermPlan,
)
from wavalign.schema.component import Component
from wavalign.schema.model import AdapterSection, ModelSection
from wavalign.schema.runtime import RuntimeSection
from wavalign.schema.share import Share
from wavalign.schema.stage import Stage
from wavalign_cli.plan_views import differences, memory_lines, mermaid, tree


def made(*, seed: int = 7, steps: int = 20, weight: float = 1.0) -> Plan:
    """A plan of one stage with four operators."""
    term = TermPlan(
        name="sft",
        loss=Component(type="cross_entropy"),
        mask=Component(type="roles", params={"text": 1.0}),
        share=Share.parse("1 - gate"),
        weight=weight,
        aggregation="token",
        fixed_length=None,
        family="demonstrations",
        unit="token",
        needs=(),
    )
    graph = Graph(
        operators=(
            Operator(
                name="rows.demonstrations",
                function="data_rows",
                of="demonstrations",
                gives={"rows": "[N]"},
                scope="collect",
                place="host",
            ),
            Operator(
                name="forward",
                function="forward",
                needs=("rows",),
                gives={"hidden": ""},
                scope="micro_batch",
                place="device",
            ),
            Operator(
                name="update",
                function="update",
                needs=("hidden",),
                gives={"updated": "[]"},
                scope="update",
                place="device",
                detail="AdamW",
            ),
            Operator(name="metrics", function="metrics", needs=("updated",), scope="collect", place="host"),
        ),
        pruned=(Pruned(what="reference", why="no term needs ref_logprobs"),),
    )
    sizes = Geometry(
        processes=1,
        prompts=0,
        group_size=1,
        prompts_per_process=0,
        families=(FamilySize(name="demonstrations", groups=8, groups_per_process=8),),
        rows_per_process=8,
        micro_batch=4,
        accumulation=2,
    )
    stage = Stage(name="warm", model=ModelSection(architecture=Component(type="vita")), steps=steps)
    warm = StagePlan(name="warm", first_step=0, stage=stage, terms=(term,), graph=graph, geometry=sizes)
    runtime = RuntimeSection()
    return Plan(name="demo", seed=seed, device="cpu", processes=1, runtime=runtime, stages=(warm,))


def test_the_tree_says_everything_a_reader_needs() -> None:
    plan = made()
    assert tree(plan).splitlines() == [
        f"demo  seed 7, 1 process on cpu, float32, plan {plan.fingerprint}",
        "└── stage warm  steps 1 to 20",
        "    ├── terms",
        "    │   └── sft: cross_entropy over roles(text=1.0), share 1 - gate, weight 1, on demonstrations, token mean",
        "    ├── sizes  8 demonstrations a step; 8 rows a process = 2 x micro-batch of up to 4",
        "    ├── collect (once a step)",
        "    │   └── rows.demonstrations [host]  -> rows [N]",
        "    ├── micro_batch (once a micro-batch)",
        "    │   └── forward [device]  rows  -> hidden",
        "    ├── update (once an update)",
        "    │   └── update [device]  hidden  -> updated []  AdamW",
        "    ├── collect (once a step, afterwards)",
        "    │   └── metrics [host]  updated",
        "    └── left out",
        "        └── reference: no term needs ref_logprobs",
    ]


def test_the_chart_has_an_edge_from_giver_to_taker() -> None:
    lines = mermaid(made()).splitlines()
    assert lines[:2] == ["flowchart TD", '  subgraph s0["warm"]']
    assert '    s0n0 -->|"rows"| s0n1' in lines
    assert '    s0n1 -->|"hidden"| s0n2' in lines
    assert '    s0n2 -->|"updated"| s0n3' in lines
    assert sum("-->" in line for line in lines) == 3


def test_the_tree_says_epochs_and_mini_batches() -> None:
    """Only where there is more than one update a step."""
    (stage,) = made().stages
    assert stage.geometry is not None
    several = stage.geometry.model_copy(update={"epochs": 2, "mini_batches": 4})
    plan = made().model_copy(update={"stages": (stage.model_copy(update={"geometry": several}),)})
    line = "8 demonstrations a step; 8 rows a process = 2 epochs x 4 mini-batches x 2 x micro-batch of up to 4"
    assert f"    ├── sizes  {line}" in tree(plan).splitlines()


def test_differences_are_what_differs_and_no_more() -> None:
    assert differences(made(), made()) == []
    assert differences(made(seed=7), made(seed=8)) == ["~ seed: 7 -> 8"]
    assert differences(made(), made(steps=30, weight=0.5)) == [
        "~ stages[warm].stage.steps: 20 -> 30",
        "~ stages[warm].terms[sft].weight: 1.0 -> 0.5",
    ]


def test_a_stage_that_is_gone_and_one_that_is_new() -> None:
    plan = made()
    without = plan.model_copy(update={"stages": ()})
    assert all(line.startswith(("- stages[warm]", "+ stages")) for line in differences(plan, without))
    assert any(line.startswith("+ stages[warm].name: warm") for line in differences(without, plan))


@pytest.mark.parametrize(
    ("count", "text"), [(1000, "1000 B"), (2048, "2.0 KiB"), (5 * 2**20, "5.0 MiB"), (3 * 2**40, "3072.0 GiB")]
)
def test_memory_in_units(count: int, text: str) -> None:
    memory = Memory(rows=(MemoryRow(name="weights", bytes=count, note="float32"),), capacity=0)
    assert memory_lines(memory, "warm: ") == [
        f"warm: memory per device  {text} (estimate)",
        f"└── weights {text}  float32",
    ]


def test_an_adapter_stands_in_the_tree() -> None:
    (stage,) = made().stages
    adapter = AdapterSection(targets=("q_proj",), also_train=("projector",))
    section = stage.stage.model_copy(update={"model": stage.stage.model.model_copy(update={"adapter": adapter})})
    plan = made().model_copy(update={"stages": (stage.model_copy(update={"stage": section}),)})
    line = "lora (rank 16, alpha 32) on q_proj of trunk, and projector in full"
    assert f"    ├── trained  {line}" in tree(plan).splitlines()
    assert "    ├── trained  0.10 of 7 M: all" in tree(plan, {"warm": "0.10 of 7 M: all"}).splitlines()


def test_rows_of_memory_say_when() -> None:
    rows = (
        MemoryRow(name="weights", bytes=2**31),
        MemoryRow(name="cache", bytes=2**30, note="4 answers", phase="collect"),
        MemoryRow(name="activations", bytes=3 * 2**30, phase="learn"),
        MemoryRow(name="gradients", bytes=2**20, phase="train"),
        MemoryRow(name="roots", bytes=2**10, phase="update"),
    )
    assert memory_lines(Memory(rows=rows, capacity=0)) == [
        "memory per device  5.0 GiB (estimate)",
        "├── weights 2.0 GiB",
        "├── cache 1.0 GiB  while collecting, 4 answers",
        "├── activations 3.0 GiB  while learning",
        "├── gradients 1.0 MiB  while learning and updating",
        "└── roots 1.0 KiB  while updating",
    ]


def test_the_tree_says_what_does_not_go_through_the_network() -> None:
    plan = made()
    (stage,) = plan.stages
    assert stage.geometry is not None
    rows = {"prompts": 4, "group_size": 8, "micro_batch_tokens": 4096}
    saving = {"share_prompts": True, "packing": True, "skip_without_signal": True}
    sizes = stage.geometry.model_copy(update={**rows, **saving})
    saved = plan.model_copy(update={"stages": (stage.model_copy(update={"geometry": sizes}),)})
    lines = [line.lstrip("│├└─ ") for line in tree(saved).splitlines()]
    at = next(number for number, line in enumerate(lines) if line.startswith("sizes"))
    assert lines[at].endswith("2 x micro-batch of up to 4, of up to 4096 tokens: more as needed")
    assert lines[at + 1 : at + 4] == [
        "a prompt goes through the network once, not 8 times: its answers share it (batch.share_prompts)",
        "rows stand behind one another where that costs less than padding (batch.packing)",
        "answers whose advantage is 0 are not run (batch.skip_without_signal)",
    ]
    none = sizes.model_copy(update={"group_size": 0, "prompts": 0, "packing": False, "skip_without_signal": False})
    again = plan.model_copy(update={"stages": (stage.model_copy(update={"geometry": none}),)})
    assert "what the targets of a dialogue begin with goes through the network once" in tree(again)
    assert "stand behind" not in tree(again) and "advantage is 0" not in tree(again)
