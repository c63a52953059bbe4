"""The training graph of a stage, built backwards from what its terms need."""

from collections.abc import Mapping, Sequence
from typing import final

from wavalign.engine.compile.plan import Graph, Node, NodeKind, Phase, Pruned, TermPlan
from wavalign.engine.contracts.construct import construct
from wavalign.plugins.api import Gate, Loss, Mask, Reward
from wavalign.plugins.guard import origin_of
from wavalign.plugins.registry import Registry
from wavalign.schema.component import Component
from wavalign.schema.stage import Stage

ROLLOUTS, TOKENS, SCALAR = "[P, G]", "[B, S, T]", "[]"


def live_terms(terms: Sequence[TermPlan]) -> list[TermPlan]:
    """Terms that can move a weight: a constant factor of 0 switches a term off."""
    return [term for term in terms if term.weight != 0 and term.share != 0]


@final
class GraphBuilder:
    """Adds the nodes the terms ask for and writes down what was left out and why."""

    def __init__(self, stage: Stage, terms: Sequence[TermPlan], registry: Registry) -> None:
        self.stage, self.registry = stage, registry
        self.terms = live_terms(terms)
        self.dead = [term for term in terms if term not in self.terms]
        self.nodes: list[Node] = []
        self.pruned: list[Pruned] = []

    def build(self) -> Graph:
        """The graph, in an order that respects every node's needs."""
        on_rollouts = [term for term in self.terms if term.rows == "rollouts"]
        on_demonstrations = [term for term in self.terms if term.rows == "demonstrations"]
        for term in self.dead:
            self._prune(f"term.{term.name}", "its weight or share is 0")
        need = self._rollout_need(on_rollouts)
        if on_demonstrations:
            self._add("demonstrations", "demonstrations", "collect", "host", gives={"demonstrations": "[D]"})
        else:
            self._prune("demonstrations", "no term looks at demonstrations")
        self._collect_rollouts(on_rollouts, need)
        self._learn(bool(on_rollouts), bool(on_demonstrations))
        self._add("update", "update", "update", "device", needs=("gradients",), gives={"grad_norm": SCALAR})
        self._add("metrics", "metrics", "update", "host", needs=("grad_norm",))
        return Graph(nodes=tuple(self.nodes), pruned=tuple(self.pruned), rollout_need=need)

    # What answers must hold

    def listening_rewards(self) -> list[str]:
        """Rewards that need the answer's sound."""
        return [name for name, each in self.stage.rewards.items() if "waveform" in self._reward(each).needs]

    def _needs_rewards(self, on_rollouts: Sequence[TermPlan]) -> bool:
        return any("advantages" in term.needs for term in on_rollouts) or self._gate_reads_rewards()

    def _gate_reads_rewards(self) -> bool:
        gate = self._used_gate()
        if gate is None:
            return False
        plugin = self.registry.get("gate", gate.type)
        return issubclass(plugin, Gate) and plugin.needs_rewards

    def _used_gate(self) -> Component | None:
        objective = self.stage.objective
        moving = any(isinstance(term.share, str) for term in self.terms)
        return objective.gate if objective is not None and moving else None

    def _rollout_need(self, on_rollouts: Sequence[TermPlan]) -> str:
        if not on_rollouts and not self._gate_reads_rewards():
            return "none"
        return "all" if self._reasons_for_sound(on_rollouts) else "text"

    def _reasons_for_sound(self, on_rollouts: Sequence[TermPlan]) -> list[str]:
        """Who needs more of an answer than its text."""
        used = list(self.stage.rewards.items()) if self._needs_rewards(on_rollouts) else []
        # One that says of nothing that it needs it may look at anything.
        beyond = [f"reward.{name}" for name, each in used if self._reward(each).needs != frozenset({"text"})]
        return beyond + [f"term.{term.name}" for term in on_rollouts if not self._mask(term).text_alone]

    # Nodes

    def _collect_rollouts(self, on_rollouts: Sequence[TermPlan], need: str) -> None:
        if need == "none":
            for what in (
                "prompts",
                "rollout",
                "decode_audio",
                "advantage",
                *(f"reward.{n}" for n in self.stage.rewards),
            ):
                self._prune(what, "no term and no gate looks at rollouts")
            self._reference()
            self._gate(needs=())
            return
        self._add("prompts", "prompts", "collect", "host", gives={"prompts": "[P]"})
        detail = "stops when no text can follow"
        if need == "text":
            why = "no term weighs it, no reward listens, and text, its end and their log-probs are the same without it"
            self._prune("rollout.sound", why)
        else:
            detail = f"whole answers, for {', '.join(self._reasons_for_sound(on_rollouts))}"
        gives = {"rollouts": ROLLOUTS, "old_logprobs": TOKENS}
        self._add("rollout", "rollout", "collect", "device", needs=("prompts",), gives=gives, detail=detail)
        if self._needs_rewards(on_rollouts):
            self._rewards()
        else:
            for name in self.stage.rewards:
                self._prune(f"reward.{name}", "no term needs advantages and no gate reads rewards")
        self._reference()
        self._aggregate(on_rollouts)

    def _rewards(self) -> None:
        listening = self.listening_rewards()
        if listening:
            self._add(
                "decode_audio", "decode_audio", "collect", "device", needs=("rollouts",), gives={"waveforms": ROLLOUTS}
            )
        else:
            self._prune("decode_audio", "no reward listens, so nothing is vocoded")
        for name, reward in self.stage.rewards.items():
            needs = ("rollouts", "waveforms") if name in listening else ("rollouts",)
            gives = {f"reward.{name}": ROLLOUTS}
            self._add(f"reward.{name}", "reward", "collect", "threads", needs=needs, gives=gives, detail=reward.type)

    def _reference(self) -> None:
        rows = {term.rows: "" for term in self.terms if "ref_logprobs" in term.needs}
        if not rows:
            self._prune("forward.reference", "no term needs ref_logprobs, so no second model is loaded")
            return
        detail = "overlaps the rewards" if any(node.kind == "reward" for node in self.nodes) else ""
        gives = {"ref_hidden": "[N, H]"}
        own = "the policy with its adapter off" if self.stage.model.adapter is not None else ""
        self._add("forward.reference", "forward", "collect", "device", needs=tuple(rows), gives=gives, detail=own)
        gives = {"ref_logprobs": TOKENS}
        self._add(
            "logprobs.reference", "logprobs", "collect", "device", needs=("ref_hidden",), gives=gives, detail=detail
        )

    def _aggregate(self, on_rollouts: Sequence[TermPlan]) -> None:
        if self._needs_rewards(on_rollouts):
            names = tuple(f"reward.{name}" for name in self.stage.rewards)
            self._add("aggregate", "aggregate", "collect", "host", needs=names, gives={"rewards": ROLLOUTS})
        if any("advantages" in term.needs for term in on_rollouts):
            gives = {"advantages": ROLLOUTS, "valid": ROLLOUTS}
            self._add("advantage", "advantage", "collect", "host", needs=("rewards",), gives=gives)
        else:
            self._prune("advantage", "no term needs advantages")
        self._gate(needs=("rewards",) if self._gate_reads_rewards() else ())

    def _gate(self, *, needs: tuple[str, ...]) -> None:
        gate = self._used_gate()
        if gate is not None:
            self._add("gate", "gate", "collect", "host", needs=needs, gives={"gate": SCALAR}, detail=gate.type)
        elif self.stage.objective is not None and self.stage.objective.gate is not None:
            self._prune("gate", "no term's share is `gate` or `1 - gate`")

    def _learn(self, rollouts: bool, demonstrations: bool) -> None:
        rows = tuple(name for name, wanted in (("rollouts", rollouts), ("demonstrations", demonstrations)) if wanted)
        shared = "one forward for rollouts and demonstrations" if len(rows) == 2 else ""
        self._add("forward.policy", "forward", "learn", "device", needs=rows, gives={"hidden": "[N, H]"}, detail=shared)
        detail = "only positions some term weighs"
        gives = {"logprobs": TOKENS}
        self._add("logprobs.policy", "logprobs", "learn", "device", needs=("hidden",), gives=gives, detail=detail)
        for term in self.terms:
            needs = ("logprobs", *(need for need in term.needs if need != "mask"))
            gives = {f"value.{term.name}": TOKENS if term.unit == "token" else "[B]"}
            detail = term.loss.type
            inert = self._loss(term).inert_on_policy
            if inert:
                detail += f"; {inert} inert here: one update a batch, so the ratio to the sampling policy is 1"
            self._add(f"term.{term.name}", "term", "learn", "device", needs=needs, gives=gives, detail=detail)
        values = tuple(f"value.{term.name}" for term in self.terms)
        shares = ("gate",) if self._used_gate() is not None else ()
        self._add("objective", "objective", "learn", "device", needs=(*values, *shares), gives={"loss": SCALAR})
        self._add("backward", "backward", "learn", "device", needs=("loss",), gives={"gradients": "parameters"})
        self._prune("critic", "no term needs values")

    def _add(
        self, name: str, kind: NodeKind, phase: Phase, place: str, *,
        needs: tuple[str, ...] = (), gives: Mapping[str, str] | None = None, detail: str = "",
    ) -> None:  # fmt: skip
        self.nodes.append(
            Node(name=name, kind=kind, phase=phase, place=place, needs=needs, gives=gives or {}, detail=detail)
        )

    def _prune(self, what: str, why: str) -> None:
        self.pruned.append(Pruned(what=what, why=why))

    def _reward(self, component: Component) -> type[Reward]:
        plugin = self.registry.get("reward", component.type)
        assert issubclass(plugin, Reward)
        return plugin

    def _loss(self, term: TermPlan) -> Loss:
        plugin = self.registry.get("loss", term.loss.type)
        return construct(Loss, plugin, origin_of(plugin, "loss", term.loss.type), term.loss.params, {})

    def _mask(self, term: TermPlan) -> Mask:
        plugin = self.registry.get("mask", term.mask.type)
        return construct(Mask, plugin, origin_of(plugin, "mask", term.mask.type), term.mask.params, {})
