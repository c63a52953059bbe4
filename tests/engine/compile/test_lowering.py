"""DeepSpeed's dictionary: complete, and accepted by DeepSpeed in test_equality."""

import itertools
import json
from typing import Any, Literal, get_args

import pytest

from wavalign.engine.compile.lowering import deepspeed_config, unread_options
from wavalign.schema.optim import OptimSection
from wavalign.schema.runtime import EngineSection, ZeroOptions

OPTIM = OptimSection(learning_rate=3e-6, betas=(0.8, 0.9), epsilon=1e-7, weight_decay=0.05, max_grad_norm=0.7)
Stage = Literal[0, 1, 2, 3]


def lower(
    zero: Stage, *, precision: str = "bf16", device: str = "cuda", offload: bool = False, accumulation: int = 4
) -> dict[str, Any]:
    """The dictionary of 2 rows x `accumulation` x 8 processes."""
    return deepspeed_config(
        EngineSection(type="deepspeed", zero=zero, offload_optimizer=offload),
        OPTIM,
        precision=precision,
        micro_batch=2,
        accumulation=accumulation,
        processes=8,
        device=device,
    )


COMBINATIONS = list(itertools.product(get_args(Stage), ("float32", "bf16"), ("cpu", "cuda"), (False, True)))


@pytest.mark.parametrize(("zero", "precision", "device", "offload"), COMBINATIONS)
def test_nothing_is_left_to_be_found_out(zero: Stage, precision: str, device: str, offload: bool) -> None:
    config = lower(zero, precision=precision, device=device, offload=offload)
    assert '"auto"' not in json.dumps(config)
    assert config["train_batch_size"] == 2 * 4 * 8
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 4
    assert config["gradient_clipping"] == 0.7
    assert config["zero_optimization"]["stage"] == zero
    # No stage may average, reduce or sum gradients in less than float32.
    assert config["communication_data_type"] == "fp32"
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}


def test_the_optimiser_is_torchs() -> None:
    optimizer = lower(2)["optimizer"]
    assert optimizer == {
        "type": "AdamW",
        "params": {
            "lr": 3e-6,
            "betas": [0.8, 0.9],
            "eps": 1e-7,
            "weight_decay": 0.05,
            "adam_w_mode": True,
            "torch_adam": True,
            "fused": True,
        },
    }


@pytest.mark.parametrize("zero", get_args(Stage))
def test_keys_of_another_stage_are_absent(zero: Stage) -> None:
    section = lower(zero, offload=zero > 0)["zero_optimization"]
    assert any(key.startswith("stage3_") for key in section) == (zero == 3)
    assert ("sub_group_size" in section) == (zero == 3)
    assert ("allgather_partitions" in section) == (zero in (1, 2))
    assert ("offload_optimizer" in section) == (zero > 0)
    assert "offload_param" not in section
    if zero == 0:
        assert section == {"stage": 0}


@pytest.mark.parametrize("zero", get_args(Stage))
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_precision(zero: Stage, precision: str) -> None:
    config = lower(zero, precision=precision)
    half = precision == "bf16"
    assert config["fp16"] == {"enabled": False}
    assert config["bf16"]["enabled"] == (half and zero > 0)
    assert config["torch_autocast"]["enabled"] == (half and zero == 0)


def test_a_host_gets_small_buffers_and_no_pinned_memory() -> None:
    cpu, cuda = (lower(3, device=device, offload=True)["zero_optimization"] for device in ("cpu", "cuda"))
    assert cpu["reduce_bucket_size"] * 4 <= 32 << 20 < cuda["reduce_bucket_size"] * 4
    assert (cpu["overlap_comm"], cuda["overlap_comm"]) == (False, True)
    assert cpu["offload_optimizer"] == {"device": "cpu", "pin_memory": False}
    assert cuda["offload_optimizer"] == {"device": "cpu", "pin_memory": True}


def test_options_of_its_own_stand_over_the_plans() -> None:
    engine = EngineSection(type="deepspeed", zero=2, options=ZeroOptions(reduce_bucket_size=7, overlap_comm=False))
    lowered = deepspeed_config(
        engine, OPTIM, precision="bf16", micro_batch=1, accumulation=1, processes=2, device="cuda"
    )
    section = lowered["zero_optimization"]
    assert (section["reduce_bucket_size"], section["overlap_comm"]) == (7, False)
    assert section["allgather_bucket_size"] == lower(2)["zero_optimization"]["allgather_bucket_size"]
    assert list(unread_options(engine)) == []


@pytest.mark.parametrize(
    ("engine", "unread"),
    [
        (EngineSection(options=ZeroOptions(reduce_bucket_size=7)), ["reduce_bucket_size"]),
        (
            EngineSection(type="deepspeed", options=ZeroOptions(reduce_bucket_size=7, overlap_comm=True)),
            ["reduce_bucket_size", "overlap_comm"],
        ),
        (
            EngineSection(type="deepspeed", zero=2, options=ZeroOptions(stage3_max_live_parameters=7)),
            ["stage3_max_live_parameters"],
        ),
        (
            EngineSection(type="deepspeed", zero=3, options=ZeroOptions(allgather_bucket_size=7)),
            ["allgather_bucket_size"],
        ),
    ],
)
def test_options_that_nobody_reads(engine: EngineSection, unread: list[str]) -> None:
    assert list(unread_options(engine)) == unread
