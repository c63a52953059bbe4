"""The comparison of the arms: that each differs in one thing, what is run for it, and what the page says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.arms import ARMS, EDGES, START, arguments, by_demonstration, demonstrated, finished, page
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster
from wavalign.plugins.speech.world.facts import world
from wavalign.schema.loading import load_recipe

ROOT = Path(__file__).parents[2]
CLUSTER = Cluster(gpus=0, gpu_bytes=0, cores=2, host_bytes=8 << 30)
OWN = {"name", "description"}
DIFFERS = {
    ("hybrid-fixed", "sft-only"): {"rewards", "objective"},
    ("hybrid-fixed", "text-grpo"): {"objective"},
    ("hybrid-adaptive", "hybrid-fixed"): {"objective.gate.type", "objective.gate.params"},
    ("sft-all-facts", "sft-only"): {"data.demonstrations"},
    ("text-grpo-kl", "text-grpo"): {"objective.terms.rl.loss.params"},
    ("text-grpo-demonstrated", "text-grpo"): {"data.prompts"},
    ("full-grpo", "text-grpo"): {"objective.terms.rl.tokens"},
}


def stage_of(arm: str) -> dict[str, Any]:
    plan = compile_recipe(load_recipe(str(ROOT / "recipes" / "arms" / f"{arm}.yaml")), CLUSTER)
    assert plan.name == f"arm-{arm}" and plan.seed == 0
    return {**plan.stages[0].stage.model_dump(mode="json"), "runtime": plan.runtime.model_dump(mode="json")}


def differences(one: Any, other: Any, place: str = "") -> set[str]:
    """Innermost places where two trees differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and set(one) == set(other):
        return {found for key in one for found in differences(one[key], other[key], f"{place}.{key}".lstrip("."))}
    return set() if one == other else {place}


def test_there_is_a_recipe_for_every_arm_and_none_besides() -> None:
    assert {path.stem for path in (ROOT / "recipes" / "arms").glob("*.yaml")} == set(ARMS)
    assert {(a, b) for a, b, _ in EDGES} == set(DIFFERS)
    assert {arm for edge in DIFFERS for arm in edge} == set(ARMS)


@pytest.mark.parametrize(("first", "second"), list(DIFFERS), ids=lambda each: str(each))
def test_a_pair_differs_in_one_thing(first: str, second: str) -> None:
    found = differences(stage_of(first), stage_of(second))
    assert found and all(any(place.startswith(allowed) for allowed in DIFFERS[first, second]) for place in found)


def test_every_recipe_says_what_its_arm_sees_and_extends_what_it_differs_from() -> None:
    for arm in ARMS:
        text = (ROOT / "recipes" / "arms" / f"{arm}.yaml").read_text(encoding="utf-8")
        assert "\n# Sees: " in text
        extended = text.partition("extends: ")[2].partition("\n")[0].removesuffix(".yaml").removeprefix("../")
        assert extended == "quickstart" or {extended, arm} in [set(edge) for edge in DIFFERS]


def test_the_adaptive_hybrid_trains_as_the_quickstart_does() -> None:
    plan = compile_recipe(load_recipe(str(ROOT / "recipes" / "quickstart.yaml")), CLUSTER)
    mine = stage_of("hybrid-adaptive")
    del mine["runtime"]
    kept = differences(plan.stages[0].stage.model_dump(mode="json"), mine)
    assert kept and all(place.startswith(("evaluation.", "data.evaluation")) for place in kept)


@pytest.mark.parametrize("arm", [START, *ARMS])
def test_every_run_of_the_comparison_compiles(arm: str) -> None:
    recipe, *settings = arguments(arm, 2)
    plan = compile_recipe(load_recipe(str(ROOT / recipe), overrides=settings[1::2]), CLUSTER)
    section = plan.stages[0].stage.evaluation
    assert (section.at_start, section.at_end, section.ceiling) == (
        (True, False, True) if arm == START else (False, True, False)
    )
    assert plan.total_steps == (1 if arm == START else 80)


def test_demonstrated_facts_follow_the_seed() -> None:
    assert len(demonstrated(0)) == 64 and demonstrated(0) != demonstrated(1)
    assert demonstrated(1) <= {fact.id for fact in world().taught}


def write_run(folder: Path, right: int, *, ceiling: bool = False, facts: int = 40) -> None:
    """A finished run with `right` of `facts` answers right in everything that is measured."""
    folder.mkdir(parents=True)
    names = ("text_accuracy", "heard_answer", "style_accuracy", "well_formed")
    line: dict[str, Any] = {"stage": "train", "step": 80, "split": "heldout"}
    for name in names:
        line |= {name: right / facts, f"{name}/low": 0.0, f"{name}/high": 1.0}
        line |= {f"{name}/ceiling": 0.9} if ceiling else {}
    step = {"stage": "train", "step": 80, "split": "train", "step_seconds": 7.5, "gate": 0.25}
    (folder / "metrics.jsonl").write_text(json.dumps(step) + "\n" + json.dumps(line) + "\n")
    with (folder / "evaluation.jsonl").open("w") as file:
        for item, fact in enumerate(world().taught[:facts]):
            outcome = {
                "stage": "train", "step": 80, "split": "heldout", "item": item, "text": "", "question": "",
                "dialogue": f"heldout-{fact.id}-calm-0", "details": {},
                "values": dict.fromkeys(names, float(item < right)),
            }  # fmt: skip
            file.write(json.dumps(outcome) + "\n")
    (folder / "finished.json").write_text("{}")


def test_the_page_pairs_the_arms_and_says_what_they_see(tmp_path: Path) -> None:
    write_run(tmp_path / "start-0", 4, ceiling=True)
    for seed, (grpo, with_kl) in enumerate([(30, 10), (32, 12)]):
        write_run(tmp_path / f"text-grpo-{seed}", grpo)
        write_run(tmp_path / f"text-grpo-kl-{seed}", with_kl)
    (tmp_path / "full-grpo-0").mkdir()
    assert finished(tmp_path / "full-grpo-0") is None
    wanted = [(START, 0), *((arm, seed) for arm in ("text-grpo", "text-grpo-kl") for seed in (0, 1))]
    runs = {each: finished(tmp_path / f"{each[0]}-{each[1]}") for each in wanted}
    text = "\n".join(page({each: run for each, run in runs.items() if run is not None}))
    assert "Held-out means held-out sound" in text and "all 213 questions are among the training prompts" in text
    assert "| text-grpo-demonstrated | GRPO, text tokens | the 64 | - |" in text
    assert "| *start* | | 0.100 (0.00-1.00)" in text and "| *gold tokens* | | 0.900" in text
    assert "| text-grpo | 2 | 0.775 (0.750 to 0.800)" in text and "| 8 to 8 |" in text
    pair = next(line for line in text.splitlines() if line.startswith("| text-grpo-kl | text-grpo |"))
    assert "| 2, 80 | **-0.500 [" in pair and "p < 0.001" in pair
    assert "| full-grpo | text-grpo |" not in text  # it has no run yet


def test_the_page_tells_demonstrated_facts_from_others(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 100, facts=213)
    run = finished(tmp_path / "run")
    assert run is not None
    shown = [index < 100 for index, fact in enumerate(world().taught) if fact.id in demonstrated(0)]
    others = [index < 100 for index, fact in enumerate(world().taught) if fact.id not in demonstrated(0)]
    one, other = sum(shown) / 64, sum(others) / 149
    line = next(line for line in by_demonstration({("sft-only", 0): run}) if line.startswith("| sft-only"))
    assert line == f"| sft-only | 1 | {one:.3f} ({one:.3f} to {one:.3f}) | {other:.3f} ({other:.3f} to {other:.3f}) |"
