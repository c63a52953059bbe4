"""The memory estimate: by hand, against the tensors that backends really hold, and for networks of public size."""

import gc
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.distributed import run_ranks
from tests.engine.backends.tiny import OPTIM
from tests.plugins.architectures.kimi_helpers import small_kimi
from tests.plugins.architectures.vita_helpers import small_vita
from tests.toy.compiled import Change, compiled, drop, only_stage, put
from wavalign.engine.backends.base import AdamSettings, Backend, Precision
from wavalign.engine.backends.deepspeed import DeepSpeedBackend
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.compile import memory, memory_sampling
from wavalign.engine.compile.adapter import WeightCounts, count_weights
from wavalign.engine.compile.lowering import deepspeed_config
from wavalign.engine.compile.memory import estimate_memory
from wavalign.engine.compile.memory_sampling import NUCLEUS
from wavalign.engine.compile.memory_sizes import RowSizes
from wavalign.engine.compile.plan import Cluster, FamilySize, Geometry, Memory, MemoryRow
from wavalign.engine.models import fused_logprobs
from wavalign.engine.models.adapters import attach
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.state.distributed import World
from wavalign.plugins.api import Architecture, Dimensions
from wavalign.plugins.architectures import caching
from wavalign.plugins.architectures.vita import VitaAudio
from wavalign.plugins.batch import Role, TokenBatch
from wavalign.plugins.samplers import heads, kv_cache, recorded
from wavalign.plugins.scalars import ScalarHead
from wavalign.schema.component import Component
from wavalign.schema.model import AdapterSection, ModelSection
from wavalign.schema.runtime import EngineSection, RuntimeSection

SIZES = Dimensions(parameters=1_000_000, layers=2, hidden=100, intermediate=300, key_value_width=40, vocabulary=1000)
FULL = WeightCounts(frozen=0, trained=1_000_000)
LORA = WeightCounts(frozen=1_000_000, trained=0, added=50_000)
CUT = Geometry(
    processes=4,
    prompts=8,
    group_size=2,
    prompts_per_process=2,
    families=(FamilySize(name="demonstrations", groups=4, groups_per_process=1),),
    rows_per_process=5,
    micro_batch=3,
    accumulation=2,
)
ROW = RowSizes(2, prompt=20, answer=30, sampled=30)
SUPERVISED = (put("objective.terms", {"sft": {"loss": "cross_entropy"}}), drop("objective.gate"))
ADAPTED = put("model.adapter", {"type": "lora"})
Scalars = tuple[ScalarHead, ...]


def estimate(
    folder: Path,
    runtime: dict[str, Any],
    *changes: Change,
    weights: WeightCounts = FULL,
    sizes: Dimensions = SIZES,
    scalars: Scalars = (),
    cut: Geometry = CUT,
    row: RowSizes = ROW,
) -> Memory:
    """The estimate for the toy's graph, cut as above, over networks of given sizes."""
    section = RuntimeSection.model_validate({"device": "cpu", **runtime})
    stage = only_stage(compiled(folder, *changes))
    config = None
    if section.engine.type == "deepspeed":
        config = deepspeed_config(
            section.engine, OPTIM, precision=section.precision, micro_batch=3, accumulation=2, processes=4, device="cpu"
        )
    return estimate_memory(
        sizes,
        weights=weights,
        stage=stage.model_copy(update={"geometry": cut, "deepspeed": config, "scalars": scalars}),
        runtime=section,
        row=row,
        cluster=Cluster(gpus=1, gpu_bytes=80, host_bytes=4000),
    )


def by_name(memory: Memory) -> dict[str, int]:
    return {f"{row.name}, {row.phase}" if row.name == "gathered" else row.name: row.bytes for row in memory.rows}


def test_by_hand(tmp_path: Path) -> None:
    million, tokens = 1_000_000, 3 * 50
    found = estimate(tmp_path, {})
    assert by_name(found) == {
        "weights": 4 * million,
        "gradients": 4 * million,
        "optimiser": 8 * million,
        "reference": 4 * million,
        "activations": tokens * 2 * (32 * 100 + 4 * (4 * 300 + 40)),
        "their gradients": tokens * 4 * (2 * 300 + 3 * 100),
        "logits": (8 * 1000 + 12 * 100) * 3 * 30,  # answers alone are scored
        "KV cache": 4 * (2 * 2 * (20 + 64)) * 40 * 3,  # room for 64 more is made at first, one layer's twice
        "joined projections": 4 * 2 * (100 * 140 + 2 * 100 * 300 + 100 * 100),
        "choice": 4 * (2 * 2) * 1000,
    }
    learning = tokens * (2 * (32 * 100 + 4 * 1240) + 4 * 900) + 9200 * 90
    assert found.total == 20 * million + learning, "the moments do not overlap"
    assert found.capacity == 1000
    on_gpu = estimate(tmp_path, {"device": "auto", "precision": "bf16"}, *SUPERVISED)
    assert not {"reference", "KV cache", "choice"} & set(by_name(on_gpu))
    assert by_name(on_gpu)["bf16 copy"] == 2 * million
    assert on_gpu.capacity == 80


def test_moments_of_a_step_do_not_overlap(tmp_path: Path) -> None:
    """What is there while learning and updating counts with the larger of the two; collecting with neither."""
    sizes = {"held": 1, "collect": 20, "train": 4, "learn": 10, "update": 7}
    rows = tuple(MemoryRow(name=phase, bytes=size, phase=phase) for phase, size in sizes.items())
    assert Memory(rows=rows, capacity=0).total == 21
    assert Memory(rows=tuple(row for row in rows if row.name != "collect"), capacity=0).total == 15


@pytest.mark.parametrize(("micro_batch", "phase"), [(5, "update"), (3, "train")])
def test_gradients_of_the_only_micro_batch_come_as_its_activations_go(
    tmp_path: Path, micro_batch: int, phase: str
) -> None:
    cut = CUT.model_copy(update={"micro_batch": micro_batch, "accumulation": -(-5 // micro_batch)})
    weights = WeightCounts(0, 1_000_000, head=100_000, head_uses=1, embedded=True)
    found = estimate(tmp_path, {}, weights=weights, cut=cut)
    assert [row.phase for row in found.rows if row.name == "gradients"] == [phase]
    wanted = 4 * 100_000 * (1 if phase == "update" else 2)
    assert by_name(found)["embedding's gradient"] == wanted, "the head's and its own, beside the step's"


@pytest.mark.parametrize(
    ("precision", "zero", "changes", "joined", "head"),
    [
        ("float32", 0, (), 4 * (14_000 + 60_000 + 10_000), 0),  # a small head stays as it lies
        ("bf16", 0, (), 2 * (14_000 + 60_000 + 10_000 + 30_000), 0),  # all of a layer from float32 weights
        ("bf16", 2, (), 2 * (14_000 + 60_000), 4 * 100_000),
        ("float32", 0, (ADAPTED,), None, 0),
        ("float32", 0, (put("rollout.sampler", {"type": "kv_cache", "fuse_projections": False}),), None, 0),
    ],
)
def test_copies_to_sample_from(
    tmp_path: Path, precision: str, zero: int, changes: tuple[Change, ...], joined: int | None, head: int
) -> None:
    """Two layers of width 100, 300 inside, 40 cached; 30 tokens are sampled."""
    engine = {"type": "deepspeed", "zero": zero} if zero else {"type": "plain"}
    weights = WeightCounts(0, 1_000_000, projections=100_000)
    found = by_name(estimate(tmp_path, {"precision": precision, "engine": engine}, *changes, weights=weights))
    assert found.get("joined projections") == (None if joined is None else 2 * joined)
    assert found.get("head's copy", 0) == head


def test_prompts_count_where_they_take_more_than_answers(tmp_path: Path) -> None:
    """2 prompts of 5,000 tokens go through at once before 2 answers to each are drawn."""
    rows = {row.name: row for row in estimate(tmp_path, {}, row=RowSizes(2, prompt=5000, answer=1, sampled=1)).rows}
    assert rows["prompts"].bytes == 4 * 10_000 * (3 * 300 + 4 * 100) and "choice" not in rows
    assert rows["KV cache"].bytes == 4 * 2 * 5064 * 40 * 2


def test_both_sides_of_a_pair_are_rows(tmp_path: Path) -> None:
    """A micro-batch of all dialogues is not one of all rows."""
    cut = CUT.model_copy(update={"micro_batch": 5, "accumulation": 1})
    found = estimate(tmp_path, {}, cut=cut, row=RowSizes(2, prompt=20, answer=30, singles=2))
    assert [row.phase for row in found.rows if row.name == "gradients"] == ["train"]


def test_what_rows_share_is_given_once(tmp_path: Path) -> None:
    """A demonstration, and two answers to one prompt: 2 x 20 tokens of prompts and 3 x 30 of answers."""
    shared = by_name(estimate(tmp_path, {}, cut=CUT.model_copy(update={"share_prompts": True})))
    assert shared["activations"] == (2 * 20 + 3 * 30) * 2 * (32 * 100 + 4 * 1240)
    assert shared["attention mask"] == 4 * (2 * 20 + 3 * 30) * (20 + 2 * 30)
    budget = by_name(estimate(tmp_path, {}, cut=CUT.model_copy(update={"micro_batch_tokens": 70})))
    assert budget["activations"] == 70 * 2 * (32 * 100 + 4 * 1240)


def test_a_critic_trains_no_head(tmp_path: Path) -> None:
    terms = {"rl": {"loss": "grpo", "tokens": "all"}, "value": {"loss": "value", "tokens": "all"}}
    shared = put("objective", {"advantage": {"type": "gae"}, "terms": terms})
    apart = put("objective.critic", {"type": "separate"})
    weights, heads = WeightCounts(0, 1_000_000, critic_trained=900_000), (ScalarHead("values", "token"),)
    found = by_name(estimate(tmp_path, {}, shared, apart, weights=weights, scalars=heads))
    states = [found[f"critic's {name}"] for name in ("weights", "gradients", "optimiser")]
    assert states == [4_000_000, 3_600_000, 7_200_000]
    alone = by_name(estimate(tmp_path, {}, shared, weights=weights, scalars=heads))
    assert found["activations"] == 2 * alone["activations"]


def test_recomputing_keeps_a_layer_and_the_inputs_of_all(tmp_path: Path) -> None:
    found = by_name(estimate(tmp_path, {"gradient_checkpointing": True}))
    assert found["activations"] == 3 * 50 * (32 * 100 + 4 * 1240 + 2 * 4 * 100)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize(
    ("zero", "precision", "bytes_each"),
    [
        # weights, masters, gradients, moments: bytes a parameter on 4 ranks
        (0, "float32", (4, None, 4, 8)),
        (1, "float32", (4, 1, 4, 2)),
        (2, "float32", (4, 1, 1, 2)),
        (3, "float32", (1, 1, 1, 2)),
        (0, "bf16", (4, None, 4, 8)),
        (1, "bf16", (2, 1, 6, 2)),
        (2, "bf16", (2, 1, 1, 2)),
        (3, "bf16", (0.5, 1, 1, 2)),
    ],
)
def test_states_by_stage(
    tmp_path: Path, zero: int, precision: str, bytes_each: tuple[float | None, ...], offload: bool
) -> None:
    engine = {"type": "deepspeed", "zero": zero, "offload_optimizer": offload and zero > 0}
    found = by_name(estimate(tmp_path, {"engine": engine, "precision": precision}))
    weights, masters, gradients, moments = bytes_each
    if offload and zero:
        masters, gradients, moments = 0, 0 if zero > 1 else gradients, 0
    names = ("weights", "masters", "gradients", "optimiser")
    wanted = dict(zip(names, (weights, masters, gradients, moments), strict=True))
    assert {name: found[name] / 1e6 for name in names if name in found} == {
        name: value for name, value in wanted.items() if value is not None
    }
    reference = 2e6 if precision == "bf16" and zero else 4e6
    assert found["reference"] == reference / (4 if zero == 3 else 1), "four ranks"


def test_an_adapter(tmp_path: Path) -> None:
    plain = by_name(estimate(tmp_path, {"precision": "bf16"}, ADAPTED, weights=LORA))
    assert plain["weights"] == 2_000_000 + 4 * 50_000
    assert (plain["gradients"], plain["optimiser"], plain["reference"]) == (200_000, 400_000, 0)
    assert plain["bf16 copy"] == 100_000
    sharded = {"precision": "bf16", "engine": {"type": "deepspeed", "zero": 3}}
    found = by_name(estimate(tmp_path, sharded, ADAPTED, weights=LORA))
    assert found["weights"] == 2 * 1_050_000 // 4
    assert (found["gathered, collect"], found["gathered, learn"]) == (2_100_000, 2_100_000)


@pytest.mark.parametrize(
    ("precision", "zero", "uses", "changes", "each"),
    [
        ("float32", 0, 1, (), 4),
        ("float32", 0, 11, (), 8),  # heads that share a weight are added up as they come
        ("float32", 0, 1, (put("rollout.top_p", 0.9),), 8),  # answers by their kept ids, demonstrations by all
        ("float32", 0, 1, (put("rollout.top_p", 0.9), drop("objective.terms.sft")), 4),
        ("bf16", 0, 1, (), 4),  # from float32 weights
        ("bf16", 2, 1, (), 6),
        ("bf16", 2, 2, (), 8),  # two heads
    ],
)
def test_the_gradient_of_a_head(
    tmp_path: Path, precision: str, zero: int, uses: int, changes: tuple[Change, ...], each: int
) -> None:
    engine = {"type": "deepspeed", "zero": zero} if zero else {"type": "plain"}
    weights = WeightCounts(0, 1_000_000, head=100_000, head_uses=uses)
    found = estimate(tmp_path, {"precision": precision, "engine": engine}, *changes, weights=weights)
    assert by_name(found)["head's gradient"] == each * 100_000
    assert {row.phase for row in found.rows if row.name == "head's gradient"} == {"learn"}
    assert "head's gradient" not in by_name(estimate(tmp_path, {}, weights=FULL)), "none is trained"


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ((put("rollout.top_k", 20),), 20),
        ((put("rollout.top_p", 0.9),), NUCLEUS),
        ((put("rollout.top_k", 20), put("rollout.top_p", 0.9)), 20),
        ((put("rollout.top_k", 5000),), 1000),  # the whole vocabulary
        ((), 0),
        ((put("rollout.top_k", 20), *SUPERVISED), 0),  # nothing is sampled to learn from
    ],
)
def test_supports(tmp_path: Path, changes: tuple[Change, ...], kept: int) -> None:
    """Micro-batches of 3 rows of 2 streams of 50 tokens; 2 x 2 answers a process."""
    found = by_name(estimate(tmp_path, {}, *changes))
    names = ("supports", "rollouts' supports")
    wanted = (16 * 3 * 2 * 50 * kept, 4 * 4 * 2 * 50 * kept) if kept else (None, None)
    assert tuple(found.get(name) for name in names) == wanted
    assert "rollouts' supports" not in by_name(estimate(tmp_path, {"device": "auto"}, *changes)), "they are on the host"


@pytest.mark.parametrize(
    ("zero", "precision", "bytes_each"), [(0, "float32", 16), (0, "bf16", 16), (2, "bf16", 6), (3, "float32", 5)]
)
def test_scalar_heads(tmp_path: Path, zero: int, precision: str, bytes_each: int) -> None:
    engine = {"type": "deepspeed", "zero": zero} if zero else {"type": "plain"}
    runtime = {"engine": engine, "precision": precision}
    heads = (ScalarHead("values", "token"), ScalarHead("score", "sequence"))
    found = by_name(estimate(tmp_path, runtime, scalars=heads))
    assert found["scalar heads"] == bytes_each * 2 * 101
    assert found.get("read states") == (4 * 100 * 3 * 50 if precision == "bf16" else None)
    alone = by_name(estimate(tmp_path, runtime))
    assert found.keys() - alone.keys() == {"scalar heads"} | ({"read states"} if precision == "bf16" else set())
    assert all(found[name] == size for name, size in alone.items())
    lora = by_name(estimate(tmp_path, runtime, ADAPTED, weights=LORA, scalars=heads))
    assert lora["scalar heads"] == found["scalar heads"], "they are trained in full"


def test_which_head_is_trained(tmp_path: Path) -> None:
    """The largest trained weight over the vocabulary, the heads it serves, and whether ids are embedded."""

    def head(architecture: Architecture, **model: Any) -> tuple[int, int, bool]:
        section = ModelSection.model_validate({"architecture": Component(type="vita"), **model})
        counts = count_weights(section, architecture)
        return counts.head // architecture.tokens.vocabulary_size, counts.head_uses, counts.embedded

    tied, apart = small_vita(tmp_path), small_vita(tmp_path, tie_embeddings=False)
    assert head(tied) == (32, 1, True) and head(apart) == (32, 1, True)
    assert head(apart, freeze=["embed"]) == (32, 1, False) and head(apart, freeze=["text_head"]) == (32, 0, True)
    assert head(apart, freeze=["embed", "text_head"]) == (0, 0, False) == head(tied, freeze=["embed"])
    assert head(tied, adapter={"type": "lora"}) == (0, 0, False)
    assert head(small_vita(tmp_path, tie_embeddings=False, num_mtp_layers=3)) == (32, 4, True)
    assert head(small_kimi(tmp_path)) == (32, 1, True)


@pytest.mark.parametrize(("share", "fits"), [(0.5, "yes"), (0.9, "yes"), (0.91, "tight"), (1.0, "tight"), (1.01, "no")])
def test_what_fits_leaves_a_margin(share: float, fits: str) -> None:
    rows = (MemoryRow(name="weights", bytes=round(share * 10_000)),)
    assert Memory(rows=rows, capacity=10_000).fits == fits
    assert Memory(rows=rows, capacity=0).fits == "yes"


def test_nothing_is_gathered_for_nobody(tmp_path: Path) -> None:
    """Demonstrations alone, nothing measured: the shards stay apart. Merging an adapter needs them whole."""
    runtime = {"engine": {"type": "deepspeed", "zero": 3}}
    quiet = (*SUPERVISED, drop("evaluation"))
    assert "gathered, collect" not in by_name(estimate(tmp_path, runtime, *quiet))
    assert by_name(estimate(tmp_path, runtime, *SUPERVISED))["gathered, collect"] == 4_000_000
    assert "gathered, collect" in by_name(estimate(tmp_path, runtime, *quiet, ADAPTED, weights=LORA))


# --- the tensors that are really there --------------------------------------------------------------------------------


def census() -> dict[int, int]:
    """Bytes by address of every tensor's memory that Python can reach."""
    gc.collect()
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in gc.get_objects():
            if isinstance(each, Tensor):
                for tensor in (each, each.grad if each.is_leaf else None):
                    if tensor is not None:
                        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return found


def build(
    kind: str, architecture: VitaAudio, section: AdapterSection | None, precision: Precision, world: World
) -> Any:
    policy = architecture.build_policy(seed=0)
    if section is not None:
        attach(policy, section, architecture=architecture, seed=1, precision=precision)
    module = ScoredPolicy(policy, architecture.tokens)
    if kind == "plain":
        settings = AdamSettings(OPTIM.betas, OPTIM.epsilon, OPTIM.weight_decay, OPTIM.max_grad_norm)
        return PlainBackend(module, policy=policy, optimizer=settings, precision=precision, ranks=world)
    config = deepspeed_config(
        EngineSection.model_validate({"type": "deepspeed", "zero": int(kind[-1])}),
        OPTIM,
        precision=precision,
        micro_batch=1,
        accumulation=2,
        processes=world.size,
        device="cpu",
    )
    return DeepSpeedBackend(module, policy=policy, heads=module.head_parameters(), config=config, ranks=world)


def accumulate(backend: Backend) -> int:
    """Two micro-batches of a step; the most bytes that were there after one of them."""
    most = 0
    backend.begin_update(2)
    for _ in range(2):
        ids = torch.randint(20, (1, 1, 24))
        roles = torch.full_like(ids, int(Role.TEXT), dtype=torch.int8)
        batch = TokenBatch(ids, roles, torch.zeros_like(roles), torch.full((1,), 24))
        select = torch.ones(ids.shape, dtype=torch.bool)
        select[:, :, :12] = False
        loss = -backend.forward(batch, select, temperature=1.0).logprobs.mean()
        backend.backward(loss * backend.divisor)
        del loss
        most = max(most, sum(census().values()))
    return most


def held(world: World, kind: str, type_: str | None, precision: Precision) -> int:
    """Bytes of a backend at its fullest, from its second step on, in which the moments are there."""
    with tempfile.TemporaryDirectory() as folder:
        architecture = middling(Path(folder))
    before = sum(census().values())
    section = None if type_ is None else AdapterSection.model_validate({"type": type_})
    backend = build(kind, architecture, section, precision, world)
    accumulate(backend)
    backend.step(1e-4)
    most = accumulate(backend) - before
    backend.step(1e-4)
    backend.close()
    return most


def middling(folder: Path) -> VitaAudio:
    """4 M parameters: more than a Python process holds in tensors anyway."""
    return small_vita(folder, hidden_size=256, intermediate_size=1024, num_layers=4, tie_embeddings=False)


def expected(folder: Path, kind: str, type_: str | None, precision: Precision, ranks: int) -> tuple[int, int]:
    """States and buffers by the formula."""
    fields = {"type": "deepspeed", "zero": int(kind[-1])} if kind != "plain" else {}
    runtime = {"engine": fields, "precision": precision, "processes": ranks}
    architecture = middling(folder)
    adapter = None if type_ is None else AdapterSection.model_validate({"type": type_})
    weights = count_weights(ModelSection(architecture=Component(type="vita"), adapter=adapter), architecture)
    change = () if adapter is None else (put("model.adapter", adapter.model_dump(mode="json")),)
    plan = compiled(folder, *change, put("runtime.engine", fields), put("runtime.processes", ranks))
    section = RuntimeSection.model_validate({"device": "cpu", **runtime})
    cluster = Cluster(cores=2, host_bytes=1)
    memory = estimate_memory(
        architecture.dimensions(),
        weights=weights,
        stage=only_stage(plan),
        runtime=section,
        row=RowSizes(1, prompt=12, answer=12),
        cluster=cluster,
    )
    rows = by_name(memory)
    states = sum(rows.get(name, 0) for name in ("weights", "masters", "gradients", "optimiser"))
    return states, rows.get("buffers", 0)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("type_", [None, "lora", "dora"])
def test_the_plain_backend_holds_what_is_said(tmp_path: Path, type_: str | None, precision: Precision) -> None:
    states, _ = expected(tmp_path, "plain", type_, precision, 1)
    assert held(World.single(), "plain", type_, precision) == pytest.approx(states, rel=0.05)


LASTING = {("zero3", "float32"), ("zero3", "bf16"), ("zero1", "float32")}
"""Where the buffers for gradients outlive the backward pass, so that they are in the census."""


@pytest.mark.slow
@pytest.mark.parametrize("type_", [None, "lora"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("kind", ["zero0", "zero1", "zero2", "zero3"])
def test_deepspeed_holds_what_is_said(tmp_path: Path, kind: str, precision: Precision, type_: str | None) -> None:
    states, buffers = expected(tmp_path, kind, type_, precision, 2)
    wanted = states + (buffers if (kind, precision) in LASTING else 0)
    for found in run_ranks(held, 2, kind, type_, precision):
        assert found == pytest.approx(wanted, rel=0.05)


def test_what_autograd_keeps_of_a_layer(tmp_path: Path) -> None:
    """The estimate's activations against the tensors that are saved for the backward pass."""
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 448, "num_heads": 8, "num_key_value_heads": 2}
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        small, architecture = (small_vita(tmp_path, num_layers=layers, **sizes) for layers in (1, 3))
        kept = [saved_bytes(each.build_policy(seed=0).to(dtype), tokens=96) for each in (small, architecture)]
        runtime = {"precision": precision, "engine": {"type": "deepspeed", "zero": 2}}
        memory = by_name(estimate(tmp_path, runtime, sizes=architecture.dimensions()))
        assert (kept[1] - kept[0]) / 2 / 96 == pytest.approx(memory["activations"] / 3 / (3 * 50), rel=0.1)


def saved_bytes(policy: nn.Module, *, tokens: int) -> int:
    """Bytes saved for the backward pass, weights left out."""
    own = {each.untyped_storage().data_ptr() for each in policy.parameters()}
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(20, (1, 1, tokens))
    batch = TokenBatch(ids, torch.zeros_like(ids), torch.zeros_like(ids), torch.full((1,), tokens))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        policy.hidden(batch, frozenset({0}))  # type: ignore[operator]  # a policy
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


# --- networks of public size, as in docs/memory.md --------------------------------------------------------------------

GIB = 2**30
PUBLIC = {
    # weights, layers, ids, elements of a rank-16 adapter on all layers (28 of the trunk; 34 with Kimi's audio branch)
    "VITA-Audio Vanilla": (7_730_361_856, 28, 168_072, 40_370_176),
    "VITA-Audio Boost": (10_317_912_576, 38, 168_072, 40_370_176),
    "Kimi-Audio": (9_766_334_464, 34, 168_448, 49_020_928),
}


def public(folder: Path, name: str, gpus: int, zero: int, *, lora: bool) -> Memory:
    """The estimate of docs/memory.md: GRPO with KL, 8 answers a GPU, 1500 tokens a row, micro-batches of 2 rows."""
    count, layers, ids, added = PUBLIC[name]
    engine = EngineSection.model_validate({"type": "deepspeed", "zero": zero})
    runtime = RuntimeSection(engine=engine, precision="bf16", gradient_checkpointing=True, processes=gpus)
    stage = only_stage(compiled(folder, *((ADAPTED,) if lora else ())))
    config = deepspeed_config(
        engine, OPTIM, precision="bf16", micro_batch=2, accumulation=4, processes=gpus, device="cuda"
    )
    sizes = {"prompts": gpus, "rows_per_process": 8}
    cut = Geometry(processes=gpus, group_size=8, prompts_per_process=1, micro_batch=2, accumulation=4, **sizes)
    return estimate_memory(
        Dimensions(count, layers, hidden=3584, intermediate=18944, key_value_width=2 * 4 * 128, vocabulary=ids),
        weights=WeightCounts(frozen=count, trained=0, added=added)
        if lora
        else WeightCounts(0, count, head=3584 * ids, head_uses=11 if name.endswith("Boost") else 1),
        stage=stage.model_copy(update={"geometry": cut, "deepspeed": config}),
        runtime=runtime,
        row=RowSizes(1, prompt=500, answer=1000, sampled=1000),
        cluster=Cluster(gpus=gpus, gpu_bytes=80 * 10**9),
    )


def states_by_hand(name: str, gpus: int, zero: int, *, lora: bool) -> float:
    """GiB: 2 bytes a weight, 4 + 4 + 8 a trained one; ZeRO 2 cuts the latter, ZeRO 3 both."""
    count, _, _, added = PUBLIC[name]
    trained = added if lora else count
    weights = 2 * (count + added if lora else count)
    return (weights / (gpus if zero == 3 else 1) + 16 * trained / gpus) / GIB


def test_parameters_in_host_memory(tmp_path: Path) -> None:
    """Weights and the reference are not on the device but for the layers that are in use."""
    engine = {"type": "deepspeed", "zero": 3}
    there = by_name(estimate(tmp_path, {"engine": engine}))
    found = by_name(estimate(tmp_path, {"engine": {**engine, "offload_parameters": True}}))
    assert (there["weights"], there["reference"]) == (1e6, 1e6), "four ranks"
    assert {name for name, size in there.items() if found[name] != size} == {"weights", "reference"}
    assert found["weights"] == found["reference"] == 0


def table(folder: Path) -> list[str]:
    """Lines of the table in docs/memory.md."""
    lines = []
    for name in PUBLIC:
        for lora in (False, True):
            for gpus in (4, 8):
                for zero in (2, 3):
                    memory = public(folder, name, gpus, zero, lora=lora)
                    rows = by_name(memory)
                    states = sum(rows[each] for each in ("weights", "masters", "gradients", "optimiser")) / GIB
                    by_hand = states_by_hand(name, gpus, zero, lora=lora)
                    assert states == pytest.approx(by_hand, rel=1e-6)
                    cells = [
                        name,
                        "LoRA" if lora else "full",
                        f"{gpus}",
                        f"{zero}",
                        f"{by_hand:.1f}",
                        f"{states:.1f}",
                        f"{rows['reference'] / GIB:.1f}",
                        f"{memory.total / GIB:.1f}",
                        memory.fits,
                    ]
                    lines.append(f"| {' | '.join(cells)} |")
    return lines


def test_the_table_of_the_page(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "memory.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line.startswith(tuple(f"| {name} |" for name in PUBLIC))] == table(tmp_path)


def test_the_example_of_the_page(tmp_path: Path) -> None:
    """VITA-Audio Vanilla, full, 8 GPUs, ZeRO 2, every term by hand."""
    found = by_name(public(tmp_path, "VITA-Audio Vanilla", 8, 2, lora=False))
    count = 7_730_361_856
    assert found["weights"] == found["reference"] == 2 * count == 15_460_723_712
    assert found["masters"] == found["gradients"] == 4 * count // 8
    assert found["optimiser"] == count
    assert found["buffers"] == 2 * 4 * 50_000_000
    layer = 20 * 3584 + 2 * (4 * 18944 + 1024)
    assert found["activations"] == 2 * 1500 * (layer + 2 * 3584 * 28) == 1_277_952_000
    assert found["their gradients"] == 3000 * 2 * (2 * 18944 + 3 * 3584) == 291_840_000
    columns = 2**26 // 2000
    assert found["logits"] == 6 * 2000 * columns + 8 * columns * 3584 + 8 * 2000 * 3584 == 1_422_052_288
    assert found["head's gradient"] == 6 * 168_072 * 3584 == 3_614_220_288
    assert found["CUDA"] == GIB
    assert found["KV cache"] == 8 * 1536 * 1024 * 29 * 2 == 729_808_896
    assert found["joined projections"] == 2 * 28 * (3584 * 4608 + 2 * 3584 * 18944) == 8_529_117_184
    assert found["choice"] == 4 * 8 * 168_072
    assert found["kept tensors"] == found["KV cache"] + found["choice"]
    rows = public(tmp_path, "VITA-Audio Vanilla", 8, 2, lora=False)
    sums = {phase: sum(row.bytes for row in rows.rows if row.phase == phase) for phase in ("held", "train", "learn")}
    assert sum(sums.values()) == 55_197_164_736
    assert rows.total == 57_120_217_344


def test_copies_are_counted_from_where_the_sampler_makes_them() -> None:
    assert memory_sampling.JOINED_FROM == kv_cache.FUSED_FROM
    assert memory_sampling.TURNED_FROM == heads.LARGE
    assert (memory_sampling.SPARE_SLOTS, memory_sampling.ROUNDED_SLOTS) == (caching.SPARE_SLOTS, recorded.SLOTS)


def test_tiles_are_counted_as_the_head_makes_them() -> None:
    assert {"cpu": fused_logprobs.CPU_TILE, "cuda": fused_logprobs.GPU_TILE} == memory.TILES
    assert (memory.DIRECT, memory.MOST_TILE_ROWS) == (fused_logprobs.DIRECT, fused_logprobs.MAX_TILE_ROWS)
