"""TRL's side: its GRPOTrainer, whole, with the frozen completions handed in through `rollout_func`.

The mask goes in as `env_mask`, the behaviour log-probs as the `old_per_token_logps` that the trainer would otherwise
compute itself: both are inputs that its own loss reads.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from datasets import Dataset  # type: ignore[import-untyped]  # it ships no types
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from benchmarks.grpo.mini_batches import parts
from benchmarks.grpo.point import CLIP, Measured, Point, Stopwatch, plain_settings, reward_of


@final
class _Replay:
    """Frozen completions by the prompt, which is its number."""

    def __init__(self, world: Path) -> None:
        frozen = json.loads((world / "frozen.json").read_text(encoding="utf-8"))
        self.prompts, self.answers, self.chats = frozen["prompts"], frozen["answers"], frozen["chats"]
        self.logprobs: list[list[float]] = []

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        """The answers of each prompt in turn, as often as it comes."""
        size = trainer.num_generations
        chosen = [self.answers[int(prompt)][place % size] for place, prompt in enumerate(prompts)]
        self.logprobs = [answer["logprobs"] for answer in chosen]
        return {
            "prompt_ids": [self.prompts[int(prompt)] for prompt in prompts],
            "completion_ids": [answer["ids"] for answer in chosen],
            "logprobs": self.logprobs,
            "env_mask": [answer["mask"] for answer in chosen],
        }


@final
class _Trainer(GRPOTrainer):
    """Takes the ratio to the frozen log-probs."""

    replay: _Replay | None = None
    parts: Sequence[Sequence[int]] = ()
    """By update, the answers that it learns from, where a step has several updates: those that ours draws."""

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        if not self.parts:
            return inputs
        chosen = torch.tensor(self.parts[self._step])
        return {
            name: value[chosen] if isinstance(value, torch.Tensor) and value.dim() else value
            for name, value in self._whole.items()
        }

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        if self.replay is not None:
            old = torch.zeros(batch["completion_ids"].shape)
            for row, values in enumerate(self.replay.logprobs):
                old[row, : len(values)] = torch.tensor(values)
            batch["old_per_token_logps"] = old
        self._whole = batch
        return batch


@final
class _Watching(TrainerCallback):
    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._watch.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._watch.tick()


def _by_step(numbers: Sequence[float], point: Point) -> list[float]:
    """Means over the updates of each step, as our log has them."""
    each = point.updates
    return [sum(numbers[at : at + each]) / each for at in range(0, len(numbers), each)]


def _reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    return [reward_of(ids) for ids in completion_ids]


def _settings(point: Point, folder: Path, *, log_every: int) -> GRPOConfig:
    return GRPOConfig(
        per_device_train_batch_size=point.rows // point.mini_batches,
        gradient_accumulation_steps=1,
        steps_per_generation=point.mini_batches,
        num_iterations=point.epochs,
        num_generations=point.group_size,
        max_completion_length=point.completion_length,
        temperature=1.0,
        max_steps=point.total_steps * point.updates,
        learning_rate=point.learning_rate,
        loss_type=point.loss_type,
        epsilon=CLIP,
        beta=point.beta,
        use_bias_correction_kl=False,
        scale_rewards="group",
        shuffle_dataset=False,
        **plain_settings(folder, log_every),
    )


def measure(point: Point, world: Path, folder: Path, *, log: bool) -> tuple[Measured, Path]:
    """Train; gives the numbers and the file of the trained weights. `log` asks the trainer for every step's numbers."""
    torch.set_num_threads(point.threads)
    replay, measured = _Replay(world), Measured()
    names = [str(index % point.prompts) for index in range(point.prompts * point.total_steps)]
    prompts = [replay.chats[int(name)] for name in names] if point.sampling else names
    every = 1 if log else 10**6
    trainer = _Trainer(
        model=str(world / "qwen2"),
        reward_funcs=_reward,
        args=_settings(point, folder, log_every=every),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=PreTrainedTokenizerFast.from_pretrained(world / "qwen2"),
        callbacks=[_Watching(Stopwatch(point, measured))],
        rollout_func=None if point.sampling else replay,
    )
    trainer.replay = None if point.sampling else replay
    trainer.parts = parts(point, world) if point.updates > 1 else ()
    trainer.train()
    lines = [line for line in trainer.state.log_history if "grad_norm" in line]
    measured.losses = _by_step([line["loss"] for line in lines], point)
    measured.grad_norms = _by_step([line["grad_norm"] for line in lines], point)
    key = "completions/mean_length"
    measured.new_tokens = [line[key] for line in trainer.state.log_history if key in line]
    assert trainer.model is not None
    weights = {name: tensor.contiguous() for name, tensor in trainer.model.state_dict().items()}
    if point.tied:
        weights.pop("lm_head.weight", None)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    return measured, folder / "model.safetensors"
