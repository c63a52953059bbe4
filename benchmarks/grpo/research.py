"""The pattern of research code: every logit of every position, and three log-softmaxes over all of them.

One for the policy's log-probs, one of the same logits for the entropy that is logged, one for the reference. All the
rest (batching, loss, fused AdamW) is as lean as we could write it, with the mask applied to the losses at the end.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2ForCausalLM

from benchmarks.grpo.point import (
    ADVANTAGE_EPSILON,
    BETAS,
    CLIP,
    EPSILON,
    MAX_NORM,
    Measured,
    Point,
    Stopwatch,
    reward_of,
)

COPIES = 8
"""Matrices [B, T, V] in float32 that exist at once, roughly; for the question whether they fit."""


def bytes_needed(point: Point) -> int:
    """Rough memory of a step."""
    return COPIES * 4 * point.rows * (point.prompt_length + point.completion_length) * point.vocabulary


def measure(point: Point, world: Path, folder: Path) -> tuple[Measured, Path]:
    """Train; gives the numbers and the file of the trained weights."""
    torch.set_num_threads(point.threads)
    batch = _batch(point, world)
    policy = Qwen2ForCausalLM.from_pretrained(world / "qwen2", dtype=torch.float32)
    reference = Qwen2ForCausalLM.from_pretrained(world / "qwen2", dtype=torch.float32) if point.beta else None
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=point.learning_rate, betas=BETAS, eps=EPSILON, weight_decay=0.0, fused=True
    )
    measured = Measured()
    watch = Stopwatch(point, measured)
    watch.begin()
    for _ in range(point.total_steps):
        loss = _loss(point, policy, reference, batch)
        loss.backward()
        measured.grad_norms.append(float(torch.nn.utils.clip_grad_norm_(policy.parameters(), MAX_NORM)))
        measured.losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
        watch.tick()
    weights = {name: tensor.contiguous() for name, tensor in policy.state_dict().items()}
    if point.tied:
        weights.pop("lm_head.weight", None)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    return measured, folder / "model.safetensors"


def _loss(
    point: Point, policy: Qwen2ForCausalLM, reference: Qwen2ForCausalLM | None, batch: dict[str, Tensor]
) -> Tensor:
    """As the other contenders' loss type `grpo`: the mean over sequences of their tokens' mean."""
    logits = policy(batch["ids"], attention_mask=batch["attention"]).logits[:, :-1]
    logprobs = _picked(logits.log_softmax(dim=-1), batch)
    with torch.no_grad():
        spread = logits.log_softmax(dim=-1)
        entropy = -(spread.exp() * spread).sum(dim=-1)
        batch["entropy"] = (entropy * batch["mask"]).sum() / batch["mask"].sum()
        del spread
    ratio = (logprobs - batch["old"]).exp()
    gains = torch.min(ratio * batch["advantages"], ratio.clamp(1 - CLIP, 1 + CLIP) * batch["advantages"])
    losses = -gains
    if reference is not None:
        with torch.no_grad():
            theirs = reference(batch["ids"], attention_mask=batch["attention"]).logits[:, :-1]
            gap_to = _picked(theirs.log_softmax(dim=-1), batch)
        gap = gap_to - logprobs
        losses = losses + point.beta * (gap.exp() - gap - 1)
    mask = batch["mask"]
    return ((losses * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def _picked(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return scores.gather(2, batch["ids"][:, 1:, None])[:, :, 0]


def _batch(point: Point, world: Path) -> dict[str, Tensor]:
    """All rows, right-padded: ids and attention [B, T], the others [B, T - 1] or [B, 1]."""
    frozen = json.loads((world / "frozen.json").read_text(encoding="utf-8"))
    pairs = list(_pairs(frozen))
    longest = max(len(prompt) + len(answer["ids"]) for prompt, answer in pairs)
    shape = (len(pairs), longest)
    batch = {"ids": torch.zeros(shape, dtype=torch.int64), "attention": torch.zeros(shape, dtype=torch.int64)}
    batch |= {"old": torch.zeros(shape), "mask": torch.zeros(shape)}
    for row, (prompt, answer) in enumerate(pairs):
        begin, end = len(prompt), len(prompt) + len(answer["ids"])
        batch["ids"][row, :end] = torch.tensor(prompt + answer["ids"])
        batch["attention"][row, :end] = 1
        batch["old"][row, begin:end] = torch.tensor(answer["logprobs"])
        batch["mask"][row, begin:end] = torch.tensor(answer["mask"]).float()
    rewards = torch.tensor([reward_of(answer["ids"]) for _, answer in pairs]).view(point.prompts, point.group_size)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    advantages = centred / (rewards.std(dim=1, keepdim=True) + ADVANTAGE_EPSILON)
    shifted = {name: batch[name][:, 1:] for name in ("old", "mask")}
    return {**batch, **shifted, "advantages": advantages.view(-1, 1)}


def _pairs(frozen: dict[str, list]) -> Iterator[tuple[list[int], dict[str, list]]]:  # type: ignore[type-arg]  # lists of several kinds
    for prompt, answers in zip(frozen["prompts"], frozen["answers"], strict=True):
        for answer in answers:
            yield prompt, answer
