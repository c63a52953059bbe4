"""What the plugins of a stage say about themselves, asked once: what its graph is made of."""

from collections.abc import Sequence

from wavalign.engine.compile.guard_checks import guard_detail
from wavalign.engine.compile.operators import ROLLOUTS, StageParts
from wavalign.engine.compile.plan import Pruned, TermPlan
from wavalign.engine.compile.reward_checks import declared_needs
from wavalign.engine.compile.says import AdvantageSays, GateSays, RewardNeeds
from wavalign.engine.contracts.construct import construct
from wavalign.plugins.api import Advantage, Gate, Loss, Mask, Provider, Reward
from wavalign.plugins.guard import origin_of
from wavalign.plugins.registry import Registry
from wavalign.schema.component import Component
from wavalign.schema.reward import RewardSection
from wavalign.schema.stage import Stage


def stage_parts(stage: Stage, terms: Sequence[TermPlan], registry: Registry) -> StageParts:
    """All that the operators of a stage hang on."""
    live = [term for term in terms if term.lives]
    objective = stage.objective
    gate = objective.gate if objective is not None and any(term.share.moves for term in live) else None
    once = stage.batch.epochs * stage.batch.mini_batches == 1
    return StageParts(
        terms=live,
        details={term.name: _detail(_loss(term, registry), term.loss.type, once=once) for term in live},
        wants_sound={term.name: not _mask(term, registry).text_alone for term in live if term.family == ROLLOUTS},
        rewards={
            name: RewardNeeds(guard_detail(each), _reward_needs(each, registry)) for name, each in stage.rewards.items()
        },
        advantage=AdvantageSays() if objective is None else advantage_says(objective.advantage, registry),
        gate=None if gate is None else gate_says(gate, registry),
        families=tuple(stage.data.learned),
        adapter=stage.model.adapter is not None,
        own_network=_own_network(stage.rollout.provider.type, registry) and not stage.rollout.ahead,
        ahead=bool(stage.rollout.ahead),
        dropout=stage.model.adapter is not None and stage.model.adapter.dropout > 0,
        mini_batches=stage.batch.mini_batches,
        epochs=stage.batch.epochs,
        resample=0 if stage.rollout.resample is None else stage.rollout.resample.limit,
    )


def left_out(stage: Stage, terms: Sequence[TermPlan], parts: StageParts) -> list[Pruned]:
    """What the recipe names and no operator is made of."""
    found = [Pruned(what=f"term.{term.name}", why="its weight or share is 0") for term in terms if not term.lives]
    if stage.objective is not None and stage.objective.gate is not None and parts.gate is None:
        found.append(Pruned(what="gate", why="no term's share is `gate` or `1 - gate`"))
    return found


def advantage_says(component: Component, registry: Registry) -> AdvantageSays:
    """What an advantage with its options works on and needs."""
    plugin = registry.get("advantage", component.type)
    made = construct(Advantage, plugin, origin_of(plugin, "advantage", component.type), component.params, {})
    return AdvantageSays(component.type, made.unit, made.needs, made.compares_answers)


def gate_says(component: Component, registry: Registry) -> GateSays:
    """What a gate with its options reads and gives."""
    plugin = registry.get("gate", component.type)
    made = construct(Gate, plugin, origin_of(plugin, "gate", component.type), component.params, {})
    return GateSays(component.type, made.needs_rewards, made.needs_noise, made.per_prompt)


def _detail(loss: Loss, type_: str, *, once: bool) -> str:
    inert = loss.inert_on_policy if once else ""
    why = f"; {inert} inert here: one update a batch, so the ratio to the sampling policy is 1" if inert else ""
    return f"{type_}{why}"


def _reward_needs(section: RewardSection, registry: Registry) -> frozenset[str]:
    plugin = registry.get("reward", section.type)
    assert issubclass(plugin, Reward)
    return declared_needs(section, plugin)


def _own_network(type_: str, registry: Registry) -> bool:
    plugin = registry.get("provider", type_)
    return issubclass(plugin, Provider) and plugin.own_network


def _loss(term: TermPlan, registry: Registry) -> Loss:
    plugin = registry.get("loss", term.loss.type)
    return construct(Loss, plugin, origin_of(plugin, "loss", term.loss.type), term.loss.params, {})


def _mask(term: TermPlan, registry: Registry) -> Mask:
    plugin = registry.get("mask", term.mask.type)
    return construct(Mask, plugin, origin_of(plugin, "mask", term.mask.type), term.mask.params, {})
