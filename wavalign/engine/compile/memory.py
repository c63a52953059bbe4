"""What one device holds at its fullest, by a formula; docs/memory.md derives it and works an example by hand.

Weights, gradients, masters and moments are counted from what each backend keeps, and agree with its tensors. The rest
is an estimate: what autograd keeps of a decoder layer, the cache of keys and values, buffers. The two phases of a step
do not overlap, so the larger one counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

from wavalign.engine.compile.adapter import WeightCounts
from wavalign.engine.compile.plan import Cluster, Geometry, Memory, MemoryRow, StagePlan
from wavalign.plugins.api import Dimensions
from wavalign.schema.runtime import RuntimeSection

TILE_BYTES = 32 * 2**20
"""One logits tile of the fused log-probs with its gradient, see models/fused_logprobs.py."""
CUDA_BYTES = 2**30
CHOICE_BYTES = 16
"""Per row and id while a token is drawn: logits and probabilities in float32, their sums in float64."""
SUPPORT_BYTES = 16
"""Per position and id that a cut distribution kept, while learning: the ids of a row and of what is scored in int32,
their log-probs and slopes in float32."""
NUCLEUS = 512
"""Ids that `top_p` alone is taken to keep at most; how many it does is seen while sampling."""
LIVE = 1_000_000_000
"""Elements that ZeRO 3 leaves gathered while it learns, see lowering.py."""
KEPT_HIDDEN = {"float32": 32, "autocast": 24, "bf16": 20}
"""Bytes per token, layer and unit of the hidden width that autograd keeps: norms, projections, residuals."""


@final
@dataclass(frozen=True, slots=True)
class _Case:
    """A stage, its sizes and its machine in the numbers that the formula takes."""

    dimensions: Dimensions
    weights: WeightCounts
    geometry: Geometry
    zero: int
    offload: bool
    half: bool
    """Compute in bfloat16."""
    streams: int
    tokens: int
    """Of the longest row."""
    on_cpu: bool = False

    @property
    def native(self) -> bool:
        """Whether weights themselves are bfloat16, with float32 masters in the optimiser."""
        return self.half and self.zero > 0

    @property
    def width(self) -> int:
        return 2 if self.half else 4

    @property
    def ranks(self) -> int:
        return self.geometry.processes if self.zero else 1


def estimate_memory(
    dimensions: Dimensions,
    *,
    weights: WeightCounts,
    stage: StagePlan,
    runtime: RuntimeSection,
    row: tuple[int, int],
    cluster: Cluster,
) -> Memory:
    """Rows of memory of one device; `row` [S, T] is the longest prompt plus answer expected: streams and tokens."""
    assert stage.geometry is not None
    deepspeed = runtime.engine.type == "deepspeed"
    case = _Case(
        dimensions,
        weights,
        stage.geometry,
        zero=runtime.engine.zero if deepspeed else 0,
        offload=deepspeed and runtime.engine.offload_optimizer,
        half=runtime.precision == "bf16",
        streams=row[0],
        tokens=row[1],
        on_cpu=runtime.device == "cpu" or not cluster.gpus,
    )
    adapted = stage.stage.model.adapter is not None
    rows = [
        *_states(case, adapted=adapted),
        *_networks(case, stage),
        *_scalar_heads(case, stage),
        *_learning(case, stage, recompute=runtime.gradient_checkpointing),
        *_head_gradient(case, stage),
        *_supports(case, stage),
        *_collecting(case, stage),
    ]
    if case.zero:
        assert stage.deepspeed is not None
        settings = stage.deepspeed["zero_optimization"]
        size = 4 * int(settings["reduce_bucket_size"]) * (2 if settings["overlap_comm"] else 1)
        rows.append(MemoryRow(name="buffers", bytes=size, note="for gradients on their way"))
    on_gpu = runtime.device != "cpu" and cluster.gpus > 0
    if on_gpu:
        rows.append(MemoryRow(name="CUDA", bytes=CUDA_BYTES, note="its context and libraries"))
    ranks = max(1, case.geometry.processes)
    return Memory(rows=tuple(rows), capacity=cluster.gpu_bytes if on_gpu else cluster.host_bytes // ranks)


def _states(case: _Case, *, adapted: bool) -> Iterator[MemoryRow]:
    """What training holds from its first step on."""
    trained, frozen, ranks = case.weights.trainable, case.weights.frozen, case.ranks
    wide, narrow = (2 if case.native else 4), (2 if case.native or (adapted and case.half) else 4)
    count = wide * trained + narrow * frozen
    note = "bfloat16" if case.native else "float32" if wide == narrow or not frozen else "what is frozen in bfloat16"
    yield MemoryRow(name="weights", bytes=count // (ranks if case.zero == 3 else 1), note=note)
    host = ", in host memory" if case.offload else ""
    if case.zero:
        master = 0 if case.offload else 4 * trained // ranks
        yield MemoryRow(name="masters", bytes=master, note=f"float32 weights that are updated{host}")
    gradients, note = 4 * trained, "float32"
    if case.zero >= 2:
        gradients, note = (0 if case.offload else gradients // ranks), note + host
    elif case.zero == 1 and case.native:
        gradients, note = gradients + 2 * trained, "float32 sums and bfloat16 parts"
    yield MemoryRow(name="gradients", bytes=gradients, note=note)
    moments = 0 if case.offload else 8 * trained // ranks
    yield MemoryRow(name="optimiser", bytes=moments, note=f"two Adam moments in float32{host}")


def _networks(case: _Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """Weights beside those of the training state."""
    adapter = stage.stage.model.adapter
    if case.half and not case.native:
        copied = case.weights.trainable if adapter is not None else case.weights.held
        yield MemoryRow(name="bf16 copy", bytes=2 * copied, note="of float32 weights, while computing")
    if stage.copies_reference:
        count = (2 if case.native else 4) * case.weights.held
        note = "frozen copy in " + ("bfloat16" if case.native else "float32")
        yield MemoryRow(name="reference", bytes=count, note=note)
    elif stage.graph.gives("ref_logprobs"):
        note = "the policy with its adapter off"
        if case.weights.trained:
            note += "; a copy of what is also trained"
        yield MemoryRow(name="reference", bytes=4 * case.weights.trained, note=note)
    if models := _reward_models(stage):
        note = "networks that score answers, taken to be as large as this one"
        yield MemoryRow(name="reward models", bytes=models * case.width * case.weights.held, note=note)
    if case.dimensions.helper_bytes:
        yield MemoryRow(name="helpers", bytes=case.dimensions.helper_bytes, note="frozen networks outside the policy")
    if case.zero == 3:
        whole = case.width * case.weights.held
        live = min(whole, case.width * LIVE)
        yield MemoryRow(name="gathered", bytes=live, note="layers in use and those to come", phase="learn")
        if stage.graph.gives("rollouts") or stage.stage.measures or adapter is not None:
            note = "the whole network, while sampling, evaluating or merging"
            yield MemoryRow(name="gathered", bytes=whole, note=note, phase="collect")


def _reward_models(stage: StagePlan) -> int:
    """How many different reward models the rewards in use score with."""
    asked = {*stage.graph.made_for("reward"), *stage.stage.choosing}
    rewards = (each for name, each in stage.stage.rewards.items() if name in asked and each.type == "reward_model")
    return len({str(each.params.get("model")) for each in rewards})


def _scalar_heads(case: _Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """States of what is trained beside the network, as those of the network itself; and the states that they read."""
    if not stage.scalars:
        return
    if stage.has_critic:
        whole = replace(case, weights=WeightCounts(frozen=0, trained=case.weights.held))
        size = sum(each.bytes for each in _states(whole, adapted=False))
        yield MemoryRow(name="critic", bytes=size, note="a second network: weights, gradients and moments")
    width = case.dimensions.hidden
    own = replace(case, weights=WeightCounts(frozen=0, trained=len(stage.scalars) * (width + 1)))
    size = sum(each.bytes for each in _states(own, adapted=False))
    yield MemoryRow(name="scalar heads", bytes=size, note="weights, gradients and moments of " + _names(stage))
    read = sum(head.unit == "token" for head in stage.scalars)
    if case.half and read:
        size = 4 * read * width * case.geometry.micro_batch * case.tokens
        yield MemoryRow(name="read states", bytes=size, note="in float32, by scalar heads", phase="learn")


def _names(stage: StagePlan) -> str:
    return ", ".join(head.name for head in stage.scalars)


def _learning(case: _Case, stage: StagePlan, *, recompute: bool) -> Iterator[MemoryRow]:
    sizes, width, rows = case.dimensions, case.width, case.geometry.micro_batch
    kind = "float32" if not case.half else "bf16" if case.native else "autocast"
    hidden, others = KEPT_HIDDEN[kind] * sizes.hidden, width * (4 * sizes.intermediate + sizes.key_value_width)
    whole = (hidden + others) * sizes.layers + width * case.weights.kept
    note = f"{rows} rows x {case.tokens} tokens"
    if stage.has_critic:
        whole, note = 2 * whole, note + ", of policy and critic"
    if recompute:
        whole = whole // sizes.layers + width * sizes.hidden * sizes.layers
        note += ", one layer at a time"
    yield MemoryRow(name="activations", bytes=rows * case.tokens * whole, note=note, phase="learn")
    yield MemoryRow(name="logits", bytes=TILE_BYTES, note="one tile, whatever the vocabulary", phase="learn")


def _head_gradient(case: _Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """Gradients of a head, whole, before they are added to those of the step: at most two at once are held.

    A cut distribution and whole rows go through a head apart, as every head that shares a weight does. In bfloat16 one
    is summed in float32 and then converted.
    """
    if not case.weights.head:
        return
    several = case.weights.head_uses > 1 or (_kept_ids(case, stage) > 0 and bool(stage.graph.made_for("data_rows")))
    width = 2 if case.native else 4
    each = (6 if case.native else 4) + (width if several else 0)
    note = "of all ids at once" + (", by two ways" if several else "")
    yield MemoryRow(name="head's gradient", bytes=each * case.weights.head, note=note, phase="learn")


def _kept_ids(case: _Case, stage: StagePlan) -> int:
    """Most ids K that the cut of a sampled distribution keeps; 0 where none is cut."""
    if not stage.graph.gives("rollouts"):
        return 0
    rollout = stage.stage.rollout
    cuts = [(rollout.top_k, rollout.top_p), *((each.top_k, each.top_p) for each in rollout.streams.values())]
    widths = [top_k or (NUCLEUS if (top_p or 1) < 1 else 0) for top_k, top_p in cuts]
    return min(max(widths), case.dimensions.vocabulary)


def _supports(case: _Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """Ids that sampling kept, [rows, S, T, K] int32: a micro-batch's on the device, all rollouts' in host memory."""
    kept = _kept_ids(case, stage)
    if not kept:
        return
    place = case.streams * case.tokens * kept
    note = f"ids that sampling kept, up to {kept} a position, to score by the same distribution"
    yield MemoryRow(name="supports", bytes=SUPPORT_BYTES * case.geometry.micro_batch * place, note=note, phase="learn")
    if case.on_cpu:
        rollouts = case.geometry.prompts_per_process * case.geometry.group_size
        yield MemoryRow(name="rollouts' supports", bytes=4 * rollouts * place, note="int32, of all answers")


def _collecting(case: _Case, stage: StagePlan) -> Iterator[MemoryRow]:
    if not stage.graph.gives("rollouts"):
        return
    sizes = case.dimensions
    rows = case.geometry.prompts_per_process * case.geometry.group_size
    cache = rows * case.tokens * sizes.key_value_width * sizes.layers * case.width
    if case.native and case.on_cpu and case.weights.head:
        size = 4 * sizes.vocabulary * sizes.hidden
        yield MemoryRow(name="float32 head", bytes=size, note="to sample from a bfloat16 one", phase="collect")
    yield MemoryRow(name="KV cache", bytes=cache, note=f"{rows} answers at once", phase="collect")
    note = "logits and probabilities of the next token"
    yield MemoryRow(name="choice", bytes=CHOICE_BYTES * rows * sizes.vocabulary, note=note, phase="collect")
