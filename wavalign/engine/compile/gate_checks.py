"""Rules between the gate of a stage and the terms that follow it."""

from collections.abc import Iterator, Sequence

from wavalign.engine.compile.operators import follows_prompts
from wavalign.engine.compile.parts import gate_says
from wavalign.engine.compile.plan import TermPlan
from wavalign.plugins.registry import Registry
from wavalign.schema.marks import Path
from wavalign.schema.stage import Stage


def gate_problems(stage: Stage, terms: Sequence[TermPlan], registry: Registry) -> Iterator[tuple[Path, str, str]]:
    """Place, message and hint of a gate that has values for prompts which nobody follows."""
    gate = None if stage.objective is None else stage.objective.gate
    moving = [term for term in terms if term.lives and term.share.moves]
    if gate is None or not moving or any(follows_prompts(term) for term in moving):
        return
    if gate_says(gate, registry).per_prompt:
        message = f"gate '{gate.type}' has a value for each prompt, and no term on answers to prompts follows it"
        yield ("objective", "gate"), message, "give a term on rollouts `share: gate`, or leave that option out"
