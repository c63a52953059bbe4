"""What one device holds while answers are sampled: to learn from them, to keep them, or to measure.

First the prompts go through the network, each once; then their keys and values are repeated for the answers, weights
are copied into the layout that single tokens are multiplied fastest in, and the answers are drawn.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from wavalign.engine.compile.memory_sizes import Case
from wavalign.engine.compile.plan import MemoryRow, StagePlan

SPARE_SLOTS, ROUNDED_SLOTS = 64, 128
"""Slots of a cache beside those of prompts before it is known how many tokens come, and of what multiple a GPU holds
caches: see architectures/caching.py and samplers/recorded.py."""
JOINED_FROM, TURNED_FROM = 8, 2**20
"""Tokens to be sampled, and numbers in a head, from which on copies are made: samplers/kv_cache.py and heads.py."""
NUCLEUS = 512
"""Ids that `top_p` alone is taken to keep at most; how many it does is seen while sampling."""


def collecting(case: Case, stage: StagePlan) -> Iterator[MemoryRow]:
    """The fuller of two moments: prompts going through the network, and answers being drawn."""
    prompts, group = _asked(case, stage)
    if not prompts * group:
        return
    params: Mapping[str, Any] = stage.stage.rollout.sampler.params
    before, rows = list(_prefill(case, prompts)), list(_drawing(case, stage, prompts * group))
    yield from max((before, rows), key=lambda moment: sum(row.bytes for row in moment))
    if not case.on_cpu and params.get("cuda_graphs"):
        cache = sum(row.bytes for row in rows if row.name in ("KV cache", "choice"))
        kept, note = int(params.get("keep_mib", 0)) << 20, "of recorded sampling steps, for the next call"
        if cache <= kept:
            yield MemoryRow(name="kept tensors", bytes=cache, note=note, phase="train")


def _asked(case: Case, stage: StagePlan) -> tuple[int, int]:
    """Prompts that a process answers together, and answers to each; a group is never split."""
    section, sizes = stage.stage, case.geometry
    asked = [(sizes.prompts_per_process if stage.graph.gives("rollouts") else 0, sizes.group_size)]
    if stage.kind.leaves == "dataset":
        asked.append((section.generate.chunk, section.rollout.group_size))
    if stage.kind.measures and not stage.kind.pairs and section.evaluation.metrics:
        best = section.evaluation.best_of
        asked.append((case.row.held_out, section.evaluation.sampling.group_size if best is None else best.n))
    limit = section.rollout.sampler.params.get("max_rows")
    if isinstance(limit, int):
        asked = [(min(prompts, max(1, limit // max(1, each))), each) for prompts, each in asked]
    return max(asked, key=lambda pair: pair[0] * pair[1])


def _prefill(case: Case, prompts: int) -> Iterator[MemoryRow]:
    sizes, tokens = case.dimensions, prompts * case.row.prompt
    cache = prompts * (case.row.prompt + SPARE_SLOTS) * sizes.key_value_width * sizes.layers * case.width
    yield MemoryRow(name="KV cache", bytes=cache, note=f"{prompts} prompts at once", phase="collect")
    # Of one layer: both inner products and their result, and four of the outer width.
    size = case.width * tokens * (3 * sizes.intermediate + 4 * sizes.hidden)
    yield MemoryRow(name="prompts", bytes=size, note="states of one layer", phase="collect")


def _drawing(case: Case, stage: StagePlan, rows: int) -> Iterator[MemoryRow]:
    sizes, native = case.dimensions, case.half and (case.native or stage.geometry is None)
    slots = case.row.prompt + max(case.row.sampled, SPARE_SLOTS if case.on_cpu else 0)
    slots = slots if case.on_cpu else -(-slots // ROUNDED_SLOTS) * ROUNDED_SLOTS
    layer = rows * slots * sizes.key_value_width * case.width
    # One layer's are there twice while they get room for the answers.
    cache, note = layer * (sizes.layers + 1), f"{rows} answers at once"
    yield MemoryRow(name="KV cache", bytes=cache, note=note, phase="collect")
    joined = stage.stage.rollout.sampler.params.get("fuse_projections") and case.row.sampled >= JOINED_FROM
    if joined and stage.stage.model.adapter is None:
        size, note = _copies(case, native=native), "of weights that share an input, while sampling"
        yield MemoryRow(name="joined projections", bytes=size, note=note, phase="collect")
    turned = joined and sizes.vocabulary * sizes.hidden >= TURNED_FROM
    if case.on_cpu and (turned or native):
        # One of lower precision is converted, and then laid out anew.
        size = 4 * case.weights.projections * (2 if turned and native else 1)
        yield MemoryRow(name="head's copy", bytes=size, note="in float32, to sample from", phase="collect")
    section = stage.stage.rollout
    nucleus = min([section.top_p, *(each.top_p or 1 for each in section.streams.values())]) < 1
    note = "logits of the next token, which become probabilities"
    size = (8 if nucleus else 4) * rows * sizes.vocabulary
    yield MemoryRow(name="choice", bytes=size, note=note, phase="collect")


def _copies(case: Case, *, native: bool) -> int:
    """Bytes of joined projections: of all layers q, k and v, and both inner ones; more where precisions differ."""
    sizes, width = case.dimensions, case.dimensions.hidden
    both = width * (width + sizes.key_value_width) + 2 * width * sizes.intermediate
    if case.half and not native:
        both += width * width + width * sizes.intermediate  # float32 weights, multiplied in bfloat16
    elif case.on_cpu and not case.half:
        both += width * width
    return case.width * both * sizes.layers


def kept_ids(case: Case, stage: StagePlan) -> int:
    """Most ids K that the cut of a sampled distribution keeps; 0 where none is cut."""
    if not stage.graph.gives("rollouts"):
        return 0
    rollout = stage.stage.rollout
    cuts = [(rollout.top_k, rollout.top_p), *((each.top_k, each.top_p) for each in rollout.streams.values())]
    widths = [top_k or (NUCLEUS if (top_p or 1) < 1 else 0) for top_k, top_p in cuts]
    return min(max(widths), case.dimensions.vocabulary)
