"""A step's line for metrics.jsonl: what each value says of this rank, summed over ranks.

A value that has something to say has a reporter here and its name in `compile/graph.py`. Of a step with several updates
the losses, norms and counts are means over its updates.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

import torch
from torch import Tensor

from wavalign.engine.contracts.origins import origin
from wavalign.engine.step.batches import AnswerColumn
from wavalign.engine.step.executor import PHASES, Clock
from wavalign.engine.step.resampling import Resampled
from wavalign.engine.step.reward_noise import unstated
from wavalign.engine.step.rewards import Scores, cut_off
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.tallies import KL, ForwardSizes, Ratios, Totals, Updated, kl_sums, ratio_sums
from wavalign.engine.step.teaching import NOISE
from wavalign.engine.step.throughput import ROWS_KINDS, sampled_kinds
from wavalign.engine.step.token_level import StepColumn
from wavalign.errors import PluginError
from wavalign.plugins.api import GateReading, Loss
from wavalign.plugins.batch import RolloutGroup

Given = Mapping[str, Any]
"""Values of a step that say something."""
Clocked = Literal["rollout", "reward", "learn", "step"]


@final
@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step leaves for the log."""

    metrics: Mapping[str, float]
    groups: Sequence[RolloutGroup]
    scores: Scores | None
    advantages: Tensor | None
    """[P, G] of this rank."""
    notes: Sequence[str] = ()
    """What a person should hear of it."""


@final
@dataclass(slots=True)
class Report:
    """What the values of a step say on one rank; the same names on every rank."""

    sums: dict[str, float] = field(default_factory=dict)
    """Numbers that add up over ranks."""
    ratios: dict[str, tuple[str, str | float]] = field(default_factory=dict)
    """Metric -> the sum it is, over which other sum or number; left out where that is 0."""
    maxima: dict[str, float] = field(default_factory=dict)
    """Metrics that are the largest of all ranks; -inf where there is none."""
    values: dict[str, float] = field(default_factory=dict)
    """Metrics that are equal on all ranks."""
    rates: dict[str, tuple[str, Clocked]] = field(default_factory=dict)
    """Metric -> the sum it is, over which of the step's times."""


def step_result(live: LiveStage, given: Given, clock: Clock) -> StepResult:
    """The step's line, equal on every rank, and what is shown of its answers."""
    report = Report()
    for name in given:
        REPORTERS[name](live, given, report)
    _operators(live, clock, report)
    total = _summed(live, report)
    metrics = {**_reduced(live, report, total), **_dropped(live)}
    skipped = any(each.skipped for each in given.get("updated", ()))
    for term in () if skipped else live.terms:
        refuse_odd(term.loss, term.plan.name, metrics)
    seconds = _seconds(clock)
    metrics |= {**seconds, **_rates(live, report, total, seconds)}
    metrics |= _largest(
        live, {f"memory/{phase}_bytes": float(clock.peaks.bytes.get(phase, -math.inf)) for phase in PHASES}
    )
    metrics = {
        key: value for key, value in metrics.items() if not (math.isnan(value) or (skipped and math.isinf(value)))
    }
    more, notes = live.signal.step(metrics)
    advantages: AnswerColumn | StepColumn | None = given.get("advantages")
    return StepResult(
        metrics={**metrics, **more},
        groups=given.get("waveforms", given.get("rollouts", ())),
        scores=given.get("scores"),
        advantages=None if advantages is None else advantages.table,
        notes=(*live.skips.notes(), *notes),
    )


def refuse_odd(loss: Loss, name: str, values: Mapping[str, float]) -> None:
    """Raise PluginError where somebody's loss has logged what is no finite number."""
    if origin(loss).own:
        return
    for key in (each for each in values if each.startswith(f"{name}/")):
        if math.isinf(values[key]) or (math.isnan(values[key]) and values[f"tokens/{name}"] > 0):
            said = f"`{key.removeprefix(f'{name}/')}` is {values[key]} over the step's tokens and cannot be logged"
            hint = "mend what it puts into `metrics` or `maxima`"
            raise PluginError(f"{origin(loss)}: {said}", hint=hint, placed=True)


def nonzero(advantages: Tensor) -> float:
    """How many of `advantages` [P, G] are more than rounding."""
    return float((advantages.abs() > NOISE).sum())


def _summed(live: LiveStage, report: Report) -> dict[str, float]:
    """Sums over all ranks."""
    world = live.world
    reduced = world.all_reduce_sum(torch.tensor(list(report.sums.values()), dtype=torch.float64, device=world.device))
    return dict(zip(report.sums, reduced.tolist(), strict=True))


def _reduced(live: LiveStage, report: Report, total: Mapping[str, float]) -> dict[str, float]:
    """Metrics of all ranks that are no rates."""
    values = {**_largest(live, report.maxima), **report.values}
    for name, (over, under) in report.ratios.items():
        values[name] = _ratio(total[over], total[under] if isinstance(under, str) else under)
    return values


def _largest(live: LiveStage, mine: Mapping[str, float]) -> dict[str, float]:
    """Largest values over all ranks, NaN where no token was seen."""
    if not mine:
        return {}
    local = torch.tensor([list(mine.values())], dtype=torch.float64, device=live.world.device)
    largest = live.world.all_gather_rows(local).amax(dim=0).tolist()
    return {key: value if value > -math.inf else math.nan for key, value in zip(mine, largest, strict=True)}


def _learned(live: LiveStage, given: Given, report: Report) -> None:
    """Losses, tokens, and the losses' own metrics."""
    found: Sequence[Totals] = _taken(given)
    updates = float(len(found))
    reading: GateReading | None = given.get("gate")
    gate = reading.value if reading is not None else None
    report.sums["loss"] = sum(each.loss for each in found)
    report.ratios["loss"] = ("loss", updates)
    _sizes(live, [each.sizes for each in found], report)
    _work(live, [each.sizes for each in found], report)
    for term in live.terms:
        name = term.plan.name
        tokens, seen = sum(each.tokens[name] for each in found), sum(each.seen[name] for each in found)
        report.sums[f"term {name}"] = sum(each.terms[name] for each in found)
        report.ratios[f"loss/{name}"] = (f"term {name}", updates)
        report.values[f"share/{name}"] = term.plan.coefficient(gate) / term.plan.weight
        report.values[f"tokens/{name}"] = tokens / updates
        if term.plan.leaves_out:
            report.values[f"left_out/{name}"] = sum(each.left_out[name] for each in found) / updates
        for key in found[0].metrics[name]:
            report.sums[f"metric {name} {key}"] = sum(each.metrics[name].get(key, 0.0) for each in found)
            report.ratios[f"{name}/{key}"] = (f"metric {name} {key}", seen)
    for key in found[0].maxima:
        report.maxima[key] = max(each.maxima[key] for each in found)


def _sizes(live: LiveStage, found: Sequence[ForwardSizes], report: Report) -> None:
    """What went through the network, and what did not have to."""
    cut, updates = live.settings.geometry, float(len(found))
    names = {"forward_tokens": sum(each.forward for each in found)}
    if cut.skip_without_signal:
        names["rows_without_signal"] = sum(each.silent for each in found)
    if cut.micro_batch_tokens is not None:
        names["over_micro_batch_tokens"] = sum(each.over for each in found)
    report.sums |= {**names, "padded tokens": sum(each.padded for each in found)}
    report.ratios |= {name: (name, updates) for name in names}
    report.ratios["forward_share"] = ("forward_tokens", "padded tokens")


def _work(live: LiveStage, found: Sequence[ForwardSizes], report: Report) -> None:
    """Tokens of the rows by kind, and what the model's formula says of their cost."""
    report.sums["rows' length"] = sum(each.length for each in found)
    report.sums["rows"] = sum(each.work.rows for each in found)
    report.rates |= {"tokens_per_second": ("rows' length", "step"), "samples_per_second": ("rows", "step")}
    for kind in ROWS_KINDS:
        report.sums[f"learned {kind}"] = sum(each.work.kinds[kind] for each in found)
        report.rates[f"learned/{kind}_tokens_per_second"] = (f"learned {kind}", "step")
    if live.settings.flops is not None:
        report.sums["flops"] = sum(each.work.flops for each in found)
        report.rates["model_flops_per_second"] = ("flops", "learn")


def _taken(given: Given) -> Sequence[Totals]:
    """The updates that moved the weights; all of them where none did."""
    found: Sequence[Totals] = given["totals"]
    skipped = [each.skipped for each in given["updated"]]
    return [each for each, left in zip(found, skipped, strict=True) if not left] or found


def _moved(live: LiveStage, given: Given, report: Report) -> None:
    """Gradient norm and learning rate; once an update was skipped, how many were; in fp16 the scale."""
    found: Sequence[Updated] = given["updated"]
    norms = [each.grad_norm for each in found if not each.skipped]
    report.values["grad_norm"] = sum(norms) / len(norms) if norms else math.nan
    overflowed = sum(each.overflowed for each in found)
    if live.skips.total:
        report.values["skipped_updates"] = float(len(found) - len(norms) - overflowed)
    if (scale := found[-1].loss_scale) is not None:
        report.values |= {"loss_scale": scale, "overflowed_updates": float(overflowed)}
    report.values["learning_rate"] = found[-1].learning_rate


def _gate(_: LiveStage, given: Given, report: Report) -> None:
    reading: GateReading = given["gate"]
    report.values["gate"] = reading.value
    report.values |= {f"gate/{key}": factor for key, factor in reading.factors.items()}


def _answers(live: LiveStage, given: Given, report: Report) -> None:
    """How long answers are, and how many were cut off or have no words."""
    groups: Sequence[RolloutGroup] = given["rollouts"]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    report.sums |= {
        "rollouts": len(rollouts),
        "length": sum(rollout.completion.length for rollout in rollouts),
        "truncated": sum(cut_off(rollout.answer, live.rewards.rewards) for rollout in rollouts),
        "wordless": sum(not rollout.answer.text.strip() for rollout in rollouts),
    }
    report.ratios |= {
        "rollout_length": ("length", "rollouts"),
        "truncated": ("truncated", "rollouts"),
        "wordless": ("wordless", "rollouts"),
    }
    for kind, count in sampled_kinds(groups).items():
        report.sums[f"sampled {kind}"] = count
        report.rates[f"sampled/{kind}_tokens_per_second"] = (f"sampled {kind}", "rollout")


def _resampled(_: LiveStage, given: Given, report: Report) -> None:
    """How much was drawn, and what all of it was worth: `reward` is of the groups that are kept."""
    found: Resampled = given["resampled"]
    report.values |= {"rollout_rounds": float(found.rounds), "resampled_groups": float(found.groups)}
    report.values["sampled_reward"] = found.reward


def _advantages(_: LiveStage, given: Given, report: Report) -> None:
    column: AnswerColumn | StepColumn = given["advantages"]
    report.sums["nonzero advantages"] = nonzero(column.table)
    report.ratios["nonzero_advantages"] = ("nonzero advantages", "rollouts")


def _advantage_metrics(_: LiveStage, given: Given, report: Report) -> None:
    """What the advantage says, equal on all ranks."""
    found: Mapping[str, float] = given["advantage_metrics"]
    report.values |= {f"advantage/{name}": value for name, value in found.items()}


def _rewards(live: LiveStage, given: Given, report: Report) -> None:
    scores: Scores = given["scores"]
    values = report.values
    for name, table in {"": scores.total, **scores.parts, **scores.guards}.items():
        everywhere = live.world.all_gather_rows(table)
        present = everywhere[~everywhere.isnan()]
        key = f"reward/{name}" if name else "reward"
        values[key] = float(present.mean()) if len(present) else math.nan
        if name:
            gone = live.world.all_gather_rows(scores.absent[name].double())
            values[f"{key}/failed"] = float((everywhere.isnan() & (gone == 0)).sum())
            values[f"{key}/absent"] = float(gone.sum())
            if name in scores.tripped:
                values[f"{key}/tripped"] = float(live.world.all_gather_rows(scores.tripped[name].double()).mean())
            values |= {f"{key}/{count}": number for count, number in scores.spent.counts.get(name, {}).items()}
            continue
        values["reward_std"] = float(present.std(unbiased=False)) if len(present) else math.nan
        groups = everywhere[~everywhere.isnan().all(dim=1)]  # one without any reward has no variance to speak of
        flat = groups.nan_to_num(nan=math.inf).amin(1) == groups.nan_to_num(nan=-math.inf).amax(1)
        values["zero_variance_groups"] = float(flat.double().mean()) if len(flat) else math.nan
    values |= _noise(live, scores)


def _noise(live: LiveStage, scores: Scores) -> dict[str, float]:
    """The mean variance of the rewards' own errors, and how many answers have one that is not known in full."""
    everywhere = live.world.all_gather_rows(scores.noise)
    known = everywhere[~everywhere.isnan()]
    if not len(known):
        return {}
    lacking = live.world.all_gather_rows(unstated(scores.errors, scores.parts, scores.total).double())
    return {"reward_noise": float(known.mean()), "reward_noise_unstated": float(lacking.sum())}


def _kl(_: LiveStage, given: Given, report: Report) -> None:
    """The divergence to the reference by token kind, over all updates."""
    found: Sequence[Sequence[KL]] = given["kl"]
    by_update = [kl_sums(each) for each in found]
    for kind in by_update[0]:
        report.sums[f"kl {kind}"] = sum(each[kind][0] for each in by_update)
        report.sums[f"kl tokens {kind}"] = sum(each[kind][1] for each in by_update)
        report.ratios[f"kl/{kind}"] = (f"kl {kind}", f"kl tokens {kind}")


def _first_ratio(_: LiveStage, given: Given, report: Report) -> None:
    """The mean ratio to what sampled before any update: 1 but for rounding where the network is the same."""
    found: Sequence[Sequence[Ratios]] = given["ratio"]
    (ratio, _gap, tokens), _most = ratio_sums(found[0])
    report.sums |= {"first ratio": ratio, "first ratio tokens": tokens}
    report.ratios["ratio/first"] = ("first ratio", "first ratio tokens")


def _mismatch(_: LiveStage, given: Given, report: Report) -> None:
    """How far what sampled is from what learns."""
    found: Ratios | Sequence[Sequence[Ratios]] = given["mismatch"]  # before the updates, or off their passes
    (_ratio_sum, gap, tokens), largest = ratio_sums([found] if isinstance(found, Ratios) else found[0])
    report.sums |= {"mismatch": gap, "mismatch tokens": tokens}
    report.ratios["mismatch/mean"] = ("mismatch", "mismatch tokens")
    report.maxima["mismatch/max"] = largest


def _silent(_: LiveStage, given: Given, report: Report) -> None:
    """It is shown, and has no number of its own."""


REPORTERS: dict[str, Callable[[LiveStage, Given, Report], None]] = {
    "rollouts": _answers,
    "resampled": _resampled,
    "waveforms": _silent,
    "scores": _rewards,
    "advantages": _advantages,
    "advantage_metrics": _advantage_metrics,
    "gate": _gate,
    "mismatch": _mismatch,
    "totals": _learned,
    "kl": _kl,
    "ratio": _first_ratio,
    "updated": _moved,
}
"""By value."""


def _dropped(live: LiveStage) -> dict[str, float]:
    return {f"dropped/{name}": float(feed.dropped) for name, feed in live.feeds.items() if feed.drops}


def _seconds(clock: Clock) -> dict[str, float]:
    clock.switch("")
    spent = {f"{name}_seconds": clock.seconds.get(name, 0.0) for name in ("rollout", "reward", "learn")}
    return {**spent, "step_seconds": sum(spent.values())}


def _operators(live: LiveStage, clock: Clock, report: Report) -> None:
    """How long every operator took so far, as a mean over the ranks."""
    took = clock.spans.seconds()
    for each in live.plan.graph.operators:
        if each.function != "metrics":  # it is not over
            report.sums[f"time of {each.name}"] = took.get(each.name, 0.0)
            report.ratios[f"operator/{each.name}_seconds"] = (f"time of {each.name}", float(live.world.size))


def _rates(
    live: LiveStage, report: Report, total: Mapping[str, float], seconds: Mapping[str, float]
) -> dict[str, float]:
    """What went through all ranks in a second of this one, and the share of the devices' peak that learning reached."""
    found = {name: _ratio(total[over], seconds[f"{clocked}_seconds"]) for name, (over, clocked) in report.rates.items()}
    if live.settings.peak is not None and "model_flops_per_second" in found:
        found["mfu"] = found["model_flops_per_second"] / (live.settings.peak * live.world.size)
    return found


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
