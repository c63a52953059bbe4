"""A small policy with a tied head, a frozen part, an unused part and a head used outside its module."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from wavalign.engine.backends.base import AdamSettings, Backend, Precision, Ranks
from wavalign.engine.backends.deepspeed import DeepSpeedBackend
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.compile.lowering import deepspeed_config
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.plugins.api import DecodingState, Policy
from wavalign.plugins.batch import HeadSpec, Role, TokenBatch, TokenSequence, TokenSpace
from wavalign.schema.optim import OptimSection
from wavalign.schema.runtime import EngineSection

VOCABULARY, HIDDEN = 13, 8
SPACE = TokenSpace(
    vocabulary_size=VOCABULARY,
    pad=0,
    streams=("mix",),
    heads=(HeadSpec("main", 0), HeadSpec("second", 0, 2)),
    num_codes=4,
)
OPTIM = OptimSection(learning_rate=1e-2, weight_decay=0.1, max_grad_norm=0.5, epsilon=1e-6)
RATES = (1e-2, 5e-3, 2e-2)


@final
class TinyPolicy(Policy):
    """Embedding (tied to the first head), one residual block, a second head, a frozen scale, an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.up = nn.Linear(HIDDEN, 2 * HIDDEN)
        self.down = nn.Linear(2 * HIDDEN, HIDDEN, bias=False)
        self.norm = nn.LayerNorm(HIDDEN)
        self.second = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight
        self.frozen = nn.Linear(HIDDEN, HIDDEN).requires_grad_(False)
        self.unused = nn.Linear(HIDDEN, HIDDEN)

    def hidden(self, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        states = self.embed(batch.ids[:, 0])
        states = states + self.down(torch.tanh(self.up(states)))
        states = self.norm(states + 0.1 * self.frozen(states))
        return dict.fromkeys(heads, states)

    def head_weight(self, head: int) -> nn.Parameter:
        weight = self.second.weight if head else self.embed.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def decode(
        self, prompts: Sequence[TokenSequence], *, group_size: int, need: Literal["text", "all"]
    ) -> DecodingState:
        raise NotImplementedError


SECOND = (range(4, 8), range(4), range(0), range(2, 6), range(8))
"""Step by step, the rows that use the second head: ranks, micro-batches and steps differ in what they reach."""


def rows(first: int, last: int, *, step: int) -> TokenBatch:
    """Rows `first` to `last` of a step's 8 rows of 7 tokens, the same on every rank."""
    ids = torch.randint(VOCABULARY, (8, 1, 7), generator=torch.Generator().manual_seed(11 + step))
    sources = torch.zeros_like(ids, dtype=torch.int8)
    sources[list(SECOND[step % len(SECOND)]), :, 4:] = 1
    roles = torch.full_like(sources, int(Role.TEXT))
    return TokenBatch(ids[first:last], roles[first:last], sources[first:last], torch.full((last - first,), 7))


def build(
    kind: str,
    *,
    ranks: Ranks,
    accumulation: int,
    precision: Precision = "float32",
    module: ScoredPolicy | None = None,
) -> Backend:
    """`plain`, `zero0` to `zero3`, or one of these with `+offload`, over a tiny policy or over that of `module`."""
    module = module if module is not None else ScoredPolicy(TinyPolicy(), SPACE)
    policy = module.policy
    if kind == "plain":
        settings = AdamSettings(OPTIM.betas, OPTIM.epsilon, OPTIM.weight_decay, OPTIM.max_grad_norm)
        return PlainBackend(module, policy=policy, optimizer=settings, precision=precision, ranks=ranks)
    stage, _, offload = kind.removeprefix("zero").partition("+")
    section = EngineSection.model_validate(
        {"type": "deepspeed", "zero": int(stage), "offload_optimizer": offload == "offload"}
    )
    config = deepspeed_config(
        section,
        OPTIM,
        precision=precision,
        micro_batch=8 // accumulation // ranks.size,
        accumulation=accumulation,
        processes=ranks.size,
        device="cpu",
    )
    if stage == "3":
        # Everything here is small; nothing would be partitioned.
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return DeepSpeedBackend(module, policy=policy, heads=module.head_parameters(), config=config, ranks=ranks)


ONE = torch.ones(())


def train_step(
    backend: Backend, step: int, *, ranks: Ranks, accumulation: int, factor: Tensor = ONE, rate: float | None = None
) -> tuple[float, float]:
    """One update by `factor` x the mean negative log-prob of 8 rows; gives loss over all ranks and gradient norm."""
    share = 8 // ranks.size
    width = share // accumulation
    total = torch.zeros(())
    backend.begin_update(accumulation)
    for index in range(accumulation):
        first = ranks.rank * share + index * width
        batch = rows(first, first + width, step=step)
        select = torch.ones(batch.ids.shape, dtype=torch.bool)
        select[:, :, :2] = False
        loss = -backend.forward(batch, select, temperature=0.7).logprobs.sum() / (8 * 5)
        total += loss.detach()
        backend.backward(loss * backend.divisor * factor)
    norm = backend.step(RATES[step % len(RATES)] if rate is None else rate)
    ranks.sum_(total)
    return float(total), norm


def weights(backend: Backend) -> dict[str, Tensor]:
    """A copy of every parameter, whole."""
    with backend.full_parameters():
        return {name: p.detach().clone() for name, p in backend.policy.named_parameters()}


def train(backend: Backend, ranks: Ranks, *, accumulation: int, steps: range = range(5)) -> dict[str, Any]:
    """Some updates: `losses`, `norms` and the final `weights`."""
    done = [train_step(backend, step, ranks=ranks, accumulation=accumulation) for step in steps]
    return {"losses": [s[0] for s in done], "norms": [s[1] for s in done], "weights": weights(backend)}


def save_shared(backend: Backend, folder: Path, ranks: Ranks) -> None:
    """Save on every rank into one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ranks.barrier()
    backend.save(folder)
    ranks.barrier()
