"""What one device holds at its fullest, by a formula; docs/memory.md derives it and works an example by hand.

Weights, gradients, masters and moments are counted from what each backend keeps, and agree with its tensors. The rest
is an estimate: what autograd keeps of a decoder layer, the cache of keys and values, buffers. The moments of a step -
answers are collected, a micro-batch goes forward and backward, the weights move - do not overlap: the largest counts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal, final

from wavalign.engine.compile.adapter import WeightCounts
from wavalign.engine.compile.geometry import only_measuring
from wavalign.engine.compile.plan import Cluster, Geometry, Memory, MemoryRow, StagePlan
from wavalign.plugins.api import Dimensions
from wavalign.schema.runtime import RuntimeSection

TILES = {"cpu": 2**20, "cuda": 2**26}
"""Numbers of a tile of logits, and of gathered rows of a head, by device: see models/fused_logprobs.py, as the next."""
DIRECT, MOST_TILE_ROWS = 2**22, 4096
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
ROOTS = "square roots"
Phase = Literal["held", "collect", "train", "learn", "update"]
KEPT_HIDDEN = {"float32": 32, "autocast": 24, "bf16": 20}
"""Bytes per token, layer and unit of the hidden width that autograd keeps: norms, projections, residuals."""


@final
@dataclass(frozen=True, slots=True)
class RowSizes:
    """How long rows are expected to be, and how many are measured."""

    streams: int
    prompt: int
    """Tokens of the longest prompt."""
    answer: int
    """Tokens of the longest answer that is learned from."""
    sampled: int = 0
    """Tokens of the longest answer that is sampled."""
    held_out: int = 0
    """Dialogues of the largest held-out split, on one process."""
    singles: int = 1
    """Rows that one dialogue of the data comes to at most: two of a pair."""


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
    row: RowSizes
    on_cpu: bool = False

    @property
    def streams(self) -> int:
        return self.row.streams

    @property
    def tokens(self) -> int:
        """Of the longest row that is learned from."""
        return self.row.prompt + self.row.answer

    @property
    def scored(self) -> int:
        """Positions of one stream of a micro-batch that a head may score: answers."""
        return self.geometry.micro_batch * self.row.answer

    @property
    def given(self) -> int:
        """Most tokens that the network is given at once."""
        most = self._given_of(self.geometry.micro_batch)
        budget = self.geometry.micro_batch_tokens
        return most if budget is None else min(most, max(budget, self.tokens))

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row that the network is given: what a group shares and the rest of each of its rows."""
        together = max(self.row.singles, self.geometry.group_size) if self.geometry.share_prompts else 1
        return self.row.prompt + min(together, self.geometry.micro_batch) * self.row.answer

    @property
    def accumulates(self) -> bool:
        """Whether an update has several micro-batches."""
        cut = self.geometry
        rows = ceil((cut.rows_per_process + (self.row.singles - 1) * self._data) / cut.mini_batches)
        return cut.accumulation > 1 or rows > cut.micro_batch or self._given_of(rows) > self.given

    @property
    def _data(self) -> int:
        return sum(each.groups_per_process for each in self.geometry.families)

    def _given_of(self, rows: int) -> int:
        """Tokens of a forward over so many rows, those of data among them as far as there are any."""
        cut, row = self.geometry, self.row
        data = min(rows, self._data * row.singles)
        prompts = ceil(data / row.singles) + ceil((rows - data) / max(1, cut.group_size))
        return (prompts if cut.share_prompts else rows) * row.prompt + rows * row.answer

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
    row: RowSizes,
    cluster: Cluster,
) -> Memory:
    """Rows of memory of one device, for a stage that has a network."""
    learns = stage.geometry is not None
    deepspeed = runtime.engine.type == "deepspeed" and learns
    processes = runtime.processes if isinstance(runtime.processes, int) else max(1, cluster.gpus)
    on_gpu = runtime.device != "cpu" and cluster.gpus > 0
    case = _Case(
        dimensions,
        weights,
        stage.geometry or only_measuring(processes),
        zero=runtime.engine.zero if deepspeed else 0,
        offload=deepspeed and runtime.engine.offload_optimizer,
        half=runtime.precision == "bf16",
        row=row,
        on_cpu=not on_gpu,
    )
    rows = list(_training(case, stage, runtime) if learns else _answering(case))
    rows += [*_helpers(case), *_collecting(case, stage)]
    if on_gpu:
        rows.append(MemoryRow(name="CUDA", bytes=CUDA_BYTES, note="its context and libraries"))
    ranks = max(1, case.geometry.processes)
    return Memory(rows=tuple(rows), capacity=cluster.gpu_bytes if on_gpu else cluster.host_bytes // ranks)


def _training(case: _Case, stage: StagePlan, runtime: RuntimeSection) -> Iterator[MemoryRow]:
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


def _answering(case: _Case) -> Iterator[MemoryRow]:
    """Of a stage that learns nothing the network, whole on every process."""
    note = "bfloat16" if case.half else "float32"
    yield MemoryRow(name="weights", bytes=case.width * case.weights.held, note=note)


def _helpers(case: _Case) -> Iterator[MemoryRow]:
    if case.dimensions.helper_bytes:
        yield MemoryRow(name="helpers", bytes=case.dimensions.helper_bytes, note="frozen networks outside the policy")


def _states(case: _Case, *, adapted: bool, of: str = "") -> Iterator[MemoryRow]:
    """What training holds from its first step on; `of` is put before the names."""
    trained, frozen, ranks = case.weights.trainable, case.weights.frozen, case.ranks
    wide, narrow = (2 if case.native else 4), (2 if case.native or (adapted and case.half) else 4)
    count = wide * trained + narrow * frozen
    note = "bfloat16" if case.native else "float32" if wide == narrow or not frozen else "what is frozen in bfloat16"
    yield MemoryRow(name=f"{of}weights", bytes=count // (ranks if case.zero == 3 else 1), note=note)
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


def _gradients(case: _Case, *, name: str, host: str) -> MemoryRow:
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


def _learning(case: _Case, stage: StagePlan, *, recompute: bool) -> Iterator[MemoryRow]:
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


def _head(case: _Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """What scoring needs: logits, states that are scored, and gradients of heads whole before they are added."""
    scored, sizes = case.scored, case.dimensions
    states = (2 * case.width + 4) * scored * sizes.hidden
    note = "tiles of logits, states that are scored and their gradients"
    size = _logits(case, stage, scored) + states
    yield MemoryRow(name="logits", bytes=size, note=note, phase="learn")
    head, weights = case.weights.head, case.weights
    if not head:
        return
    several = weights.head_uses > 1 or (_kept_ids(case, stage) > 0 and bool(stage.graph.made_for("data_rows")))
    width = 2 if case.native else 4
    # In bfloat16 one is summed in float32 and then converted.
    each = (6 if case.native else 4) + (width if several else 0) if weights.head_uses else 0
    note = "of all ids at once" + (", by two ways" if several else "")
    yield MemoryRow(name="head's gradient", bytes=each * head, note=note, phase="learn")
    if weights.embedded and not case.zero:
        # It comes last, when activations are gone; of a weight that is both, the two meet before they are added.
        twice = bool(weights.head_uses) + case.accumulates
        yield MemoryRow(name="embedding's gradient", bytes=4 * twice * head, note="of all ids at once", phase="update")


def _logits(case: _Case, stage: StagePlan, scored: int) -> int:
    """Bytes of logits that are held at once where `scored` rows meet a head, and of what is gathered of it."""
    sizes, budget = case.dimensions, TILES["cpu" if case.on_cpu else "cuda"]
    narrow = 2 if case.half else 0
    kept = _kept_ids(case, stage)
    gathered = 2 * 4 * budget if kept else 0
    if kept and not stage.graph.made_for("data_rows"):
        return gathered
    if scored * sizes.vocabulary <= DIRECT:
        return max(gathered, (8 + narrow) * scored * sizes.vocabulary)
    rows = max(1, min(scored, MOST_TILE_ROWS, int(budget**0.5)))
    columns = min(sizes.vocabulary, budget // rows)
    return max(gathered, (4 + narrow) * rows * columns + (4 + 2 * narrow) * columns * sizes.hidden)


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
    """What is there while answers are sampled: to learn from, to keep, or to measure."""
    rows = _answers_at_once(case, stage)
    if not rows:
        return
    sizes = case.dimensions
    tokens = case.row.prompt + case.row.sampled
    native = case.half and (case.zero > 0 or stage.geometry is None)
    if native and case.on_cpu:
        size = 4 * sizes.vocabulary * sizes.hidden
        yield MemoryRow(name="float32 head", bytes=size, note="to sample from a bfloat16 one", phase="collect")
    cache = rows * tokens * sizes.key_value_width * sizes.layers * case.width
    yield MemoryRow(name="KV cache", bytes=cache, note=f"{rows} answers at once", phase="collect")
    note = "logits and probabilities of the next token"
    yield MemoryRow(name="choice", bytes=CHOICE_BYTES * rows * sizes.vocabulary, note=note, phase="collect")


def _answers_at_once(case: _Case, stage: StagePlan) -> int:
    """Most answers of one process that are sampled together; a group is never split."""
    section, sizes = stage.stage, case.geometry
    group = section.rollout.group_size
    asked = [(sizes.prompts_per_process if stage.graph.gives("rollouts") else 0, sizes.group_size)]
    if stage.kind.leaves == "dataset":
        asked.append((section.generate.chunk, group))
    if stage.kind.measures and not stage.kind.pairs and section.evaluation.metrics:
        best = section.evaluation.best_of
        asked.append((case.row.held_out, section.evaluation.sampling.group_size if best is None else best.n))
    limit = section.rollout.sampler.params.get("max_rows")
    if isinstance(limit, int):
        asked = [(min(prompts, max(1, limit // max(1, each))), each) for prompts, each in asked]
    return max(prompts * each for prompts, each in asked)
