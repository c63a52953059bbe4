"""What one device holds at its fullest, by a formula; docs/memory.md derives it and works an example by hand.

Weights, gradients, masters and moments are counted from what each backend keeps, and agree with its tensors. The rest
is an estimate: what autograd keeps of a decoder layer, the cache of keys and values, buffers. The moments of a step -
answers are collected, a micro-batch goes forward and backward, the weights move - do not overlap: the largest counts.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from wavalign.engine.compile.adapter import WeightCounts
from wavalign.engine.compile.geometry import only_measuring
from wavalign.engine.compile.memory_checkpoint import checkpoint_copy
from wavalign.engine.compile.memory_sampling import collecting, kept_ids
from wavalign.engine.compile.memory_sizes import Case, RowSizes
from wavalign.engine.compile.plan import Cluster, Memory, MemoryRow, StagePlan
from wavalign.plugins.api import Dimensions
from wavalign.schema.runtime import RuntimeSection

TILES = {"cpu": 2**20, "cuda": 2**26}
"""Numbers of a tile of logits, and of gathered rows of a head, by device: see models/fused_logprobs.py, as the next."""
DIRECT, MOST_TILE_ROWS = 2**22, 4096
CUDA_BYTES = 2**30
SUPPORT_BYTES = 16
"""Per position and id that a cut distribution kept, while learning: the ids of a row and of what is scored in int32,
their log-probs and slopes in float32."""
ROOTS = "square roots"
Phase = Literal["held", "collect", "train", "learn", "update"]
KEPT_HIDDEN = {"float32": 32, "autocast": 24, "bf16": 20}
"""Bytes per token, layer and unit of the hidden width that autograd keeps: norms, projections, residuals."""


def estimate_memory(
    dimensions: Dimensions,
    *,
    weights: WeightCounts,
    stage: StagePlan,
    runtime: RuntimeSection,
    row: RowSizes,
    cluster: Cluster,
) -> Memory:
    """Rows of memory of one device, for a stage that has a network."""
    learns = stage.geometry is not None
    deepspeed = runtime.engine.type == "deepspeed" and learns
    processes = runtime.processes if isinstance(runtime.processes, int) else max(1, cluster.gpus)
    on_gpu = runtime.device != "cpu" and cluster.gpus > 0
    case = Case(
        dimensions,
        weights,
        stage.geometry or only_measuring(processes),
        zero=runtime.engine.zero if deepspeed else 0,
        offload=deepspeed and runtime.engine.offload_optimizer,
        parts_on_host=deepspeed and runtime.engine.offload_parameters,
        half=runtime.precision != "float32",
        row=row,
        on_cpu=not on_gpu,
    )
    rows = list(_training(case, stage, runtime) if learns else _answering(case))
    rows += [*_helpers(case), *collecting(case, stage)]
    if learns and runtime.async_checkpoints:
        rows += checkpoint_copy(case, stage)
    if on_gpu:
        rows.append(MemoryRow(name="CUDA", bytes=CUDA_BYTES, note="its context and libraries"))
    nodes = runtime.nodes if isinstance(runtime.nodes, int) else 1
    neighbours = max(1, case.geometry.processes // nodes)
    return Memory(rows=tuple(rows), capacity=cluster.gpu_bytes if on_gpu else cluster.host_bytes // neighbours)


def _training(case: Case, stage: StagePlan, runtime: RuntimeSection) -> Iterator[MemoryRow]:
    yield from _states(case, adapted=stage.stage.model.adapter is not None)
    yield from _networks(case, stage)
    yield from _scalar_heads(case, stage)
    if stage.steps:
        yield from _learning(case, stage, recompute=runtime.gradient_checkpointing)
        yield from _head(case, stage)
        yield from _supports(case, stage)
    if case.zero:
        assert stage.deepspeed is not None
        settings = stage.deepspeed["zero_optimization"]
        size = 4 * int(settings["reduce_bucket_size"]) * (2 if settings["overlap_comm"] else 1)
        yield MemoryRow(name="buffers", bytes=size, note="for gradients on their way")


def _answering(case: Case) -> Iterator[MemoryRow]:
    """Of a stage that learns nothing the network, whole on every process."""
    note = "bfloat16" if case.half else "float32"
    yield MemoryRow(name="weights", bytes=case.width * case.weights.held, note=note)


def _helpers(case: Case) -> Iterator[MemoryRow]:
    if case.dimensions.helper_bytes:
        yield MemoryRow(name="helpers", bytes=case.dimensions.helper_bytes, note="frozen networks outside the policy")


def _states(case: Case, *, adapted: bool, of: str = "") -> Iterator[MemoryRow]:
    """What training holds from its first step on; `of` is put before the names."""
    trained, frozen, ranks = case.weights.trainable, case.weights.frozen, case.ranks
    wide, narrow = (2 if case.native else 4), (2 if case.native or (adapted and case.half) else 4)
    count = wide * trained + narrow * frozen
    note = "bfloat16" if case.native else "float32" if wide == narrow or not frozen else "what is frozen in bfloat16"
    note += ", in host memory" if case.parts_on_host else ""
    yield MemoryRow(name=f"{of}weights", bytes=_spread(count, case), note=note)
    host = ", in host memory" if case.offload else ""
    if case.zero:
        master = 0 if case.offload else 4 * trained // ranks
        yield MemoryRow(name="masters", bytes=master, note=f"float32 weights that are updated{host}")
    if case.zero:
        # Its optimiser is PyTorch's over one flat tensor, with one or two more of that length while it moves weights.
        size = 0 if case.offload else (8 if case.on_cpu else 4) * trained // ranks
        yield MemoryRow(name=ROOTS, bytes=size, note=f"of moments, by the optimiser{host}", phase="update")
    yield _gradients(case, name=f"{of}gradients", host=host)
    moments = 0 if case.offload else 8 * trained // ranks
    yield MemoryRow(name=f"{of}optimiser", bytes=moments, note=f"two Adam moments in float32{host}")


def _gradients(case: Case, *, name: str, host: str) -> MemoryRow:
    """Gradients; what ZeRO 1 to 3 keep them in stays, and those of PyTorch alone are freed after every update."""
    trained = case.weights.trainable
    size, note = 4 * trained, "float32"
    phase: Phase = "held"
    if case.zero >= 2:
        size, note = (0 if case.offload else size // case.ranks), note + host
    elif case.zero == 1 and case.native:
        size, note = size + 2 * trained, "float32 sums and bfloat16 parts"
    elif not case.zero:
        # Those of the only micro-batch of an update come while its activations go.
        phase = "train" if case.accumulates else "update"
    return MemoryRow(name=name, bytes=size, note=note, phase=phase)


def _spread(count: int, case: Case) -> int:
    """Of `count` bytes of weights what a device holds."""
    return count // case.holders if case.holders else 0


def _networks(case: Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """Weights beside those of the training state."""
    adapter = stage.stage.model.adapter
    if case.half and not case.native:
        copied = case.weights.trainable if adapter is not None else case.weights.held
        yield MemoryRow(name="bf16 copy", bytes=2 * copied, note="of float32 weights, while computing")
    if stage.copies_reference:
        count = _spread((2 if case.native else 4) * case.weights.held, case)
        note = "frozen copy in " + ("bfloat16" if case.native else "float32")
        yield MemoryRow(name="reference", bytes=count, note=note)
    elif stage.graph.gives("ref_logprobs"):
        note = "the policy with its adapter off"
        if case.weights.trained:
            note += "; a copy of what is also trained"
        yield MemoryRow(name="reference", bytes=_spread(4 * case.weights.trained, case), note=note)
    if models := _reward_models(stage):
        note = "networks that score answers, taken to be as large as this one"
        yield MemoryRow(name="reward models", bytes=models * case.width * case.weights.held, note=note)
    if case.zero == 3:
        whole = case.width * case.weights.held
        live = min(whole, case.width * live_parameters(stage))
        yield MemoryRow(name="gathered", bytes=live, note="layers in use and those to come", phase="learn")
        if stage.graph.gives("rollouts") or stage.stage.measures or adapter is not None:
            note = "the whole network, while sampling, evaluating or merging"
            yield MemoryRow(name="gathered", bytes=whole, note=note, phase="collect")


def live_parameters(stage: StagePlan) -> int:
    """Elements that ZeRO 3 leaves gathered while it learns."""
    assert stage.deepspeed is not None
    return int(stage.deepspeed["zero_optimization"]["stage3_max_live_parameters"])


def _reward_models(stage: StagePlan) -> int:
    """How many different reward models the rewards in use score with."""
    asked = {*stage.graph.made_for("reward"), *stage.stage.choosing}
    rewards = (each for name, each in stage.stage.rewards.items() if name in asked and each.type == "reward_model")
    return len({str(each.params.get("model")) for each in rewards})


def _scalar_heads(case: Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """States of what is trained beside the network, as those of the network itself; and the states that they read."""
    if not stage.scalars:
        return
    if stage.has_critic:
        count = case.weights.critic_trained
        whole = replace(case, weights=WeightCounts(frozen=case.weights.held - count, trained=count))
        yield from _states(whole, adapted=False, of="critic's ")
    width = case.dimensions.hidden
    own = replace(case, weights=WeightCounts(frozen=0, trained=len(stage.scalars) * (width + 1)))
    size = sum(each.bytes for each in _states(own, adapted=False) if each.name != ROOTS)
    yield MemoryRow(name="scalar heads", bytes=size, note="weights, gradients and moments of " + _names(stage))
    read = sum(head.unit == "token" for head in stage.scalars)
    if case.half and read:
        size = 4 * read * width * case.geometry.micro_batch * case.tokens
        yield MemoryRow(name="read states", bytes=size, note="in float32, by scalar heads", phase="learn")


def _names(stage: StagePlan) -> str:
    return ", ".join(head.name for head in stage.scalars)


def _learning(case: Case, stage: StagePlan, *, recompute: bool) -> Iterator[MemoryRow]:
    sizes, width, rows = case.dimensions, case.width, case.geometry.micro_batch
    kind = "float32" if not case.half else "bf16" if case.native else "autocast"
    hidden, others = KEPT_HIDDEN[kind] * sizes.hidden, width * (4 * sizes.intermediate + sizes.key_value_width)
    whole = (hidden + others) * sizes.layers + width * case.weights.kept
    note = f"{rows} rows x {case.tokens} tokens" + (", what they share once" if case.geometry.share_prompts else "")
    if stage.has_critic:
        whole, note = 2 * whole, note + ", of policy and critic"
    if recompute:
        whole = whole // sizes.layers + width * sizes.hidden * sizes.layers
        note += ", one layer at a time"
    yield MemoryRow(name="activations", bytes=case.given * whole, note=note, phase="learn")
    # Beside the last layer's activations stand the gradients of its widest: two of the inner, three of the outer width.
    layer = width * (2 * sizes.intermediate + 3 * sizes.hidden)
    if case.geometry.share_prompts or case.geometry.packing:
        size = width * case.given * case.longest_row
        yield MemoryRow(name="attention mask", bytes=size, note="what packed tokens see of one another", phase="learn")
    note = "of one layer's activations"
    yield MemoryRow(name="their gradients", bytes=case.given * layer, note=note, phase="learn")


def _head(case: Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """What scoring needs: logits, states that are scored, and gradients of heads whole before they are added."""
    scored, sizes = case.scored, case.dimensions
    states = (2 * case.width + 4) * scored * sizes.hidden
    note = "tiles of logits, states that are scored and their gradients"
    size = _logits(case, stage, scored) + states
    yield MemoryRow(name="logits", bytes=size, note=note, phase="learn")
    head, weights = case.weights.head, case.weights
    if not head:
        return
    several = weights.head_uses > 1 or (kept_ids(case, stage) > 0 and bool(stage.graph.made_for("data_rows")))
    width = 2 if case.native else 4
    # In bfloat16 one is summed in float32 and then converted.
    each = (6 if case.native else 4) + (width if several else 0) if weights.head_uses else 0
    note = "of all ids at once" + (", by two ways" if several else "")
    yield MemoryRow(name="head's gradient", bytes=each * head, note=note, phase="learn")
    if weights.embedded and not case.zero:
        # It comes last, when activations are gone; of a weight that is both, the two meet before they are added.
        twice = bool(weights.head_uses) + case.accumulates
        yield MemoryRow(name="embedding's gradient", bytes=4 * twice * head, note="of all ids at once", phase="update")


def _logits(case: Case, stage: StagePlan, scored: int) -> int:
    """Bytes of logits that are held at once where `scored` rows meet a head, and of what is gathered of it."""
    sizes, budget = case.dimensions, TILES["cpu" if case.on_cpu else "cuda"]
    narrow = 2 if case.half else 0
    kept = kept_ids(case, stage)
    gathered = 2 * 4 * budget if kept else 0
    if kept and not stage.graph.made_for("data_rows"):
        return gathered
    if scored * sizes.vocabulary <= DIRECT:
        return max(gathered, (8 + narrow) * scored * sizes.vocabulary)
    rows = max(1, min(scored, MOST_TILE_ROWS, int(budget**0.5)))
    columns = min(sizes.vocabulary, budget // rows)
    return max(gathered, (4 + narrow) * rows * columns + (4 + 2 * narrow) * columns * sizes.hidden)


def _supports(case: Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """Ids that sampling kept, [rows, S, T, K] int32: a micro-batch's on the device, all rollouts' in host memory."""
    kept = kept_ids(case, stage)
    if not kept:
        return
    place = case.streams * case.tokens * kept
    note = f"ids that sampling kept, up to {kept} a position, to score by the same distribution"
    yield MemoryRow(name="supports", bytes=SUPPORT_BYTES * case.geometry.micro_batch * place, note=note, phase="learn")
    if case.on_cpu:
        rollouts = case.geometry.prompts_per_process * case.geometry.group_size
        yield MemoryRow(name="rollouts' supports", bytes=4 * rollouts * place, note="int32, of all answers")
