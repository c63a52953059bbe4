"""What one device holds at its fullest, by a formula; measured peaks are in benchmarks/.

Per parameter: weight, gradient and two Adam moments in float32 (16 bytes), sharded by the ZeRO stage; under bf16 a
2-byte compute copy. A frozen reference adds its weights. Activations follow the usual transformer count of stored
tensors per layer: about 2 * (17 * hidden + 3 * intermediate) bytes a token in bf16, twice that in float32.
"""

from wavalign.engine.compile.plan import Cluster, Geometry, Graph, Memory, MemoryRow
from wavalign.plugins.api import Dimensions
from wavalign.schema.runtime import RuntimeSection

TILE_BYTES = 32 * 2**20
"""One logits tile of the fused log-probs with its gradient, see run/logprobs.py."""


def estimate_memory(
    dimensions: Dimensions,
    *,
    graph: Graph,
    geometry: Geometry,
    runtime: RuntimeSection,
    tokens_per_row: int,
    cluster: Cluster,
) -> Memory:
    """Rows of memory of one device; `tokens_per_row` is the longest prompt plus answer expected."""
    zero = runtime.engine.zero if runtime.engine.type == "deepspeed" else 0
    ranks, count = geometry.processes, dimensions.parameters
    width = 2 if runtime.precision == "bf16" else 4
    offload = runtime.engine.type == "deepspeed" and runtime.engine.offload_optimizer
    rows = [
        MemoryRow(name="weights", bytes=4 * count // (ranks if zero == 3 else 1), note="float32"),
        MemoryRow(name="gradients", bytes=4 * count // (ranks if zero >= 2 else 1), note="float32"),
        MemoryRow(
            name="optimiser",
            bytes=0 if offload else 8 * count // (ranks if zero >= 1 else 1),
            note="two Adam moments in float32" + (", in host memory" if offload else ""),
        ),
    ]
    if width == 2:
        rows.append(MemoryRow(name="bf16 copy", bytes=2 * count, note="of the weights, during a forward"))
    if graph.reference:
        rows.append(MemoryRow(name="reference", bytes=4 * count, note="frozen float32 weights"))
    per_token = width * (17 * dimensions.hidden + 3 * dimensions.intermediate) * dimensions.layers
    tokens = geometry.micro_batch * tokens_per_row
    rows.append(
        MemoryRow(
            name="activations",
            bytes=tokens * per_token,
            note=f"{geometry.micro_batch} rows x {tokens_per_row} tokens",
        )
    )
    rows.append(MemoryRow(name="logits", bytes=TILE_BYTES, note="one tile, whatever the vocabulary"))
    if graph.has("rollout"):
        cached = geometry.prompts_per_process * geometry.group_size * tokens_per_row
        cache_bytes = cached * dimensions.key_value_width * dimensions.layers * width
        rows.append(MemoryRow(name="KV cache", bytes=cache_bytes, note="while sampling"))
    on_gpu = runtime.device != "cpu" and cluster.gpus > 0
    return Memory(rows=tuple(rows), capacity=cluster.gpu_bytes if on_gpu else cluster.host_bytes // max(1, ranks))
