"""From sections to DeepSpeed's own dictionary: complete, nothing left to be found out while it runs.

What a key means is in DeepSpeed's configuration page. Decisions taken here:

- AdamW is torch's fused one in every case, as in the plain backend, so that all stages update by its numbers. Unfused
  it walks six times through weights and moments, and makes copies as large as a rank's part of them.
- `bf16` at stage 0 is autocast over float32 weights, as in the plain backend: DeepSpeed's own bfloat16 mode would add
  up gradients in bfloat16 there. From stage 1 on weights and activations are bfloat16, while master weights, gradient
  sums, their transport and optimiser states are float32.
- `fp16` is the same in float16, with a dynamic loss scale. At stage 0 autocast and scale are the backend's: the scaler
  of DeepSpeed's autocast is in no checkpoint, and a second engine of the process would use it beside its own.
- `gradient_accumulation_steps` is what an update is planned to take; the backend tells the engine that of each one.
- Buffers are sized in elements: large on a GPU, where they hide the network, small in a host's memory.
"""

from collections.abc import Iterator
from typing import Any

from wavalign.schema.optim import OptimSection
from wavalign.schema.runtime import EngineSection, ZeroOptions

_BUCKET = {"cuda": 50_000_000, "cpu": 5_000_000}
SCALING = {
    "enabled": True, "auto_cast": False, "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000,
    "hysteresis": 1, "consecutive_hysteresis": False, "min_loss_scale": 1,
}  # fmt: skip
"""A dynamic scale, by the numbers of `backends/loss_scale.py`."""
_PERSIST = 10_000
"""Parameters up to this many elements (norms, biases) stay whole at stage 3."""


def deepspeed_config(
    engine: EngineSection,
    optim: OptimSection,
    *,
    precision: str,
    micro_batch: int,
    accumulation: int,
    processes: int,
    device: str,
) -> dict[str, Any]:
    """DeepSpeed's configuration of one stage; `precision` float32, bf16 or fp16, `device` cpu or cuda."""
    half = precision != "float32" and engine.zero > 0
    fp16 = precision == "fp16"
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch * accumulation * processes,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": optim.learning_rate,
                "betas": list(optim.betas),
                "eps": optim.epsilon,
                "weight_decay": optim.weight_decay,
                "adam_w_mode": True,
                "torch_adam": True,
                "fused": True,
            },
        },
        "gradient_clipping": optim.max_grad_norm,
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "fp16": dict(SCALING) if half and fp16 else {"enabled": False},
        "bf16": {"enabled": half and not fp16, "check_grad_overflow": True},
        "torch_autocast": {
            "enabled": precision == "bf16" and not half,
            "dtype": "float16" if fp16 and not half else "bfloat16",
        },
        "zero_optimization": _zero(engine, device),
        "zero_allow_untested_optimizer": False,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
        "memory_breakdown": False,
        "dump_state": False,
    }


def _zero(engine: EngineSection, device: str) -> dict[str, Any]:
    bucket = _BUCKET[device]
    if engine.zero == 0:
        return {"stage": 0}
    zero: dict[str, Any] = {
        "stage": engine.zero,
        "contiguous_gradients": True,
        "overlap_comm": device == "cuda",
        "reduce_scatter": True,
        "reduce_bucket_size": bucket,
    }
    if engine.zero < 3:
        zero |= {
            "allgather_partitions": True,
            "allgather_bucket_size": bucket,
            "round_robin_gradients": False,
            "ignore_unused_parameters": True,
        }
    else:
        zero |= {
            "sub_group_size": 1_000_000_000,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": _PERSIST,
            "stage3_max_live_parameters": 1_000_000_000,
            "stage3_max_reuse_distance": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": False,
            "memory_efficient_linear": True,
        }
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device == "cuda"}
    if engine.zero == 3 and engine.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": device == "cuda"}
    return zero | engine.options.given


def unread_options(engine: EngineSection) -> Iterator[str]:
    """Stated options of DeepSpeed's own that the engine would not look at."""
    reads = _zero(engine.model_copy(update={"options": ZeroOptions()}), "cpu") if engine.type == "deepspeed" else {}
    yield from (name for name in engine.options.given if name not in reads)
