"""A reward and a metric that measure with one instrument: said at every place where a recipe is looked at."""

from pathlib import Path
from typing import Any

import pytest

from tests.toy.compiled import compiled, only_stage, put
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster, Plan
from wavalign.engine.report.data import read_run
from wavalign.plugins.api import Metric, Reward
from wavalign.schema.loading import load_recipe
from wavalign_cli.plan_views import tree

ROOT = Path(__file__).parents[3]


def plan_of(recipe: str, *overrides: str) -> Plan:
    return compile_recipe(load_recipe(str(ROOT / "recipes" / recipe), overrides), Cluster(cores=2, host_bytes=8 << 30))


def test_rewards_that_listen_with_the_metrics_ears_are_named_with_their_place() -> None:
    (stage,) = plan_of("listening.yaml").stages
    found = {each.path: each for each in stage.warnings}
    assert sorted(found) == ["evaluation.metrics.heard", "evaluation.metrics.quality", "evaluation.metrics.style"]
    heard = found["evaluation.metrics.heard"]
    assert "reward `speech`" in heard.message and "PocketSphinx" in heard.message and heard.hint
    assert "quickstart.yaml:" in heard.where  # where the metric is written


def test_where_nothing_is_shared_nothing_is_said() -> None:
    assert plan_of("quickstart.yaml").stages[0].warnings == ()
    assert plan_of("arms/sft-only.yaml").stages[0].warnings == ()


def test_another_setting_is_another_instrument(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("good night\n")
    (stage,) = plan_of("listening.yaml", f"evaluation.metrics.heard.sentences={tmp_path / 's.txt'}").stages
    assert "evaluation.metrics.heard" not in [each.path for each in stage.warnings]


def test_a_reward_nothing_learns_from_is_no_matter() -> None:
    (stage,) = plan_of("listening.yaml", "objective.terms.rl.weight=0").stages
    assert stage.warnings == ()


def test_what_chooses_among_answers_is_a_matter() -> None:
    """Nothing learns from the reward, and yet the answers are those that its ears like best."""
    best = ("evaluation.sampling.temperature=0.8", "evaluation.best_of={n: 2, reward: speech}")
    (stage,) = plan_of("listening.yaml", "objective.terms.rl.weight=0", *best).stages
    assert [each.path for each in stage.warnings] == ["evaluation.metrics.heard"]


def test_the_plan_shows_it_and_a_resume_does_not_mind() -> None:
    plan = plan_of("listening.yaml")
    shown = tree(plan)
    assert "warning  evaluation.metrics.heard" in shown and "by ear" in shown
    bare = plan.model_copy(update={"stages": tuple(x.model_copy(update={"warnings": ()}) for x in plan.stages)})
    assert bare.fingerprint == plan.fingerprint
    assert Plan.from_json(plan.to_json()) == plan


def test_plugins_share_nothing_unless_they_say_so(tmp_path: Path) -> None:
    assert Reward.instrument(None) == Metric.instrument(None) == ""
    assert only_stage(compiled(tmp_path)).warnings == ()
    changes: list[Any] = [put("evaluation.limit", 4)]
    assert only_stage(compiled(tmp_path, *changes)).warnings == ()


@pytest.mark.parametrize("recipe", ["listening.yaml"])
def test_validate_prints_it(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    from wavalign_cli.validate import validate

    validate(str(ROOT / "recipes" / recipe))
    printed = capsys.readouterr().out
    assert "valid, 1 stage" in printed and printed.count("warning: metric") == 3


def test_the_report_notes_it(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(plan_of("listening.yaml").to_json())
    (tmp_path / "metrics.jsonl").write_text("")
    notes = [note for note in read_run(tmp_path).notes if "instrument of reward" in note]
    assert len(notes) == 3 and notes[0].startswith("evaluation.metrics.heard: ")
