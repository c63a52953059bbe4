"""The comparison of gates: runs differ in the gate alone, the judge errs as it says, and the page pairs them."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gates import COMBINED, GATES, NOISES, START, arguments, finished, names, page, row
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster, StagePlan
from wavalign.plugins.batch import Answer, Dialogue, Rollout, TokenSequence
from wavalign.schema.loading import load_recipe

ROOT = Path(__file__).parents[2]
CLUSTER = Cluster(gpus=0, gpu_bytes=0, cores=2, host_bytes=8 << 30)
EMPTY = TokenSequence(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int8))


def compiled(noise: str, gate: str, seed: int) -> StagePlan:
    recipe, *settings = arguments(noise, gate, seed)
    (stage,) = compile_recipe(load_recipe(str(ROOT / recipe), overrides=settings[1::2]), CLUSTER).stages
    return stage


def test_there_is_a_recipe_for_every_gate() -> None:
    assert {path.stem for path in (ROOT / "benchmarks" / "gating").glob("*.yaml")} == {"base", *GATES}
    assert {gate for gates in COMBINED.values() for gate in gates} == set(GATES)
    assert set(COMBINED) == set(NOISES)


@pytest.mark.parametrize("gate", GATES)
def test_runs_differ_in_the_gate_alone(gate: str) -> None:
    one, other = (compiled("sd-2", each, 3).stage.model_dump(mode="json") for each in (gate, "fixed"))
    found = one["objective"].pop("gate"), other["objective"].pop("gate")
    assert one == other
    assert gate == "fixed" or found[0] != found[1]
    options = found[0]["params"]
    assert bool(options.get("subtract_noise")) == ("noise-aware" in gate)
    assert bool(options.get("per_prompt")) == ("per-prompt" in gate)
    assert (options.get("zero_variance") == "leave_out") == ("leave-out" in gate)


def test_the_start_is_measured_before_its_step() -> None:
    section = compiled(START, "fixed", 0).stage.evaluation
    assert (section.at_start, section.at_end, section.ceiling) == (True, False, True)


def test_runs_come_seed_by_seed() -> None:
    found = names(["sd-1", "exact"], list(GATES), [0, 1])
    assert [each[2] for each in found] == [0] * 9 + [1] * 9
    assert names(["sd-1"], ["fixed", "leave-out"], [4]) == [("sd-1", "fixed", 4)]


def judge(options: Mapping[str, float]) -> Any:
    spec = importlib.util.spec_from_file_location("noisy_judge", ROOT / "recipes" / "gates" / "noisy_judge.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NoisyJudge(module.NoisyJudgeParams(**options))


def judged(texts: list[str], options: Mapping[str, float], version: int = 0) -> list[Any]:
    rollouts = [Rollout(EMPTY, torch.zeros(1, 0), Answer(text, (), True), version=version) for text in texts]
    dialogue = Dialogue("d", (), metadata={"reference": "twelve"})
    return list(judge(options).score_batch(rollouts, [dialogue] * len(texts)))


@pytest.mark.parametrize("options", [{"sd": 1.0}, {"sd": 2.0}, {"flips": 0.15}, {"sd": 0.5, "flips": 0.3}])
def test_the_judge_errs_as_far_as_it_says(options: Mapping[str, float]) -> None:
    """Two askings about one answer are as far apart as two errors: mean squared difference is twice the variance."""
    for text in ("twelve", "ten"):
        found = judged([text] * 20_000, options)
        values = np.array([each.value for each in found])
        (variance,) = {each.variance for each in found}
        assert values.var() == pytest.approx(variance, rel=0.04)
        flips = options.get("flips", 0.0)
        right, wrong = (5, 1) if text == "twelve" else (1, 5)
        assert values.mean() == pytest.approx((1 - flips) * right + flips * wrong, abs=0.06)


def test_an_error_is_of_one_asking_alone() -> None:
    noise = {"sd": 1.0}
    values = [each.value for each in judged(["twelve", "twelve", "ten"], noise)]
    assert len(set(values)) == 3
    assert [each.value for each in judged(["twelve", "twelve", "ten"], noise)] == values
    assert judged(["twelve"], noise, version=1)[0].value != values[0]
    assert judged(["twelve"], {**noise, "seed": 1})[0].value != values[0]


def test_an_exact_judge_is_the_rule() -> None:
    assert [(each.value, each.variance) for each in judged(["twelve", "ten"], {})] == [(5.0, 0.0), (1.0, 0.0)]
    errs = judge({"sd": 1.0})
    assert errs.range == type(errs).range_of(errs.params) == (-5.0, 11.0)


def write_run(folder: Path, right: int, *, by_prompt: bool = False) -> None:
    """A finished run with `right` of 40 answers right."""
    folder.mkdir(parents=True)
    line: dict[str, Any] = {"stage": "train", "step": 40, "split": "heldout"}
    for name in ("text_accuracy", "heard_answer"):
        line |= {name: right / 40, f"{name}/low": 0.0, f"{name}/high": 1.0, f"{name}/ceiling": 0.9}
    steps = [{"stage": "train", "step": n, "split": "train", "gate": n / 40} for n in range(1, 41)]
    if by_prompt:
        steps = [{**step, "gate/lowest": 0.1, "gate/highest": 0.8} for step in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (*steps, line)))
    with (folder / "evaluation.jsonl").open("w") as file:
        for item in range(40):
            values = dict.fromkeys(("text_accuracy", "heard_answer"), float(item < right))
            outcome = {"stage": "train", "step": 40, "split": "heldout", "item": item, "text": "", "question": "",
                       "dialogue": f"d{item}", "details": {}, "values": values}  # fmt: skip
            file.write(json.dumps(outcome) + "\n")
    (folder / "finished.json").write_text("{}")


def test_the_page_compares_with_the_fixed_half(tmp_path: Path) -> None:
    write_run(tmp_path / "start-fixed-0", 4)
    rights = {"fixed": 20, "adaptive": 10, "noise-aware": 30, "noise-aware-per-prompt": 21}
    wanted = [(START, "fixed", 0), *(("sd-1", gate, seed) for gate in rights for seed in (0, 1))]
    for noise, gate, seed in wanted[1:]:
        write_run(tmp_path / f"{noise}-{gate}-{seed}", rights[gate] + seed, by_prompt="per-prompt" in gate)
    runs = {each: finished(tmp_path / "-".join(map(str, each))) for each in wanted}
    text = "\n".join(page({each: run for each, run in runs.items() if run is not None}))
    assert "| *start* | | | 0.100 (0.00-1.00)" in text and "| *gold tokens* | | | 0.900" in text
    late = sum(range(31, 41)) / 400
    assert f"| fixed | half and half | 2 | 0.512 (0.500 to 0.525) | 0.512 (0.500 to 0.525) | {late:.3f} |" in text
    assert f"{late:.3f} (0.10 to 0.80 by prompt) |" in text
    against = [line for line in text.splitlines() if line.startswith("| sd-1 | noise-aware | fixed |")]
    assert len(against) == 1 and "| 2, 80 | **+0.250 [" in against[0]
    alone = [line for line in text.splitlines() if line.startswith("| sd-1 | noise-aware | adaptive |")]
    assert len(alone) == 1 and "the judge's variance is taken off | 2, 80 | **+0.500 [" in alone[0]
    assert "| sd-2 |" not in text  # it has no run yet
    assert finished(tmp_path / "sd-2-fixed-0") is None
    assert row(("sd-2", "fixed", 0), None) == "| sd-2 | fixed | 0 | failed |"
