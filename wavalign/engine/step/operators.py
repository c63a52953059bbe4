"""The functions of a step's operators: for each, what it does with the values it needs, on a stage's live objects.

What an operator needs and gives, and when it is in a graph, stands in `compile/operators.py`; a new capability is an
entry there and one here. These are the operators that run once a step; `learning.py` has those of updates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from wavalign.engine.compile.operators import PROMPT_GATES, ROLLOUTS
from wavalign.engine.compile.plan import Operator
from wavalign.engine.compile.resampled import DRAWN, without_prefix
from wavalign.engine.contracts.origins import guarded_block, origin
from wavalign.engine.state.seeds import generator
from wavalign.engine.step import learning, references, weighing
from wavalign.engine.step import token_operators as token_level
from wavalign.engine.step.batches import AnswerColumn, CompletionColumn, MicroBatches, RowColumn, ScoreColumn
from wavalign.engine.step.executor import LiveOperator, Run
from wavalign.engine.step.guards import guarded
from wavalign.engine.step.metrics import step_result
from wavalign.engine.step.resampling import AGAIN, ROUND, resample
from wavalign.engine.step.reward_budget import hold_budget
from wavalign.engine.step.reward_inputs import shown_to
from wavalign.engine.step.rewards import Spent, collect_scores, counted, judge_truncated
from wavalign.engine.step.rows import answer_rows, data_rows
from wavalign.engine.step.stage import LiveStage, there
from wavalign.engine.step.tallies import ratios_of_gaps
from wavalign.engine.step.updates import cut_updates
from wavalign.engine.step.values import Made
from wavalign.errors import PluginError, RewardBudgetError, RewardStopped
from wavalign.plugins.api import AdvantageInputs, GateReading
from wavalign.plugins.api.base import Remembers
from wavalign.plugins.batch import Dialogue, RolloutGroup

Values = Mapping[str, Any]
T = TypeVar("T")


@final
@dataclass(frozen=True, slots=True)
class Function:
    """How an operator is made live."""

    bind: Callable[[LiveStage, Operator], Run]
    busy: str = ""
    """What a person is told that a step does meanwhile."""
    progress: Callable[[LiveStage, Operator], Callable[[], tuple[str, int, int]]] | None = None
    """Of one in a thread: how to ask what it is at."""


def live_operators(live: LiveStage) -> list[LiveOperator]:
    """The operators of a stage's plan, in its order, with their functions."""
    return [_live(live, each) for each in live.plan.graph.operators]


def _live(live: LiveStage, plan: Operator) -> LiveOperator:
    """An operator with its function, which knows values by the names that they have where nothing is resampled."""
    function = FUNCTIONS[plan.function]
    progress = None if function.progress is None else function.progress(live, plan)
    known = {name.removeprefix(DRAWN): name for name in (*plan.needs, *plan.gives)}
    if plan.function not in AGAIN or not any(name.startswith(DRAWN) for name in known.values()):
        return LiveOperator(plan, function.bind(live, plan), function.busy, progress)
    run = function.bind(live, without_prefix(plan))

    def renamed(values: Values) -> Made:
        needed = {short: values[name] for short, name in known.items() if name in plan.needs}
        made = run({**needed, **{name: values[name] for name in ROUND if name in values}})
        return {known.get(name, name): value for name, value in made.items()}

    return LiveOperator(plan, renamed, function.busy, progress)


def _resample(live: LiveStage, plan: Operator) -> Run:
    again = [_live(live, each) for each in live.plan.graph.operators if each.function in AGAIN]
    return resample(live, plan, again)


# --- what is sampled and scored ---------------------------------------------------------------------------------------


def _prompts(live: LiveStage, _: Operator) -> Run:
    sizes = live.settings.geometry

    def run(_values: Values) -> Made:
        if live.in_flight is not None and live.in_flight.prompts is not None:
            return {"prompts": live.in_flight.prompts}
        drawn = live.feeds["prompts"].next(sizes.prompts)
        return {"prompts": drawn[live.share(len(drawn))]}

    return run


def _rollout(live: LiveStage, _: Operator) -> Run:
    settings, waiting = live.settings, live.in_flight
    logged = "old_logprobs" if live.provider.own_network and waiting is None else "behaviour_logprobs"

    def run(values: Values) -> Made:
        index, further = values["step"], [values["round"]] if "round" in values else []
        if waiting is not None and waiting.prompts is not None:
            groups = waiting.take()
        else:
            version = None if further else index * settings.geometry.updates
            groups = _sampled(live, values["prompts"], version, index, *further)
        completions = [[rollout.logprobs.float().cpu() for rollout in group.rollouts] for group in groups]
        return {"rollouts": groups, logged: CompletionColumn(ROLLOUTS, completions)}

    return run


def _rollout_ahead(live: LiveStage, _: Operator) -> Run:
    settings, waiting = live.settings, there(live.in_flight)

    def run(values: Values) -> Made:
        index = values["step"]
        if index + 1 >= settings.steps:
            return {"rollouts_ahead": ()}
        version: int | None = index * settings.geometry.updates
        groups = _sampled(live, waiting.draw(), None if version == waiting.published else version, index + 1)
        waiting.hold(groups)
        return {"rollouts_ahead": groups}

    return run


def _sampled(live: LiveStage, prompts: Sequence[Dialogue], version: int | None, *names: int) -> Sequence[RolloutGroup]:
    """Answers to this rank's `prompts`, with draws named by step and round; `version` where weights are published."""
    # Ranks share the seed: a row's draws depend on its dialogue and its place in the group, not on its rank.
    rng = generator(live.settings.seed, live.settings.stage, "rollout", *names)
    groups: Sequence[RolloutGroup] = ()
    with live.backend.full_parameters():
        if version is not None:
            live.provider.publish(live.backend.policy, version=version)
            if live.in_flight is not None:
                live.in_flight.published = version
        if prompts:
            live.provider.submit(prompts, live.settings.sampling, rng)
            groups = live.provider.collect()
    _check_answers(live, groups, len(prompts))
    return groups


def _check_answers(live: LiveStage, groups: Sequence[RolloutGroup], prompts: int) -> None:
    """Raise PluginError where a provider gave other answers than it was asked for."""
    size, found = live.settings.sampling.group_size, ""
    if len(groups) != prompts:
        found = f"{len(groups)} groups for {prompts} prompts"
    elif odd := next((each for each in groups if len(each.rollouts) != size), None):
        found = f"{len(odd.rollouts)} answers to {odd.dialogue.label} where {size} were asked for"
    elif any(rollout.version is None for group in groups for rollout in group.rollouts):
        found = "answers that do not say which version of the weights made them"
    if found:
        hint = "every collect() answers as many prompts as the last submit() had, and sets `version` of each rollout"
        raise PluginError(f"{origin(live.provider)}: collect gave {found}", hint=hint, placed=True)


def _decode_audio(live: LiveStage, _: Operator) -> Run:
    return lambda values: {"waveforms": live.roller.with_sound(values["rollouts"])}


def _reward(live: LiveStage, plan: Operator) -> Run:
    (heard,), (given,) = plan.needs, plan.gives
    needs = next(each.reward.needs for each in live.rewards.rewards if each.name == plan.of)
    shown = partial(shown_to, needs, encoder=live.roller.encoder)
    return lambda values: {given: live.rewards.score(plan.of, shown(values[heard]), together=True)}


def _reward_progress(live: LiveStage, plan: Operator) -> Callable[[], tuple[str, int, int]]:
    return lambda: live.rewards.progress(plan.of)


def _aggregate(live: LiveStage, plan: Operator) -> Run:
    settings, sizes = live.settings, live.settings.geometry
    by_reward = dict(zip((each.name for each in live.rewards.rewards), plan.needs[1:], strict=True))

    def run(values: Values) -> Made:
        groups = values["rollouts"]
        calls = {name: values[given] for name, given in by_reward.items()}
        scores = collect_scores(live.rewards.rewards, calls, (len(groups), sizes.group_size))
        earlier: Spent = values.get("spent", Spent())
        calls_so_far = earlier.calls + values.get("asked", sizes.prompts) * sizes.group_size
        try:
            spent = hold_budget(
                scores,
                calls,
                live.rewards,
                live.world,
                budget=settings.reward_failure_budget,
                spent=replace(earlier, calls=calls_so_far),
            )
        except (RewardBudgetError, RewardStopped):
            live.clock.together = True
            raise
        scores = replace(scores, spent=spent)
        scores = guarded(scores, live.rewards.rewards)
        scores = judge_truncated(scores, live.rewards.rewards, groups, settings.truncated)
        return {"scores": scores, "rewards": AnswerColumn(ROLLOUTS, scores.total, ~scores.total.isnan())}

    return run


def _advantage(live: LiveStage, _: Operator) -> Run:
    advantage = there(live.advantage)

    weights = {each.name: each.section.weight for each in counted(live.rewards.rewards)}

    def run(values: Values) -> Made:
        total: Tensor = values["rewards"].table
        parts = values["scores"].judged_parts
        # One gather of [P, G, 1 + R]: every rank computes the same of the same.
        whole = live.world.all_gather_rows(torch.stack([total, *parts.values()], dim=2))
        by_name = {name: whole[:, :, place].contiguous() for place, name in enumerate(parts, 1)}
        found = advantage.compute(AdvantageInputs(whole[:, :, 0].contiguous(), by_name, weights))
        _show_state(advantage, values["step"])
        mine = slice(live.world.rank * len(total), (live.world.rank + 1) * len(total))
        return {"advantages": AnswerColumn(ROLLOUTS, found.values[mine], found.valid[mine])}

    return run


def _token_advantage(live: LiveStage, plan: Operator) -> Run:
    advantage = there(live.advantage)
    run = token_level.token_advantage(live, plan, advantage)

    def remembered(values: Values) -> Made:
        made = run(values)
        _show_state(advantage, values["step"])
        return made

    return remembered


def _gate(live: LiveStage, plan: Operator) -> Run:
    gate, last = there(live.gate), max(1, live.settings.steps - 1)

    def run(values: Values) -> Made:
        tables = {name: values[name] for name in plan.needs}
        rewards = live.world.all_gather_rows(tables["rewards"].table) if "rewards" in tables else None
        if "reward_noise" in tables:
            noise = live.world.all_gather_rows(tables["reward_noise"])
            reading = gate.update(rewards, progress=values["step"] / last, noise=noise)
        else:
            reading = gate.update(rewards, progress=values["step"] / last)
        _show_state(gate, values["step"])
        return {"gate": reading, **_own_shares(live, plan, reading)}

    return run


def _own_shares(live: LiveStage, plan: Operator, reading: GateReading) -> Made:
    """Each prompt's own value of the gate, for every answer of this rank, where somebody follows it."""
    if PROMPT_GATES not in plan.gives:
        return {}
    mine = torch.tensor(reading.prompts, dtype=torch.float64)[live.share(len(reading.prompts))]
    table = mine[:, None].expand(-1, live.settings.geometry.group_size)
    return {PROMPT_GATES: AnswerColumn(ROLLOUTS, table, torch.ones_like(table, dtype=torch.bool))}


# --- rows -------------------------------------------------------------------------------------------------------------


def _answer_rows(live: LiveStage, plan: Operator) -> Run:
    space, temperatures = live.architecture.tokens, live.settings.temperatures
    (given,) = plan.gives
    return lambda values: {given: answer_rows(values["rollouts"], space, family=plan.of, temperatures=temperatures)}


def _data_rows(live: LiveStage, plan: Operator) -> Run:
    size = next(each.groups for each in live.settings.geometry.families if each.name == plan.of)

    def run(_values: Values) -> Made:
        drawn = live.feeds[plan.of].next(size)
        mine = drawn[live.share(len(drawn))]
        rows = data_rows(mine, live.roller.encoder, live.architecture.tokens, family=plan.of)
        return {f"rows.{plan.of}": rows, f"drawn.{plan.of}": drawn}

    return run


def _rows(_: LiveStage, plan: Operator) -> Run:
    return lambda values: {"rows": [row for name in plan.needs for row in values[name]]}


def _target_scores(_live: LiveStage, _plan: Operator) -> Run:
    return lambda _values: {"target_scores": ScoreColumn()}


def _scored_batches(live: LiveStage, _: Operator) -> Run:
    def run(values: Values) -> Made:
        return {"scored_batches": MicroBatches(live.cutter.cut(values["rows"]), live.world.device)}

    return run


def _recompute(live: LiveStage, _: Operator) -> Run:
    cap = live.settings.importance_cap

    def run(values: Values) -> Made:
        behaviour: CompletionColumn = values["behaviour_logprobs"]
        old: dict[tuple[str, int, int], Tensor] = {}
        importance: dict[tuple[str, int, int], Tensor] = {}
        gaps = [torch.zeros(0)]
        for batch in values["scored_batches"]:
            select = live.selection.union(batch, only="old_logprobs")
            with guarded_block(live.architecture, "the forward pass"):
                scored = live.backend.score(
                    batch.tokens, select, temperature=batch.temperature, support=batch.support
                ).cpu()
            for b, row in enumerate(batch.rows):
                if (theirs := behaviour.of(row)) is None or row.key in old:
                    continue  # idle batches, which come last, repeat rows and score none
                ours, chosen = scored[b, : len(theirs), : row.tokens.length], select[b, : len(theirs)].cpu()
                gap = torch.where(chosen[:, : row.tokens.length], ours - theirs, 0.0)
                old[row.key], importance[row.key] = ours, gap.exp().clamp(max=cap)
                gaps.append(gap[chosen[:, : row.tokens.length]])
        mismatch = ratios_of_gaps(torch.cat(gaps))
        return {"old_logprobs": RowColumn(old), "importance": RowColumn(importance), "mismatch": mismatch}

    return run


def _updates(live: LiveStage, _: Operator) -> Run:
    settings, sizes = live.settings, live.settings.geometry

    def run(values: Values) -> Made:
        updates = cut_updates(
            values["rows"],
            epochs=sizes.epochs,
            mini_batches=sizes.mini_batches,
            rank=live.world.rank,
            seed=(settings.seed, settings.stage, values["step"]),
        )
        return {"updates": updates}

    return run


def _show_state(plugin: Remembers, index: int) -> None:
    """Ask for a state in the first step: one that no checkpoint can hold shows now, not when the first is written."""
    if index == 0:
        plugin.state_dict()


def _metrics(live: LiveStage, plan: Operator) -> Run:
    return lambda values: {"result": step_result(live, {name: values[name] for name in plan.needs}, values["clock"])}


FUNCTIONS: dict[str, Function] = {
    "prompts": Function(_prompts, "reading prompts"),
    "rollout": Function(_rollout, "sampling answers"),
    "rollout_ahead": Function(_rollout_ahead, "sampling answers of the next step"),
    "weighed": Function(weighing.weighed),
    "decode_audio": Function(_decode_audio, "decoding the sound of answers"),
    "reward": Function(_reward, "rewards", _reward_progress),
    "aggregate": Function(_aggregate),
    "resample": Function(_resample, "sampling further answers"),
    "advantage": Function(_advantage),
    "token_rewards": Function(token_level.token_rewards),
    "old_values": Function(token_level.old_values, "values under the weights that sampled"),
    "token_advantage": Function(_token_advantage),
    "reward_noise": Function(lambda _live, _plan: lambda values: {"reward_noise": values["scores"].noise}),
    "gate": Function(_gate),
    "answer_rows": Function(_answer_rows),
    "data_rows": Function(_data_rows, "reading dialogues to learn from"),
    "rows": Function(_rows),
    "target_scores": Function(_target_scores),
    "scored_batches": Function(_scored_batches),
    "reference": Function(references.reference, "the reference model"),
    "mismatched_rows": Function(references.mismatched),
    "mismatched_reference": Function(references.mismatched_reference),
    "reference_point": Function(references.reference_point),
    "recompute": Function(_recompute, "log-probs under the weights that learn"),
    "updates": Function(_updates),
    "micro_batches": Function(learning.micro_batches, "learning"),
    "denominators": Function(learning.denominators),
    "forward": Function(learning.forward),
    "term": Function(learning.term),
    "objective": Function(learning.objective),
    "backward": Function(learning.backward),
    "kl_to_reference": Function(learning.kl_to_reference),
    "first_ratio": Function(learning.first_ratio),
    "totals": Function(learning.totals),
    "update": Function(learning.update),
    "metrics": Function(_metrics),
}
"""By `Operator.function`."""
