"""The objective's terms with nothing left to decide: masks, shares, and the terms a loss brings along."""

from collections.abc import Mapping
from typing import Any, final

from wavalign.engine.compile.operators import DATA, ROLLOUTS, known_columns, scalar_outputs
from wavalign.engine.compile.plan import TermPlan
from wavalign.engine.compile.resolve import Resolver
from wavalign.engine.contracts.construct import construct
from wavalign.errors import PluginError
from wavalign.plugins.api import Loss, Regularizer
from wavalign.plugins.guard import origin_of
from wavalign.schema.component import Component
from wavalign.schema.marks import Path
from wavalign.schema.objective import TermSection
from wavalign.schema.share import Share
from wavalign.schema.stage import Stage

KINDS = {"text": ("text",), "audio": ("audio",), "all": ("text", "audio", "marks")}


def mask_component(tokens: Any) -> Component:
    """A recipe's `tokens` as a mask plugin: names and weights become the built-in `roles` mask."""
    if isinstance(tokens, Component):
        return tokens
    weights = dict(tokens) if isinstance(tokens, Mapping) else dict.fromkeys(KINDS[tokens], 1.0)
    return Component(type="roles", params=weights)


@final
class TermPlanner:
    """Turns the terms of one stage into TermPlans."""

    def __init__(self, resolver: Resolver, stage: Stage, path: Path) -> None:
        self.resolver, self.stage, self.path = resolver, stage, path
        self.terms: list[TermPlan] = []

    def plan(self) -> tuple[TermPlan, ...]:
        """All terms, each followed by the ones its loss brings along."""
        assert self.stage.objective is not None
        for name, term in self.stage.objective.terms.items():
            path = (*self.path, "objective", "terms", name)
            before = len(self.resolver.problems)
            loss = self.resolver.component("loss", term.loss, (*path, "loss"))
            mask = self.resolver.component("mask", mask_component(term.tokens), (*path, "tokens"))
            share = self._share(term, path)
            if len(self.resolver.problems) > before:
                continue
            parent = self._add(name, loss, mask, term, share)
            if term.members is not None and parent.members != tuple(sorted(set(term.members))):
                hint = "leave members out, or take a loss that compares none, e.g. cross_entropy"
                message = f"loss '{loss.type}' learns from members {list(parent.members)} of a group together"
                self._problem("conflict", message, (*path, "members"), hint)
            if term.heads == "mtp" and any(known_columns().get(need) == parent.family for need in parent.needs):
                hint = "multi-token-prediction heads are trained on demonstrations, e.g. by loss: cross_entropy"
                message = f"term `{name}` is made for {parent.family} and asks for heads: mtp"
                self._problem("conflict", message, path, hint)
            for extra in self._instance(loss).regularizers():
                self._bring(extra, parent, term, path)
        return tuple(self.terms)

    def _add(self, name: str, loss: Component, mask: Component, term: TermSection, share: Share) -> TermPlan:
        instance = self._instance(loss)
        family = term.family or instance.family
        self._check_needs(loss.type, instance, family)
        plan = TermPlan(
            name=name,
            loss=loss,
            mask=mask,
            share=share,
            weight=term.weight,
            aggregation=term.aggregation,
            fixed_length=self.stage.rollout.max_new_tokens if term.aggregation == "fixed" else None,
            family=family,
            unit=instance.unit,
            whole_groups=instance.whole_groups or instance.unit == "group",
            needs=tuple(sorted(instance.needs)),
            members=instance.members or tuple(sorted(set(term.members or ()))),
            scalars=dict(instance.scalars),
            signal=instance.signal,
            heads=term.heads,
        )
        self.terms.append(plan)
        return plan

    def _bring(self, extra: Regularizer, parent: TermPlan, term: TermSection, path: Path) -> None:
        loss = self.resolver.component("loss", Component(type=extra.loss, params=extra.params), (*path, "loss"))
        mask = parent.mask
        if extra.tokens is not None:
            mask = self.resolver.component("mask", mask_component(extra.tokens), (*path, "loss"))
        section = term.model_copy(update={"family": parent.family, "members": extra.members or parent.members or None})
        plan = self._add(f"{parent.name}.{extra.name}", loss, mask, section, parent.share)
        self.terms[-1] = plan.model_copy(update={"weight": term.weight * extra.weight, "brought_by": parent.name})

    def _share(self, term: TermSection, path: Path) -> Share:
        path = (*path, "share")
        try:
            share = Share.parse(term.share)
        except ValueError as error:
            self._problem("bad_value", str(error), path)
            return Share(constant=0.0)
        if share.moves and self.stage.objective is not None and self.stage.objective.gate is None:
            hint = "add e.g. `gate: {type: rollout_adaptive}` under objective"
            self._problem("missing_gate", f"share `{term.share}` needs objective.gate", path, hint)
        return share

    def _problem(self, code: str, message: str, path: Path, hint: str = "") -> None:
        self.resolver.problems.append(self.resolver.problem(code, message, path, hint))

    def _instance(self, loss: Component) -> Loss:
        plugin = self.resolver.registry.get("loss", loss.type)
        return construct(Loss, plugin, origin_of(plugin, "loss", loss.type), loss.params, {})

    def _check_needs(self, type_: str, loss: Loss, family: str) -> None:
        """Raise PluginError where a loss needs what the rows of its family do not have."""
        for name, unit in loss.scalars.items():
            if name in known_columns() or scalar_outputs(self.terms).get(name, unit) != unit:
                message = f"loss '{type_}' has a scalar output of its own named `{name}`, which is another column"
                raise PluginError(message, hint="give it another name; two of one name are of one unit")
        if loss.signal and (loss.signal not in loss.needs or loss.unit == "group"):
            message = (
                f"loss '{type_}' says it is silent without `{loss.signal}`, which is no column of single rows it needs"
            )
            raise PluginError(message, hint="name a column of `needs` as its `signal`, or none; a group has none")
        mine = ("", family) if family == ROLLOUTS else ("", family, DATA)
        known = {name for name, whose in known_columns().items() if whose in mine} | set(loss.scalars)
        if not loss.needs <= known:
            unknown = ", ".join(sorted(loss.needs - known))
            message = f"loss '{type_}' needs {unknown}, which {family} do not have"
            raise PluginError(message, hint=f"a loss on {family} may need: {', '.join(sorted(known))}")
