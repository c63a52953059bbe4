"""bfloat16 on a CPU: answers are sampled from the distribution that is learned under."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.engine.backends.tiny import build
from tests.plugins.architectures.test_conformance import LENGTHS, MAKERS, lively
from tests.plugins.architectures.vita_helpers import NUM_CODES, codes_of, spoken
from tests.toy.compiled import compiled, put
from tests.toy.live import train
from wavalign.engine.backends.base import Backend
from wavalign.engine.models.fused_logprobs import DirectLogprobs, KeptLogprobs, Query, TiledLogprobs
from wavalign.engine.models.scored_policy import ScoredPolicy, score_batch
from wavalign.engine.state.distributed import World
from wavalign.plugins.api import Architecture, SamplingOptions
from wavalign.plugins.batch import SCORED_ROLES, RolloutGroup, collate, concatenate
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams


@pytest.mark.parametrize("function", [DirectLogprobs, TiledLogprobs, KeptLogprobs])
def test_logits_are_not_rounded(function: type[DirectLogprobs | TiledLogprobs | KeptLogprobs]) -> None:
    """Half precision comes in, and from there on everything is float32, as in the sampler."""
    draw = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(rows, 48, generator=draw).to(torch.bfloat16) for rows in (7, 33))
    targets = torch.arange(7)
    support = torch.arange(33, dtype=torch.int32).expand(7, -1) if function is KeptLogprobs else None
    found, _ = function.apply(hidden, head, Query(targets, None, support))  # type: ignore[no-untyped-call]
    wanted = (hidden.double() @ head.double().t()).log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
    assert found.dtype == torch.float32
    assert float(wanted.abs().max()) > 10, "logits that bfloat16 would round to a sixteenth"
    assert torch.allclose(found.double(), wanted, rtol=0, atol=2e-5)


def sampled(backend: Backend, architecture: Architecture) -> list[RolloutGroup]:
    """Eight answers to each of four prompts, as a step samples them."""
    dialogues = [spoken(f"d{n}", [(3 * n + i) % NUM_CODES for i in range(n)]) for n in LENGTHS]
    prompts = [(dialogue, architecture.encode_prompt(dialogue, codes_of)) for dialogue in dialogues]
    options = SamplingOptions(group_size=8, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=24)
    with backend.full_parameters():
        sampler = KvCache(KvCacheParams())
        return sampler.sample(backend.policy, architecture, prompts, options, torch.Generator().manual_seed(5))


def errors(kind: str, architecture: Architecture) -> tuple[Tensor, Tensor]:
    """Of log-probs [N] of sampled tokens, what the sampler's and the trainer's are off those in float64."""
    policy = lively(architecture.build_policy(seed=0), 8.0)
    exact, space = deepcopy(policy).double(), architecture.tokens
    backend = build(kind, ranks=World.single(), accumulation=1, precision="bf16", module=ScoredPolicy(policy, space))
    for ours, theirs in zip(exact.parameters(), backend.policy.parameters(), strict=True):
        ours.data = theirs.data.double()  # rounded where the backend holds bfloat16 alone
    groups = sampled(backend, architecture)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rows = [concatenate(group.prompt, rollout.completion, space) for group in groups for rollout in group.rollouts]
    batch = collate(rows, space)
    old = torch.zeros(batch.ids.shape)
    for index, (row, rollout) in enumerate(zip(rows, rollouts, strict=True)):
        old[index, :, row.length - rollout.logprobs.shape[1] : row.length] = rollout.logprobs
    select = torch.isin(batch.roles, torch.tensor([int(role) for role in SCORED_ROLES], dtype=torch.int8))
    learned = backend.score(batch, select, temperature=1.0)
    with torch.no_grad():
        true = score_batch(exact, batch, select, space, temperature=1.0)
    backend.close()
    return (old - true)[select], (learned - true)[select]


def size(values: Tensor) -> float:
    """Root of the mean square of `values` [N]."""
    return float(values.square().mean().sqrt())


@pytest.mark.parametrize("kind", ["plain", pytest.param("zero2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["vita", "vita, multi-token", "kimi", "codec_lm", "codec_lm, qwen2 trunk"])
def test_sampler_and_trainer_differ_by_rounding_alone(tmp_path: Path, name: str, kind: str) -> None:
    """Both are equally far from the truth, in no direction, and no farther from one another than two roundings are."""
    sampler, trainer = errors(kind, MAKERS[name](tmp_path))
    gap = trainer - sampler
    assert len(gap) > 400
    assert 1e-4 < size(sampler) < 0.03, "computed in bfloat16, and of its size"
    assert size(trainer) == pytest.approx(size(sampler), rel=0.15)
    assert size(gap) < 1.15 * (size(sampler) ** 2 + size(trainer) ** 2) ** 0.5
    for each in (sampler, trainer, gap):
        assert abs(float(each.mean())) < 4 * float(each.std()) / len(each) ** 0.5, "none leans to one side"


def test_the_first_ratio_of_a_step_says_how_far_apart_they_are(tmp_path: Path) -> None:
    """In the metrics of every step: 1 but for rounding, before the first update of its answers."""
    (exact, *_), _ = train(compiled(tmp_path), steps=1)
    (half, *_), _ = train(compiled(tmp_path, put("runtime.precision", "bf16")), steps=1)
    assert abs(exact["ratio/first"] - 1) < 1e-5 and exact["rl/max_log_ratio"] < 1e-5
    assert 1e-6 < half["rl/max_log_ratio"] < 0.05
    assert abs(half["ratio/first"] - 1) < 0.01
