"""TRL's side of a DPO step: its DPOTrainer, whole, over the same weights, pairs and ids."""

from pathlib import Path
from typing import Any, final

import torch
from datasets import Dataset  # type: ignore[import-untyped]  # it ships no types
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from benchmarks.dpo.point import Point, pairs_of
from benchmarks.grpo.point import Measured, Stopwatch, plain_settings
from benchmarks.grpo.world import chat


@final
class _Watching(TrainerCallback):
    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._watch.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._watch.tick()


def _settings(point: Point, folder: Path, *, log_every: int) -> DPOConfig:
    return DPOConfig(
        per_device_train_batch_size=point.pairs,
        gradient_accumulation_steps=1,
        max_steps=point.total_steps,
        max_length=None,
        learning_rate=point.learning_rate,
        loss_type=[point.variant],
        label_smoothing=point.label_smoothing,
        beta=point.beta,
        precompute_ref_log_probs=point.reference == "once",
        **plain_settings(folder, log_every),
    )


def measure(point: Point, world: Path, folder: Path, *, log: bool) -> tuple[Measured, Path]:
    """Train; gives the numbers and the file of the trained weights. `log` asks the trainer for every step's numbers."""
    torch.set_num_threads(point.threads)
    measured = Measured()
    records = [{**each, "prompt": chat(each["prompt"])} for each in pairs_of(point)]
    trainer = DPOTrainer(
        model=str(world / "qwen2"),
        args=_settings(point, folder, log_every=1 if log else 10**6),
        train_dataset=Dataset.from_list(records),
        processing_class=PreTrainedTokenizerFast.from_pretrained(world / "qwen2"),
        callbacks=[_Watching(Stopwatch(point, measured))],
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "grad_norm" in line]
    measured.losses = [line["loss"] for line in lines]
    measured.grad_norms = [line["grad_norm"] for line in lines]
    assert trainer.model is not None
    weights = {name: tensor.contiguous() for name, tensor in trainer.model.state_dict().items()}
    if point.tied:
        weights.pop("lm_head.weight", None)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    return measured, folder / "model.safetensors"
