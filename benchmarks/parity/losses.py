"""Offline preference losses on shared log-probs: ours, and TRL's own code with its model taken out. float64.

TRL's methods are partly untyped, and are given a stand-in for the trainer that they belong to: hence the ignored types.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, final

import torch
from torch import Tensor
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

from wavalign.engine.compile.plan import TermPlan
from wavalign.engine.step.objective import count, metric_sums, term_loss
from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.plugins.losses.apo_zero import APOZero
from wavalign.plugins.losses.cpo import CPO
from wavalign.plugins.losses.cross_entropy import CrossEntropy
from wavalign.plugins.losses.dpo import DPO
from wavalign.plugins.losses.kto import KTO
from wavalign.plugins.losses.orpo import ORPO
from wavalign.plugins.losses.simpo import SimPO
from wavalign.plugins.ops import PADDED, Segments
from wavalign.schema.component import Component
from wavalign.schema.share import Share

PAIRS, LENGTH = 5, 9
LENGTHS = (9, 4, 1, 7, 2, 5, 8, 3, 6, 9)
"""Tokens of the chosen sides, then of the rejected ones."""
Options = Mapping[str, Any]


@final
class Shared:
    """Log-probs of a policy, its reference and mismatched answers: chosen sides first, then the rejected ones."""

    def __init__(self, seed: int = 9) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = 2 * PAIRS
        self.policy = (-3 * torch.rand(rows, LENGTH, generator=generator, dtype=torch.float64)).requires_grad_()
        noise = torch.randn(3, rows, LENGTH, generator=generator, dtype=torch.float64)
        self.reference = self.policy.detach() + 0.4 * noise[0]
        self.mismatched = -2 + 0.4 * noise[1]
        self.mismatched_reference = self.mismatched - 0.2 - 0.1 * noise[2]
        self.mask = torch.arange(LENGTH) < torch.tensor(LENGTHS)[:, None]
        self.scores = torch.randn(rows, generator=generator, dtype=torch.float64)

    def inputs(self, needs: frozenset[str], segments: Segments = PADDED) -> LossInputs:
        """As a loss is given them, the rows of a pair apart and the rejected one first in some."""
        pair = torch.arange(2 * PAIRS) % PAIRS
        known: dict[str, Tensor] = {
            "ref_logprobs": self.reference[:, None],
            "target_scores": self.scores.view(-1, 1, 1),
            "reference_point": self.point().expand(2 * PAIRS).view(-1, 1, 1),
        }
        # What stands outside the mask must not matter.
        noise = torch.where(self.mask, 0.0, 7.0)
        order = torch.randperm(2 * PAIRS, generator=torch.Generator().manual_seed(3))
        columns = {name: known[name][order] for name in needs}
        member = (torch.arange(2 * PAIRS) >= PAIRS).long()
        logprobs = (self.policy + noise)[order][:, None]
        return LossInputs(logprobs, self.mask[order][:, None], pair[order], member[order], columns, segments)

    def point(self) -> Tensor:
        """KTO's reference point, []."""
        gap = torch.where(self.mask, self.mismatched - self.mismatched_reference, 0.0)
        return gap.sum(dim=1).mean().clamp(min=0)


def ours(shared: Shared, loss: Loss) -> tuple[Tensor, dict[str, float]]:
    """The whole loss of a term [] and its metrics, with the terms that come along."""
    inputs = shared.inputs(loss.needs)
    output = loss.compute(inputs)
    total, metrics = _aggregated(output, inputs, unit=loss.unit)
    for extra in loss.regularizers():
        mine = inputs.member == extra.members[0]
        part = LossInputs(inputs.logprobs[mine], inputs.mask[mine], inputs.group[mine], inputs.member[mine])
        value = CrossEntropy(CrossEntropy.Params()).compute(part)
        total = total + extra.weight * _aggregated(value, part, unit="token")[0]
    return total, metrics


def _aggregated(output: LossOutput, inputs: LossInputs, *, unit: str) -> tuple[Tensor, dict[str, float]]:
    """The aggregate [] over the tokens, rows or pairs, as the engine takes it."""
    plan = TermPlan(
        name="term", loss=Component(type="any"), mask=Component(type="roles"), share=Share.parse(1.0), weight=1.0,
        aggregation="token", fixed_length=None, family="pairs", unit=unit, needs=(),
    )  # fmt: skip
    weights = inputs.mask.double() if unit == "token" else torch.ones(len(output.values), dtype=torch.float64)
    valid = torch.ones(len(output.values), dtype=torch.bool)
    denominators = count(weights, valid)
    value = term_loss(plan, output.values, weights=weights, row_valid=valid, denominators=denominators)
    sums = metric_sums(output.metrics, weights=weights, row_valid=valid)
    return value, {name: float(total / denominators[0]) for name, total in sums.items()}


# --- theirs -----------------------------------------------------------------------------------------------------------


@final
class _Model:
    """Answers with given log-probs; which, the first id says."""

    training = True

    def __init__(self, tables: Mapping[int, Tensor]) -> None:
        self._tables = tables

    def __call__(self, *, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """Log-probs of every token but the first, [B, T]."""
        found = self._tables[int(input_ids[0, 0])]
        nothing = torch.zeros(found.shape)
        return SimpleNamespace(log_probs=found, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def _trainer(**options: Any) -> Any:
    """What their functions read of a trainer on one process."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda value: value, gather_for_metrics=lambda value: value
    )
    args = SimpleNamespace(gradient_checkpointing_kwargs=None)
    metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list)}
    fixed = {"accelerator": accelerator, "args": args, "_metrics": metrics, "aux_loss_enabled": False}
    return SimpleNamespace(**fixed, _total_train_tokens=0, _tp_size=1, **options)


def _masked(shared: Shared, values: Tensor) -> Tensor:
    """[2 pairs, T] with 0 where no label is."""
    return torch.where(shared.mask, values, 0.0)


def _batch(shared: Shared, which: int) -> dict[str, Tensor]:
    """[2 pairs, 1 + T] of ids and masks."""
    ids = torch.full((2 * PAIRS, 1 + LENGTH), which)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": _shifted(shared)}


def _shifted(shared: Shared) -> Tensor:
    """The mask [2 pairs, 1 + T] behind one token of a prompt."""
    return torch.cat([torch.zeros(2 * PAIRS, 1, dtype=torch.int64), shared.mask.long()], dim=1)


def trl_dpo(shared: Shared, loss_type: str, *, beta: float, label_smoothing: float = 0.0) -> tuple[Tensor, Any]:
    """DPOTrainer's loss [] and metrics."""
    sums = _masked(shared, shared.reference).sum(dim=1)
    trainer = _trainer(
        model=SimpleNamespace(training=True), loss_types=[loss_type], loss_weights=[1.0], beta=beta,
        label_smoothing=label_smoothing, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
        use_weighting=False,
    )  # fmt: skip
    given = {**_batch(shared, 0), "ref_chosen_logps": sums[:PAIRS], "ref_rejected_logps": sums[PAIRS:]}
    model: Any = _Model({0: _masked(shared, shared.policy)})
    loss = DPOTrainer._compute_loss(trainer, model, given, False)  # type: ignore[no-untyped-call]  # TRL's own have no types
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def trl_kto(shared: Shared, *, beta: float, desirable: float, undesirable: float) -> tuple[Tensor, Any]:
    """KTOTrainer's loss [] and metrics."""
    trainer = _trainer(
        model=SimpleNamespace(training=True), calculate_KL=True, precompute_ref_logps=True, loss_type="kto", beta=beta,
        desirable_weight=desirable, undesirable_weight=undesirable,
    )  # fmt: skip
    trainer._compute_kl_logps = lambda *given: KTOTrainer._compute_kl_logps(trainer, *given)  # type: ignore[no-untyped-call]  # TRL's own have no types
    mismatched = {f"KL_{name}": value for name, value in _batch(shared, 1).items()}
    given = {
        **_batch(shared, 0),
        **mismatched,
        "label": torch.arange(2 * PAIRS) < PAIRS,
        "ref_logps": _masked(shared, shared.reference).sum(dim=1),
        "ref_KL_logps": _masked(shared, shared.mismatched_reference).sum(dim=1),
    }
    model: Any = _Model({0: _masked(shared, shared.policy), 1: _masked(shared, shared.mismatched)})
    loss = KTOTrainer._compute_loss(trainer, model, given, False)  # type: ignore[no-untyped-call]  # TRL's own have no types
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def _row_logps(shared: Shared, *, mean: bool) -> Tensor:
    """[2 pairs] as their `get_batch_logps` gives them."""
    total = _masked(shared, shared.policy).sum(dim=1)
    return total / shared.mask.sum(dim=1) if mean else total


def _nll(shared: Shared) -> Tensor:
    """Cross entropy [] of the chosen sides' tokens."""
    return -shared.policy[:PAIRS][shared.mask[:PAIRS]].mean()


def trl_cpo(shared: Shared, loss_type: str, *, beta: float, gamma: float = 0.0, alpha: float = 0.0) -> Tensor:
    """CPOTrainer's loss []; its `simpo` is SimPO."""
    logps = _row_logps(shared, mean=loss_type == "simpo")
    trainer = _trainer(alpha=0.0, loss_type=loss_type, beta=beta, simpo_gamma=gamma, label_smoothing=0.1)
    found: Any = CPOTrainer.cpo_loss(trainer, logps[:PAIRS], logps[PAIRS:])  # type: ignore[arg-type]  # a stand-in for the trainer
    mean: Tensor = found[0].mean()
    return mean + alpha * _nll(shared)


def trl_orpo(shared: Shared, *, beta: float) -> Tensor:
    """ORPOTrainer's loss []; its part on the odds is float32."""
    logps = _row_logps(shared, mean=True)
    found: Any = ORPOTrainer.odds_ratio_loss(_trainer(beta=beta), logps[:PAIRS], logps[PAIRS:])  # type: ignore[arg-type]  # a stand-in for the trainer
    mean: Tensor = found[0].mean()
    return _nll(shared) - mean


# --- both -------------------------------------------------------------------------------------------------------------


def _dpo(variant: str, theirs: str, **options: Any) -> tuple[Callable[[Shared], Tensor], Loss]:
    normalized = options.pop("length_normalized", False)
    params = {"variant": variant, "length_normalized": normalized, **options}
    return lambda shared: trl_dpo(shared, theirs, **options)[0], DPO(DPO.Params.model_validate(params))


def _with(loss: type[Loss], **options: Any) -> Loss:
    return loss(loss.Params.model_validate(options))


CASES: dict[str, tuple[Callable[[Shared], Tensor], Loss]] = {
    "dpo sigmoid": _dpo("sigmoid", "sigmoid", beta=0.3),
    "dpo sigmoid, per token": _dpo("sigmoid", "sigmoid_norm", beta=0.3, length_normalized=True),
    "dpo hinge": _dpo("hinge", "hinge", beta=0.7),
    "dpo ipo, per token": _dpo("ipo", "ipo", beta=0.3, length_normalized=True),
    "dpo robust": _dpo("robust", "robust", beta=0.3, label_smoothing=0.1),
    "apo_zero": (lambda shared: trl_dpo(shared, "apo_zero", beta=0.3)[0], _with(APOZero, beta=0.3)),
    "simpo": (
        lambda shared: trl_cpo(shared, "simpo", beta=2.0, gamma=0.5),
        _with(SimPO, beta=2.0, margin=0.5, label_smoothing=0.1),
    ),
    "cpo": (
        lambda shared: trl_cpo(shared, "sigmoid", beta=0.3, alpha=0.7),
        _with(CPO, beta=0.3, nll=0.7, label_smoothing=0.1),
    ),
    "orpo": (lambda shared: trl_orpo(shared, beta=0.2), _with(ORPO, beta=0.2)),
    "kto": (
        lambda shared: trl_kto(shared, beta=0.3, desirable=1.2, undesirable=0.8)[0],
        _with(KTO, beta=0.3, desirable_weight=1.2, undesirable_weight=0.8),
    ),
}
"""By name: what TRL computes of shared numbers, and our loss."""


@final
class Compared:
    """A loss of both."""

    def __init__(self, name: str) -> None:
        shared, (their, loss) = Shared(), CASES[name]
        self.name = name
        self.theirs, (self.ours, self.metrics) = their(shared), ours(shared, loss)
        (self.their_gradient,) = torch.autograd.grad(self.theirs, shared.policy)
        (self.our_gradient,) = torch.autograd.grad(self.ours, shared.policy)

    @property
    def value(self) -> float:
        """Largest difference of values, absolute."""
        return float((self.ours - self.theirs).detach().abs())

    @property
    def gradient(self) -> float:
        """Largest difference of gradients, absolute."""
        return float((self.our_gradient - self.their_gradient).abs().max())
