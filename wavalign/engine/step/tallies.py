"""Sums of micro-batches for the metrics: scalars on the device until an update is over, then numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from wavalign.engine.step.batches import MicroBatch, MicroBatches
from wavalign.engine.step.terms import Tally
from wavalign.engine.step.throughput import KINDS, Work


@final
@dataclass(frozen=True, slots=True)
class Denominators:
    """What the sums of an update are divided by."""

    by_term: Mapping[str, Tensor]
    """[2] float64: tokens with a weight, rows; of all ranks."""
    counted: Mapping[str, Sequence[float]]
    """The same as numbers, third the groups or rows that there are, and fourth the tokens or rows that are run."""
    sizes: "ForwardSizes"


@final
@dataclass(frozen=True, slots=True)
class ForwardSizes:
    """What an update of this rank comes to."""

    length: int
    """Tokens of its rows, those that nobody weighs among them."""
    padded: int
    """Tokens of its rows, each padded to the longest of its micro-batch."""
    forward: int
    """Tokens that the network is given, padding among them."""
    silent: int
    """Rows that teach nothing."""
    over: int
    """Micro-batches beyond the tokens that one may have."""
    work: Work


@final
@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over this rank's micro-batches of one update."""

    loss: float
    terms: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, float]]
    """By term and name."""
    maxima: Mapping[str, float]
    """By `term/name`; -inf where no token was seen."""
    tokens: Mapping[str, float]
    """By term, of all ranks."""
    seen: Mapping[str, float]
    """By term, those of them that were run."""
    left_out: Mapping[str, float]
    """By term, groups or rows that it could not use, of all ranks."""
    sizes: ForwardSizes
    broken: "Broken | None" = None
    """On this rank."""


@final
@dataclass(frozen=True, slots=True)
class Broken:
    """A loss that is no number."""

    loss: float
    terms: Sequence[str]
    """Terms whose value is none."""
    not_ours: Sequence[str]
    """Those of them whose loss is somebody's own and was given numbers."""

    def __str__(self) -> str:
        return f"the loss is {self.loss} (term {', '.join(self.terms) or 'unknown'})"


@final
@dataclass(frozen=True, slots=True)
class KL:
    """The k3 divergence to the reference at the positions of one micro-batch, on the device."""

    values: Tensor
    """[B * S * T]."""
    kinds: Tensor
    """[B * S * T] int8: index + 1 into `KINDS`, 0 where it does not count."""


@final
@dataclass(frozen=True, slots=True)
class Ratios:
    """The ratio of the policy to what sampled, over the tokens of one micro-batch, on the device."""

    sums: Tensor
    """[3] float64: of r, of |log r|, tokens."""
    largest: Tensor
    """[] of |log r|, -inf where there is no token."""


@final
@dataclass(frozen=True, slots=True)
class Updated:
    """A move of the weights, or one that was not made."""

    grad_norm: float
    """NaN where the update was skipped."""
    learning_rate: float
    skipped: bool = False
    overflowed: bool = False
    """Skipped because the scaled gradients of fp16 were too large."""
    loss_scale: float | None = None
    """By which its loss was multiplied."""


@final
@dataclass(slots=True)
class _Host:
    """Scalars on their way from the device, fetched together."""

    parts: list[Tensor] = field(default_factory=list)

    def add(self, scalar: Tensor) -> int:
        """Take a scalar []; gives its place among those that `fetch` gives."""
        self.parts.append(scalar.detach().double())
        return len(self.parts) - 1

    def fetch(self) -> list[float]:
        """All of them, with one wait."""
        numbers: list[float] = torch.stack(self.parts).tolist()
        return numbers


def totals_of(
    tallies: Mapping[str, Sequence[Tally]], losses: Sequence[Tensor], denominators: Denominators, divisor: float
) -> Totals:
    """Sums over the micro-batches; `losses` [] each, multiplied by the backend's `divisor`."""
    host = _Host()
    loss_at = [host.add(loss) for loss in losses]
    value_at = {name: [host.add(each.value) for each in mine] for name, mine in tallies.items()}
    finite_at = {name: [host.add(each.given_finite) for each in mine] for name, mine in tallies.items()}
    sum_at = {
        name: {key: [host.add(each.sums[key]) for each in mine if key in each.sums] for key in _keys(mine)}
        for name, mine in tallies.items()
    }
    most_at = {
        f"{name}/{key}": [host.add(each.maxima[key]) for each in mine if key in each.maxima]
        for name, mine in tallies.items()
        for key in dict.fromkeys(key for each in mine for key in each.maxima)
    }
    found = host.fetch()
    each_loss = [found[at] / divisor for at in loss_at]
    broken = None
    for number, loss in enumerate(each_loss):
        if not math.isfinite(loss):
            bad = [name for name, places in value_at.items() if not math.isfinite(found[places[number]])]
            broken = Broken(loss, bad, [name for name in bad if found[finite_at[name][number]]])
            break
    return Totals(
        loss=_sum(each_loss),
        terms={name: _sum([found[at] for at in places]) for name, places in value_at.items()},
        metrics={
            name: {key: _sum([found[at] for at in places]) for key, places in keys.items()}
            for name, keys in sum_at.items()
        },
        maxima={key: _largest([found[at] for at in places]) for key, places in most_at.items()},
        tokens={name: counted[0] for name, counted in denominators.counted.items()},
        left_out={name: counted[2] - counted[0] for name, counted in denominators.counted.items()},
        seen={name: counted[3] for name, counted in denominators.counted.items()},
        sizes=denominators.sizes,
        broken=broken,
    )


def sizes_of(batches: MicroBatches, most: int | None, work: Work) -> ForwardSizes:
    """The sizes of an update's micro-batches, of which one is to have at most `most` tokens."""
    given = [each.forward_tokens for each in batches.made]
    return ForwardSizes(
        length=sum(int(each.tokens.lengths.sum()) for each in batches.counted if not each.is_idle),
        padded=sum(each.padded_tokens for each in batches.counted),
        forward=sum(given),
        silent=batches.silent,
        over=0 if most is None else sum(each > most for each in given),
        work=work,
    )


def kl_of(logprobs: Tensor, batch: MicroBatch, select: Tensor) -> KL:
    """k3 to the reference where `select`, of rows that the policy sampled; all [B, S + E, T], `logprobs` detached."""
    gap = batch.columns["ref_logprobs"] - logprobs
    here = select & batch.sampled.view(-1, 1, 1)
    kinds = torch.zeros(gap.shape, dtype=torch.int8, device=gap.device)
    for number, roles in enumerate(KINDS.values(), 1):
        kinds[here & torch.isin(batch.tokens.roles, torch.tensor(roles, device=gap.device))] = number
    return KL((gap.exp() - gap - 1).flatten(), kinds.flatten())


def kl_sums(found: Sequence[KL]) -> dict[str, tuple[float, float]]:
    """By token kind: the sum of the divergence over micro-batches, and the tokens."""
    lengths = [len(each.values) for each in found]
    values = torch.cat([each.values for each in found]).cpu().split(lengths)
    kinds = torch.cat([each.kinds for each in found]).cpu().split(lengths)
    sums = {}
    for number, kind in enumerate(KINDS, 1):
        total, count = 0.0, 0.0
        for value, which in zip(values, kinds, strict=True):
            here = which == number
            total += float(value[here].sum(dtype=torch.float64))
            count += float(here.sum())
        sums[kind] = (total, count)
    return sums


def ratios_of(logprobs: Tensor, batch: MicroBatch, select: Tensor) -> Ratios:
    """The ratio to what sampled where `select`, of rows that it sampled; all [B, S + E, T], `logprobs` detached."""
    here = select & batch.sampled.view(-1, 1, 1)
    gap = torch.where(here, logprobs - batch.columns["old_logprobs"], 0.0)
    return Ratios(*_of_gaps(gap, here))


def ratios_of_gaps(gaps: Tensor) -> Ratios:
    """The same of log-ratios [N]."""
    return Ratios(*_of_gaps(gaps, torch.ones_like(gaps, dtype=torch.bool)))


def ratio_sums(found: Sequence[Ratios]) -> tuple[list[float], float]:
    """Sums over micro-batches of r, |log r| and tokens, and the largest |log r|."""
    sums: list[float] = torch.stack([each.sums for each in found]).sum(dim=0).tolist()
    return sums, float(torch.stack([each.largest for each in found]).max())


def _of_gaps(gap: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """[3] sums and [] the largest of log-ratios `gap`, 0 where not `here`."""
    ratio = torch.where(here, gap.exp(), 0.0)
    sums = torch.stack([ratio.sum(dtype=torch.float64), gap.abs().sum(dtype=torch.float64), here.sum().double()])
    largest = torch.where(here, gap.abs(), -torch.inf).amax() if gap.numel() else torch.tensor(-torch.inf)
    return sums, largest.double()


def _keys(tallies: Sequence[Tally]) -> list[str]:
    """Names of the metrics that some micro-batch has; one without rows of the family has none."""
    return list(dict.fromkeys(key for each in tallies for key in each.sums))


def _sum(numbers: Sequence[float]) -> float:
    return sum(numbers, start=0.0)


def _largest(numbers: Sequence[float]) -> float:
    """The largest, NaN where one is."""
    return math.nan if any(math.isnan(number) for number in numbers) else max(numbers)
