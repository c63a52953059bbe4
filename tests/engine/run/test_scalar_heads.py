"""Runs whose policy carries scalar heads: checkpoints hold them, the model that is left does not."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.e2e.runs import comparable
from tests.engine.run.test_trainer import Signals, Stop
from tests.toy.compiled import Change, compiled, put
from wavalign.engine import api
from wavalign.engine.backends.base import PolicyOutput
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.compile.plan import Plan
from wavalign.plugins.scalars import ScalarHead

HEADS = (ScalarHead("values", "token"), ScalarHead("score", "sequence", detach=True))
NAMES = {f"scalar_heads.{head.name}_head.{part}" for head in HEADS for part in ("weight", "bias")}
STAGED = (
    put("stages", [{"name": "warm", "steps": 2}, {"name": "align", "steps": 3}]),
    put("runtime.checkpoint_every", 2),
)


class Cut(Signals):
    """Stops the run while its last step is told."""

    def step(self, values: Any, steps_done: int) -> None:
        if steps_done == 3:  # of the second stage
            raise Stop

    def evaluation(self, split: str, values: Any, when: str) -> None:
        return


def with_heads(plan: Plan, heads: tuple[ScalarHead, ...] = HEADS) -> Plan:
    stages = tuple(stage.model_copy(update={"scalars": heads}) for stage in plan.stages)
    return plan.model_copy(update={"stages": stages})


@pytest.fixture
def _learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the values of both heads reach every loss, by way of the log-probs."""
    forward = PlainBackend.forward

    def changed(self: PlainBackend, *args: Any, **options: Any) -> PolicyOutput:
        found = forward(self, *args, **options)
        values, score = found.scalars["values"], found.scalars["score"]
        return PolicyOutput(found.logprobs + 0.1 * values[:, None] + 0.1 * score[:, None, None], found.scalars)

    monkeypatch.setattr(PlainBackend, "forward", changed)


@pytest.mark.usefixtures("_learning")
@pytest.mark.parametrize("changes", [(), (put("model.adapter", {"type": "lora"}),)], ids=["full", "lora"])
def test_a_run_with_heads(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    folders = []
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        plan = with_heads(compiled(tmp_path / name, *STAGED, *changes))
        if name == "cut":
            with pytest.raises(Stop):
                api.run(plan, observer=Cut(0))
        folders.append(api.run(plan, resume=name == "cut"))
    whole, cut = folders
    for file in ("metrics.jsonl", "rollouts.jsonl"):
        assert comparable(cut / file) == comparable(whole / file)
    states = [load_file(next(each.glob("checkpoints/step-5/**/training.safetensors"))) for each in folders]
    assert states[0].keys() == states[1].keys()
    assert all(states[1][name].equal(tensor) for name, tensor in states[0].items())
    for name in NAMES:
        assert states[0][f"weights/{name}"].any() and states[0][f"exp_avg/{name}"].any(), name
    model = load_file(whole / "model" / "model.safetensors")
    start = load_file(whole / "stages" / "warm" / "model" / "model.safetensors")
    assert model.keys() == start.keys() and not any("scalar" in name for name in model)


def test_heads_in_a_plan(tmp_path: Path) -> None:
    """Where there are none, a plan reads as it did before there could be any."""
    plain = compiled(tmp_path)
    assert '"scalars"' not in plain.to_json()
    assert with_heads(plain, ()).fingerprint == plain.fingerprint
    plan = with_heads(plain)
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(plan.to_json()).stages[0].scalars == HEADS
    assert plan.fingerprint != plain.fingerprint
