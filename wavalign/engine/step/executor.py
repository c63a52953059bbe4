"""One step: walk the graph's nodes, in order, once per step or once per micro-batch as each node's phase says."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import final

import torch
from torch import Tensor

from wavalign.crash_log import keep_traceback
from wavalign.engine.compile.plan import Geometry, Node
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.models.scored_policy import score_batch
from wavalign.engine.run.observers import Waiting, nobody
from wavalign.engine.state.seeds import derive, generator, global_seed
from wavalign.engine.step import objective
from wavalign.engine.step.batches import MicroBatch, Row, demonstration_rows, micro_batches, rollout_rows
from wavalign.engine.step.metrics import collect_metrics
from wavalign.engine.step.rewards import Call, Scores, check_budget, collect_scores, judge_truncated
from wavalign.engine.step.sampling import rollout_options
from wavalign.engine.step.schedule import learning_rate
from wavalign.engine.step.selection import Selection, by_row, nothing_selected, refuse_broken_values
from wavalign.engine.step.stage import LiveStage, LiveTerm
from wavalign.engine.step.state import Pass, StepResult, StepState
from wavalign.errors import NonFiniteError, RewardBudgetError
from wavalign.plugins.api import LossInputs
from wavalign.plugins.batch import Dialogue

BUSY = {
    "prompts": "reading prompts",
    "demonstrations": "reading demonstrations",
    "rollout": "sampling answers",
    "decode_audio": "decoding the sound of answers",
    "aggregate": "rewards",
    "forward": "the reference model",
}
"""What a person is told a step is busy with, by kind of node."""


@final
class StepExecutor:
    """Executes the graph of one stage."""

    def __init__(self, live: LiveStage, done: int = 0, waiting: Waiting = nobody) -> None:
        """Go on after `done` steps of the stage."""
        self.live, self._waiting = live, waiting
        self.weights_of: int | None = done
        """Steps that the weights have seen; None while they change."""
        self.before_update: Callable[[], None] = _nothing
        """Called on every rank when gradients are complete and the weights have not moved."""
        self.together = False
        """Whether the error that `step` raised was raised on every rank."""
        self.graph = live.plan.graph
        self.space = live.architecture.tokens
        self._selection = Selection(live.terms, self.space)
        self._sampling = rollout_options(live.plan.stage.rollout, text_only=self.graph.rollout_need == "text")
        self._collectors: dict[str, Callable[[Node, StepState], None]] = {
            "prompts": self._prompts,
            "demonstrations": self._demonstrations,
            "rollout": self._rollout,
            "decode_audio": self._decode_audio,
            "reward": self._reward,
            "forward": self._reference,
            "logprobs": _together_with_forward,
            "aggregate": self._aggregate,
            "advantage": self._advantage,
            "gate": self._gate,
        }
        self._learners: dict[str, Callable[[Node, StepState, Pass], None]] = {
            "forward": self._forward,
            "logprobs": _fused_with_forward,
            "term": self._term,
            "objective": self._objective,
            "backward": self._backward,
        }

    def step(self, index: int) -> StepResult:
        """Run step `index` of the stage and give what is worth logging."""
        state = StepState(index)
        for node in self._nodes("collect"):
            self._waiting(BUSY.get(node.kind, ""), 0, 0)
            with _timed(state, node.kind):
                self._collectors[node.kind](node, state)
        self._waiting("learning", 0, 0)
        with _timed(state, "learn"):
            self._learn(state)
        metrics = collect_metrics(self.live, state)
        more, notes = self.live.signal.step(metrics)
        return StepResult({**metrics, **more}, state.groups, state.scores, state.advantages, notes)

    def _nodes(self, phase: str) -> list[Node]:
        return [node for node in self.graph.nodes if node.phase == phase]

    # Collect

    def _prompts(self, node: Node, state: StepState) -> None:
        state.prompts = self._slice(self.live.feeds["prompts"].next(self._geometry.prompts))

    def _demonstrations(self, node: Node, state: StepState) -> None:
        state.demonstrations = self._slice(self.live.feeds["demonstrations"].next(self._geometry.demonstrations))

    def _rollout(self, node: Node, state: StepState) -> None:
        # Ranks share the seed: a row's draws depend on its dialogue and its place in the group, not on its rank.
        rng = generator(self.live.seed, self.live.plan.name, "rollout", state.index)
        with self.live.backend.full_parameters():
            state.groups = self.live.roller.sample(self.live.backend.policy, state.prompts, self._sampling, rng)

    def _decode_audio(self, node: Node, state: StepState) -> None:
        state.groups = self.live.roller.with_sound(state.groups)

    def _reward(self, node: Node, state: StepState) -> None:
        live = next(each for each in self.live.rewards.rewards if f"reward.{each.name}" == node.name)
        state.calls[live.name] = self.live.rewards.submit(live, state.groups)

    def _reference(self, node: Node, state: StepState) -> None:
        self._ensure_batches(state)
        assert self.live.reference is not None
        with self.live.reference.scoring() as reference, guarded_block(self.live.architecture, "the reference"):
            for batch in state.batches:
                select = self._selection.union(batch, self._selection.weights(batch), only="ref_logprobs")
                scored = score_batch(
                    reference,
                    batch.tokens,
                    select,
                    self.space,
                    temperature=batch.temperature,
                    support=batch.support,
                )
                state.ref_logprobs.append(scored)

    def _aggregate(self, node: Node, state: StepState) -> None:
        self.live.rewards.wait([call for each in state.calls.values() for call in each], self._waiting)
        shape = (len(state.groups), self._geometry.group_size)
        state.scores = collect_scores(self.live.rewards.rewards, state.calls, shape)
        try:
            _check_budget(
                self.live, state.scores, state.calls, calls=self._geometry.prompts * self._geometry.group_size
            )
        except RewardBudgetError:
            self.together = True
            raise
        rule = self.live.plan.stage.rollout.truncated
        state.scores = judge_truncated(state.scores, self.live.rewards.rewards, state.groups, rule)

    def _advantage(self, node: Node, state: StepState) -> None:
        assert self.live.advantage is not None and state.scores is not None
        state.advantages, state.valid = self.live.advantage.compute(state.scores.total)

    def _gate(self, node: Node, state: StepState) -> None:
        assert self.live.gate is not None
        rewards = None if state.scores is None else self.live.world.all_gather_rows(state.scores.total)
        progress = state.index / max(1, self.live.plan.steps - 1)
        state.gate = self.live.gate.update(rewards, progress=progress)
        if state.index == 0:
            self.live.gate.state_dict()  # one that no checkpoint can hold shows now, not when the first is written

    # Learn

    def _learn(self, state: StepState) -> None:
        self._ensure_batches(state)
        passes = [self._pass(state, number, batch) for number, batch in enumerate(state.batches)]
        self._count(state, passes)
        self.live.backend.begin_update(len(passes))
        for each in passes:
            for node in self._nodes("learn"):
                self._learners[node.kind](node, state, each)
        rate = learning_rate(self.live.plan.stage.optim, state.index, self.live.plan.steps)
        state.totals.learning_rate = rate
        self.before_update()
        self.weights_of = None
        try:
            state.grad_norm = self.live.backend.step(rate)
        except NonFiniteError as error:
            self.weights_of, self.together = state.index, True  # the norm is that of all ranks
            place = f"at step {state.index + 1} of stage '{self.live.plan.name}'"
            raise NonFiniteError(f"{error.message} ({place})", hint=error.hint) from error
        problem = _broken_weights(self.live, state)
        if problem is not None:
            self.together = True
            raise problem
        self.weights_of = state.index + 1

    def _pass(self, state: StepState, number: int, batch: MicroBatch) -> Pass:
        return Pass(batch, number, self._selection.weights(batch), self._selection.row_valid(batch, state.valid))

    def _count(self, state: StepState, passes: Sequence[Pass]) -> None:
        """Global denominators of every term, before the first backward needs one."""
        names = [term.plan.name for term in self.live.terms]
        local = torch.stack(
            [
                sum(
                    (objective.count(_unit_weights(term, each), each.row_valid[term.plan.name]) for each in passes),
                    start=torch.zeros(2, dtype=torch.float64, device=self.live.world.device),
                )
                for term in self.live.terms
            ]
        )
        total = self.live.world.all_reduce_sum(local)
        state.denominators = dict(zip(names, total, strict=True))
        for term in self.live.terms:
            tokens, rows = state.denominators[term.plan.name].tolist()
            if rows and not tokens and not term.plan.brought_by:  # a pull on tokens nobody said pulls on nothing
                raise nothing_selected(term, int(rows), f"step {state.index + 1} of stage '{self.live.plan.name}'")

    def _forward(self, node: Node, state: StepState, each: Pass) -> None:
        select = self._selection.union(each.batch, each.weights)
        batch = each.batch
        dropout = _drawn_from(self.live, "dropout", state.index, each.number)
        with guarded_block(self.live.architecture, "the forward pass"), dropout:
            each.logprobs = self.live.backend.forward(
                batch.tokens, select, temperature=batch.temperature, support=batch.support
            ).logprobs
        if state.ref_logprobs:
            known = self._selection.union(batch, each.weights, only="ref_logprobs")
            state.totals.add_kl(each.logprobs, state.ref_logprobs[each.number], batch, known)

    def _term(self, node: Node, state: StepState, each: Pass) -> None:
        term = next(term for term in self.live.terms if f"term.{term.plan.name}" == node.name)
        name = term.plan.name
        output = term.loss.compute(_inputs(term, state, each))
        weights, row_valid = _unit_weights(term, each), each.row_valid[name]
        each.values[name] = objective.term_loss(
            term.spec,
            output.values,
            weights=weights,
            row_valid=row_valid,
            denominators=state.denominators[name],
        )
        state.totals.add_term(name, each.values[name])
        state.totals.add_maxima(name, objective.metric_maxima(output.maxima, weights=weights, row_valid=row_valid))
        state.totals.add_metrics(name, objective.metric_sums(output.metrics, weights=weights, row_valid=row_valid))

    def _objective(self, node: Node, state: StepState, each: Pass) -> None:
        gate = state.gate.value if state.gate is not None else None
        specs = [term.spec for term in self.live.terms]
        divisor = self.live.backend.divisor
        each.loss = objective.combine(each.values, specs, gate=gate, backend_divisor=divisor)
        total = float(each.loss.detach()) / divisor
        if total != total or total in (float("inf"), float("-inf")):
            bad = [name for name, value in each.values.items() if not bool(torch.isfinite(value.detach()))]
            place = f"at step {state.index + 1} of stage '{self.live.plan.name}'"
            for term in (term for term in self.live.terms if term.plan.name in bad):
                refuse_broken_values(term, _inputs(term, state, each), each.weights[term.plan.name] > 0, place)
            raise NonFiniteError(
                f"the loss is {total} {place} (term {', '.join(bad) or 'unknown'})",
                hint="weights are as before this step; lower optim.learning_rate or look at the data of this step",
            )
        state.totals.loss += total

    def _backward(self, node: Node, state: StepState, each: Pass) -> None:
        assert each.loss is not None
        with guarded_block(self.live.architecture, "the backward pass"):
            self.live.backend.backward(each.loss)
        each.loss, each.logprobs = None, None  # let the graph's memory go before the next forward

    # Rows, weights, advantages

    def _ensure_batches(self, state: StepState) -> None:
        if state.batches:
            return
        rows: list[Row] = []
        if any(term.plan.rows == "rollouts" for term in self.live.terms):
            rows += rollout_rows(state.groups, self.space)
        rows += demonstration_rows(state.demonstrations, self.live.roller.encoder, self.space)
        batches = micro_batches(
            rows,
            self._geometry.micro_batch,
            space=self.space,
            temperatures=[self._sampling.distribution(stream).temperature for stream in self.space.streams],
            device=self.live.world.device,
        )
        state.batches = [self._selection.widen(batch) for batch in batches]

    def _slice(self, dialogues: Sequence[Dialogue]) -> list[Dialogue]:
        """This rank's share of a step's dialogues."""
        share = len(dialogues) // self.live.world.size
        return list(dialogues[self.live.world.rank * share : (self.live.world.rank + 1) * share])

    @property
    def _geometry(self) -> Geometry:
        assert self.live.plan.geometry is not None
        return self.live.plan.geometry


def _broken_weights(live: LiveStage, state: StepState) -> NonFiniteError | None:
    """What to raise, on every rank, where an update left a weight on some rank that is NaN or infinite."""
    mine = live.backend.broken()
    if not live.world.any_true(bool(mine)):
        return None
    name = next(each for each in live.world.gather(mine) if each)
    return NonFiniteError(
        f"the update of step {state.index + 1} of stage '{live.plan.name}' made weights NaN or infinite"
        f" ({name} among them), though its gradient norm was {state.grad_norm:.3g}; they were not saved",
        hint="lower optim.learning_rate (a new run), or look at optim.epsilon and at this step's data",
    )


def _drawn_from(live: LiveStage, *names: str | int) -> AbstractContextManager[None]:
    """Inside, what an adapter's dropout drops depends on the run's seed, `names` and the rank, and on nothing else."""
    adapter = live.plan.stage.model.adapter
    if adapter is None or adapter.dropout == 0:
        return nullcontext()
    return global_seed(derive(live.seed, live.plan.name, *names, live.world.rank), live.world.device)


def _check_budget(live: LiveStage, scores: Scores, made: Mapping[str, Sequence[Call]], *, calls: int) -> None:
    """Hold the failures of all ranks against the budget, so that all go on or none; a traceback is kept."""
    counts = torch.tensor(list(scores.failed.values()), device=live.world.device)
    failed = dict(zip(scores.failed, live.world.all_reduce_sum(counts).tolist(), strict=True))
    try:
        check_budget(scores, live.rewards.rewards, failed, calls=calls, budget=live.runtime.reward_failure_budget)
    except RewardBudgetError as error:
        raised = next((call.error for each in made.values() for call in each if call.error is not None), None)
        path = keep_traceback(raised) if raised is not None else None
        if path is not None:
            error.hint = f"{error.hint}; the traceback of one is in {path}"
        raise


def _inputs(term: LiveTerm, state: StepState, each: Pass) -> LossInputs:
    """The columns that the term's loss asked for."""
    needs, batch = term.loss.needs, each.batch
    assert each.logprobs is not None
    return LossInputs(
        logprobs=each.logprobs,
        old_logprobs=batch.old_logprobs if "old_logprobs" in needs else None,
        ref_logprobs=state.ref_logprobs[each.number] if "ref_logprobs" in needs else None,
        advantages=_row_advantages(state, batch) if "advantages" in needs else None,
        mask=each.weights[term.plan.name] > 0 if "mask" in needs else None,
    )


def _row_advantages(state: StepState, batch: MicroBatch) -> Tensor:
    """Of the answer that each row is, [B, 1, 1]; 0 where it is none."""
    assert state.advantages is not None
    return by_row(batch, state.advantages.float(), fill=0.0).view(-1, 1, 1)


def _unit_weights(term: LiveTerm, each: Pass) -> Tensor:
    """The term's weights in the loss's unit: [B, S, T], or [B] with 1 for a row that has any."""
    weights = each.weights[term.plan.name]
    return (weights > 0).flatten(1).any(dim=1).float() if term.loss.unit == "sequence" else weights


def _nothing() -> None:
    """Nobody asked to be called."""


def _together_with_forward(node: Node, state: StepState) -> None:
    """The reference's log-probs are taken in the same pass as its hidden states."""


def _fused_with_forward(node: Node, state: StepState, each: Pass) -> None:
    """The backend's forward gives log-probs: hidden states never leave the wrapped module."""


@contextmanager
def _timed(state: StepState, kind: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    state.seconds[kind] = state.seconds.get(kind, 0.0) + time.perf_counter() - began
