"""What the reference says of a step's rows, and of mismatched ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from wavalign.engine.compile.operators import POINTS
from wavalign.engine.compile.plan import Operator
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.models.scored_policy import Score
from wavalign.engine.step.batches import FamilyColumn, MicroBatch, MicroBatches, Row, RowColumn
from wavalign.engine.step.cutting import Cutter
from wavalign.engine.step.executor import Run
from wavalign.engine.step.learning import dropout
from wavalign.engine.step.rows import mismatched_rows
from wavalign.engine.step.stage import LiveStage, there
from wavalign.engine.step.values import Made
from wavalign.errors import DataError

Values = Mapping[str, Any]
Key = tuple[str, int, int]
"""`Row.key`."""


def reference(live: LiveStage, plan: Operator) -> Run:
    """Log-probs of a step's rows under the network the stage started from.

    Answers are scored in micro-batches; rows of data, which come again, one by one and then kept.
    """
    network, answers = there(live.reference), "scored_batches" in plan.needs

    def run(values: Values) -> Made:
        tokens, missing = _kept(live, values["rows"])
        if not (answers or live.world.any_true(bool(missing))):  # every rank enters, or none
            return {"ref_logprobs": RowColumn(tokens)}
        # Agreed before anybody scores: every score is an exchange itself.
        idle = max(live.world.gather(len(missing))) - len(missing) if network.together else 0
        with network.scoring() as score, guarded_block(live.architecture, "the reference"):
            for batch in values["scored_batches"] if answers else ():
                select = live.selection.union(batch, only="ref_logprobs") & batch.sampled.view(-1, 1, 1)
                if network.together or bool(select.any()):
                    _add(tokens, batch, _scored(score, batch, select))
            for each in missing:
                found = _scored(score, each.batch.to(live.world.device), each.select.to(live.world.device))[0]
                there(live.reference_cache).put(each.key, found, each.select)
                tokens[each.batch.rows[0].key] = found
            if idle:
                _score_nothing(live, score, values["rows"], times=idle)
        return {"ref_logprobs": RowColumn(tokens)}

    return run


def _add(tokens: dict[Key, Tensor], batch: MicroBatch, scored: Tensor) -> None:
    """Note `scored` [B, S + E, T] of a batch's rows; idle batches, which come last, repeat rows and score none."""
    for b, row in enumerate(batch.rows):
        tokens.setdefault(row.key, scored[b, :, : row.tokens.length])


@final
@dataclass(frozen=True, slots=True)
class _Missing:
    """A row of data that no cache has log-probs of, alone."""

    batch: MicroBatch
    select: Tensor
    """Bool [1, S + E, T]."""
    key: str


def _kept(live: LiveStage, rows: Sequence[Row]) -> tuple[dict[Key, Tensor], list[_Missing]]:
    """Log-probs [S + E, T] of rows of data that are kept, by row, and the other rows that some term wants scored."""
    found: dict[Key, Tensor] = {}
    missing: list[_Missing] = []
    for row in (row for row in rows if not row.sampled and row.family in live.referring):
        batch = live.selection.collate([row], number=0)
        select = live.selection.union(batch, only="ref_logprobs")
        key = there(live.reference_cache).key(batch.tokens, select)
        scored = there(live.reference_cache).get(key, select)
        if scored is None:
            missing.append(_Missing(batch, select, key))
        else:
            found[row.key] = scored
    return found, missing


def _scored(score: Score, batch: MicroBatch, select: Tensor) -> Tensor:
    """Log-probs [B, S + E, T] of the positions in `select` by `score`, on the host."""
    return score(batch.tokens, select, temperature=batch.temperature, support=batch.support).cpu()


def _score_nothing(live: LiveStage, score: Score, rows: Sequence[Row], *, times: int) -> None:
    """Take part in the scores of another rank that lacks more rows than this one."""
    batch = live.selection.collate(rows[:1], number=0).to(live.world.device)
    for _ in range(times):
        _scored(score, batch, torch.zeros_like(live.selection.union(batch, only="ref_logprobs")))


# --- the reference point ----------------------------------------------------------------------------------------------


def mismatched(live: LiveStage, plan: Operator) -> Run:
    """This rank's questions, each with the answers to the next question of the step: the same rows on any ranks.

    Raises DataError for a question and an answer that together are longer than the network reads.
    """
    (given,), encoder, space = plan.gives, live.roller.encoder, live.architecture.tokens
    longest = live.architecture.dimensions().positions

    def run(values: Values) -> Made:
        drawn = values[f"drawn.{plan.of}"]
        places = range(len(drawn))[live.share(len(drawn))]
        rows = mismatched_rows(drawn, places, encoder, space, family=plan.of)
        most = max((row.tokens.length for row in rows), default=0)
        if longest is not None and most > longest:
            raise DataError(
                f"a question of {plan.of} with the answer to another one takes {most} positions of {longest}",
                hint="for a reference point set data.max_prompt_tokens and data.max_target_tokens, which together fit",
            )
        return {given: rows}

    return run


def mismatched_reference(live: LiveStage, plan: Operator) -> Run:
    """Log-probs of mismatched rows under the reference."""
    network, cutter = there(live.reference), _cutter(live)

    def run(values: Values) -> Made:
        tokens: dict[Key, Tensor] = {}
        batches = MicroBatches(cutter.cut([row for name in plan.needs for row in values[name]]), live.world.device)
        with network.scoring() as score, guarded_block(live.architecture, "the reference"):
            for batch in batches:
                _add(tokens, batch, _scored(score, batch, _weighed(live, batch)))
        return {"mismatched_ref_logprobs": RowColumn(tokens)}

    return run


def reference_point(live: LiveStage, plan: Operator) -> Run:
    """max(0, mean log-ratio) of an update's mismatched rows on all ranks, under the weights as the update begins."""
    cutter, sources = _cutter(live), [name for name in plan.needs if name.startswith("mismatched.")]
    families = [name.removeprefix("mismatched.") for name in sources]

    def run(values: Values) -> Made:
        known: RowColumn = values["mismatched_ref_logprobs"]
        update = values["updates"]
        wanted = {row.key for row in update.rows}
        rows = [row for name in sources for row in values[name] if row.key in wanted]
        sums = torch.zeros(len(families), 3, dtype=torch.float64)
        for batch in MicroBatches(cutter.cut(rows), live.world.device):
            select = _weighed(live, batch)
            seed = ("reference_point", values["step"], update.number, batch.number)
            with guarded_block(live.architecture, "the forward pass"), dropout(live, *seed):
                scored = live.backend.score(
                    batch.tokens, select, temperature=batch.temperature, support=batch.support
                ).cpu()
            for b, row in enumerate(batch.rows):
                sums[families.index(row.family)] += _of_row(scored[b], known.of(row), select[b].cpu(), row)
        total = live.world.all_reduce_sum(sums.to(live.world.device)).cpu()
        by_sum, by_mean, count = total.unbind(dim=1)
        points = (
            dict(zip(families, (each / count.clamp(min=1)).clamp(min=0).tolist(), strict=True))
            for each in (by_sum, by_mean)
        )
        return {name: FamilyColumn(numbers) for name, numbers in zip(POINTS, points, strict=True)}

    return run


def _of_row(scored: Tensor, ref: Tensor | None, select: Tensor, row: Row) -> Tensor:
    """Sum and mean of the log-ratio over the row's tokens, and 1: [N] of N = 3, 0 where nothing is selected.

    `scored` and `select` [S + E, T] are padded, `ref` [S + E, T] is not.
    """
    chosen = select[:, : row.tokens.length]
    tokens = int(chosen.sum())
    if ref is None or not tokens:
        return torch.zeros(3, dtype=torch.float64)
    gap = (scored[:, : row.tokens.length] - ref)[chosen].sum(dtype=torch.float64)
    return torch.stack([gap, gap / tokens, torch.ones_like(gap)])


def _weighed(live: LiveStage, batch: MicroBatch) -> Tensor:
    """Bool [B, S + E, T]: positions of the terms that compare with a reference point."""
    first, second = (live.selection.union(batch, only=name) for name in POINTS)
    return first | second


def _cutter(live: LiveStage) -> Cutter:
    """One of its own: the step's remembers what it cut last."""
    return Cutter(live.selection, live.terms, limits=live.settings.limits, world=live.world)
