"""A recipe with a loss, a reward, a gate, data and a metric of one's own, from one file outside the package."""

from pathlib import Path

import pytest

from tests.e2e.runs import comparable, lines
from tests.toy.compiled import Change, compiled, put
from tests.toy.live import live_stage
from wavalign.engine import api
from wavalign.engine.run.measuring import Measuring
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import Interrupted

OWN: tuple[Change, ...] = (
    put("objective.gate", {"type": "toy_counting"}),
    put("objective.terms.rl.loss", {"type": "toy_sharpen"}),
    put("rewards.sum", {"type": "toy_checksum"}),
    put("evaluation.every", 2),
    put("steps", 5),
    put("runtime.checkpoint_every", 2),
)


def test_a_loss_of_ones_own_by_hand(tmp_path: Path) -> None:
    """-A |A| log pi over the text tokens of rows with an advantage."""
    live = live_stage(compiled(tmp_path, *OWN))
    result = StepExecutor(live).step(0)
    live.close()
    assert result.advantages is not None
    assert result.scores is not None
    total, count = 0.0, 0
    for p, group in enumerate(result.groups):
        for g, rollout in enumerate(group.rollouts):
            if not result.scores.total[p, g].isnan():
                advantage = float(result.advantages[p, g])
                text = live.terms[0].mask.weights(rollout.completion.roles[None])[0] > 0
                total -= advantage * abs(advantage) * float(rollout.logprobs[text].sum())
                count += int(text.sum())
    assert abs(total) > 1
    assert result.metrics["tokens/rl"] == count
    assert result.metrics["loss/rl"] == pytest.approx(total / count, rel=1e-4)
    assert result.metrics["gate/count"] == 1


def test_a_gate_remembers_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between its checkpoint and the measurement after it; resumed, it equals a run that went through."""
    (tmp_path / "whole").mkdir()
    whole = api.run(compiled(tmp_path / "whole", *OWN))
    assert [line["gate"] for line in lines(whole / "metrics.jsonl") if line["split"] == "train"] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5]
    )
    (tmp_path / "cut").mkdir()
    plan = compiled(tmp_path / "cut", *OWN)
    measured = []
    evaluate = Measuring.evaluate

    def stop_at_4(self: Measuring, live: object, step: int) -> None:
        measured.append(step)
        if step == 4 and measured.count(4) == 1:
            raise Interrupted(2)
        evaluate(self, live, step)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(Measuring, "evaluate", stop_at_4)
    with pytest.raises(Interrupted):
        api.run(plan)
    api.run(plan, resume=True)
    assert measured == [0, 2, 4, 4, 5]
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert comparable(tmp_path / "cut" / "run" / name) == comparable(whole / name)
