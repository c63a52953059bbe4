"""The operators of an update: micro-batches, their forward and backward passes, and the move of the weights.

Of a device they wait once for an update's sums and once for its gradient norm, and not in between.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from wavalign.engine.backends.base import GradientOverflowError
from wavalign.engine.compile.operators import PROMPT_GATES, follows_prompts
from wavalign.engine.compile.plan import Operator
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.state.seeds import derive, global_seed
from wavalign.engine.step import objective as objectives
from wavalign.engine.step.batches import Column, MicroBatch, MicroBatches, Row
from wavalign.engine.step.executor import Run
from wavalign.engine.step.schedule import learning_rate
from wavalign.engine.step.selection import all_left_out, broken_values, nothing_selected
from wavalign.engine.step.skipping import Skipped, UpdateRecord
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.tallies import Broken, Denominators, Updated, kl_of, ratios_of, sizes_of, totals_of
from wavalign.engine.step.teaching import Taught, muted, sorted_by_signal
from wavalign.engine.step.terms import LiveTerm, Tally, term_value, unit_valid, unit_weights, units
from wavalign.engine.step.throughput import work_of
from wavalign.engine.step.values import Made
from wavalign.errors import NonFiniteError

Values = Mapping[str, Any]
ALIASES: Mapping[str, str] = {"behaviour_logprobs": "old_logprobs"}
"""By value, the column that rows have it as."""


def micro_batches(live: LiveStage, plan: Operator) -> Run:
    """Rows of an update and their columns to `MicroBatches`; the backend hears how many there are."""
    names = [name for name in plan.needs if name not in ("updates", "importance")]
    weighed, skips = "importance" in plan.needs, live.settings.geometry.skip_without_signal

    def run(values: Values) -> Made:
        # What sampled stands in for the old log-probs until the pass that learns gives them (`weighing.py`).
        columns: dict[str, Column] = {ALIASES.get(name, name): values[name] for name in names}
        if weighed:
            columns["importance"] = values["importance"]

        def completed(batch: MicroBatch) -> MicroBatch:
            found = live.selection.with_columns(batch, columns)
            return live.selection.weighed(found, by="importance", where="old_logprobs") if weighed else found

        rows: Sequence[Row] = values["updates"].rows
        taught = sorted_by_signal(rows, columns, live.terms) if skips else Taught(rows)
        made = [completed(each) for each in live.cutter.cut(taught.run)]
        live.backend.begin_update(len(made))
        left = [completed(live.selection.collate(rest, number=len(made), packs=False)) for rest in taught.only_left]
        shown = [muted(each, taught.shown) for each in made]
        return {"micro_batches": MicroBatches(shown, live.world.device, [*made, *left], silent=len(taught.left))}

    return run


def denominators(live: LiveStage, _: Operator) -> Run:
    """What every term's sums are divided by: over all micro-batches of an update, on all ranks, from masks alone."""

    def run(values: Values) -> Made:
        batches: MicroBatches = values["micro_batches"]
        local = torch.stack([_counted(term, batches) for term in live.terms]).to(live.world.device)
        total = live.world.all_reduce_sum(local)
        names = [term.plan.name for term in live.terms]
        counted = dict(zip(names, total.tolist(), strict=True))
        for term in live.terms:
            tokens, rows, there, _ = counted[term.plan.name]
            if rows and not tokens and not term.plan.brought_by:  # a pull on tokens nobody said pulls on nothing
                raise nothing_selected(term, int(rows), live.settings.where(values["step"]))
            if there and not tokens and term.plan.leaves_out:
                raise all_left_out(term, int(there), live.settings.where(values["step"]))
        sizes = sizes_of(batches, live.settings.limits.tokens, work_of(batches, live.selection, live.settings.flops))
        return {"denominators": Denominators(dict(zip(names, total[:, :2], strict=True)), counted, sizes)}

    return run


def _counted(term: LiveTerm, batches: MicroBatches) -> Tensor:
    """What sums are divided by, the units there are, and the tokens that are run: float64 [N] of N = 4."""
    total = torch.zeros(4, dtype=torch.float64)
    for mine in (each.terms[term.plan.name] for each in batches.counted):
        total[:2] += objectives.count(unit_weights(term, mine), unit_valid(term, mine))
        total[2] += units(term, mine)
    for mine in (each.terms[term.plan.name] for each in batches.made):
        total[3] += objectives.count(unit_weights(term, mine), unit_valid(term, mine))[0]
    return total


def forward(live: LiveStage, _: Operator) -> Run:
    """Log-probs of the positions some term weighs, and the scalar outputs that somebody needs."""

    def run(values: Values) -> Made:
        batch: MicroBatch = values["micro_batches"]
        live.memory.begins(batch)
        select = live.selection.union(batch)
        names = ("dropout", values["step"], *_further(values["updates"].number), batch.number)
        with guarded_block(live.architecture, "the forward pass"), dropout(live, *names):
            output = live.backend.forward(batch.tokens, select, temperature=batch.temperature, support=batch.support)
        return {"logprobs": output.logprobs, **output.scalars}

    return run


def term(live: LiveStage, plan: Operator) -> Run:
    """One term's part of its aggregate and what it leaves for the metrics."""
    of, (value, tally) = live.term(plan.of), plan.gives
    rows, scalars = plan.needs[0], plan.needs[3:]
    by_prompt = plan.of in _shared_by_prompt(live)

    def run(values: Values) -> Made:
        found = term_value(
            of,
            values[rows],
            values["logprobs"],
            {name: values[name] for name in scalars},
            values["denominators"].by_term[plan.of],
            by_prompt=by_prompt,
        )
        return dict(zip((value, tally), found, strict=True))

    return run


def _shared_by_prompt(live: LiveStage) -> frozenset[str]:
    """Terms whose rows have shares of their own."""
    if not live.plan.graph.gives(PROMPT_GATES):
        return frozenset()
    return frozenset(each.plan.name for each in live.terms if follows_prompts(each.plan))


def objective(live: LiveStage, plan: Operator) -> Run:
    """The number whose gradient is taken; of one that is no number every gradient is none, so that no rank updates."""
    plans = [term.plan for term in live.terms]
    needs = dict(zip((each.name for each in plans), plan.needs, strict=False))
    gated, shared = "gate" in plan.needs, _shared_by_prompt(live)

    def run(values: Values) -> Made:
        losses = {name: values[need] for name, need in needs.items()}
        gate = values["gate"].value if gated else None
        loss = objectives.combine(losses, plans, gate=gate, backend_divisor=live.backend.divisor, shared=shared)
        value = loss.detach()
        return {"loss": loss * torch.where(torch.isfinite(value), 1.0, math.nan), "loss_value": value}

    return run


def backward(live: LiveStage, _: Operator) -> Run:
    """Add the gradients of a micro-batch."""

    def run(values: Values) -> Made:
        with guarded_block(live.architecture, "the backward pass"):
            live.backend.backward(values["loss"])
        return {"gradients": None}

    return run


def kl_to_reference(live: LiveStage, _: Operator) -> Run:
    """The divergence to the reference on tokens that the policy sampled, for the metrics."""

    def run(values: Values) -> Made:
        batch: MicroBatch = values["micro_batches"]
        known = live.selection.union(batch, only="ref_logprobs")
        return {"kl": kl_of(values["logprobs"].detach(), batch, known)}

    return run


def first_ratio(live: LiveStage, plan: Operator) -> Run:
    """The ratio to the sampling policy on tokens that it sampled, for the metrics."""
    rows = plan.needs[0]

    def run(values: Values) -> Made:
        batch: MicroBatch = values[rows]
        known = live.selection.union(batch, only="old_logprobs")
        return {"ratio": ratios_of(values["logprobs"].detach(), batch, known)}

    return run


def totals(live: LiveStage, plan: Operator) -> Run:
    """An update's sums on this rank, with one wait for the device; raises where somebody's loss broke down."""
    by_term = {term.plan.name: need for term, need in zip(live.terms, plan.needs, strict=False)}

    def run(values: Values) -> Made:
        tallies: dict[str, Sequence[Tally]] = {name: values[need] for name, need in by_term.items()}
        live.memory.ends()
        found = totals_of(tallies, values["loss_value"], values["denominators"], live.backend.divisor)
        for name in () if found.broken is None else found.broken.not_ours:
            raise broken_values(live.term(name), f"at {live.settings.where(values['step'])}")
        return {"totals": found}

    return run


def update(live: LiveStage, _: Operator) -> Run:
    """Move the weights."""
    settings, updates = live.settings, live.settings.geometry.updates

    def run(values: Values) -> Made:
        step, number = values["step"], values["updates"].number
        rate = learning_rate(settings.optim, step + number / updates, settings.steps, each=1 / updates)
        if number == 0:
            live.clock.before_update()
        before, live.clock.weights_of = live.clock.weights_of, None
        scale = live.backend.loss_scale
        try:
            norm = live.backend.step(rate)
        except (NonFiniteError, GradientOverflowError) as error:
            live.clock.weights_of = before
            overflowed = _skip(live, values, error)
            if number == updates - 1:
                live.clock.weights_of = step + 1
            return {"updated": Updated(math.nan, rate, skipped=True, overflowed=overflowed, loss_scale=scale)}
        live.skips.taken()
        if (problem := _broken_weights(live, step, norm)) is not None:
            live.clock.together = True
            raise problem
        if number == updates - 1:
            live.clock.weights_of = step + 1
        return {"updated": Updated(norm, rate, loss_scale=scale)}

    return run


def _skip(live: LiveStage, values: Values, error: NonFiniteError | GradientOverflowError) -> bool:
    """Keep and count an update that was not taken, on every rank; gives whether it was the loss scale's doing.

    Raises NonFiniteError where the run ends by it.
    """
    live.clock.together = True  # the norm is that of all ranks
    broken: Broken | None = values["totals"].broken
    what = next((each for each in live.world.gather("" if broken is None else str(broken)) if each), "")
    if not what and isinstance(error, GradientOverflowError):
        live.clock.together = False
        return True
    if not what:
        what = error.message.split(";")[0] if isinstance(error, NonFiniteError) else str(error)
    batches: MicroBatches = values["micro_batches"]
    record = UpdateRecord(
        step=values["step"],
        update=values["updates"].number,
        gate=values["gate"].value if "gate" in values else None,
        denominators=values["denominators"].by_term,
        micro_batches=batches.made,
    )
    kept = live.clock.skipped(Skipped(what, record, live.skips.is_last))
    live.skips.skip(what, live.settings.where(record.step), kept)
    live.clock.together = False
    return False


def _broken_weights(live: LiveStage, step: int, norm: float) -> NonFiniteError | None:
    """What to raise, on every rank, where an update left a weight on some rank that is NaN or infinite."""
    mine = live.backend.broken()
    if not live.world.any_true(bool(mine)):
        return None
    name = next(each for each in live.world.gather(mine) if each)
    return NonFiniteError(
        f"the update of {live.settings.where(step)} made weights NaN or infinite"
        f" ({name} among them), though its gradient norm was {norm:.3g}; they were not saved",
        hint="lower optim.learning_rate (a new run), or look at optim.epsilon and at this step's data",
    )


def _further(update: int) -> tuple[int, ...]:
    """Part of a seed's name; the first update has none."""
    return (update,) if update else ()


def dropout(live: LiveStage, *names: str | int) -> AbstractContextManager[None]:
    """Inside, what an adapter's dropout drops depends on the run's seed, `names` and the rank, and on nothing else."""
    if not live.settings.dropout:
        return nullcontext()
    seed = derive(live.settings.seed, live.settings.stage, *names, live.world.rank)
    return global_seed(seed, live.world.device)
