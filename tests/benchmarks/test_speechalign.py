"""The page of SpeechAlign's rows: that its rows are measured by its recipes, and what it says of runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.speechalign import EDGES, ROWS, SHOWN, page, read
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster
from wavalign.schema.loading import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes" / "speechalign"
CLUSTER = Cluster(gpus=0, gpu_bytes=0, cores=2, host_bytes=8 << 30)


@pytest.mark.parametrize("row", ROWS)
def test_the_stage_of_a_row_measures_what_is_shown(row: str) -> None:
    plan = compile_recipe(load_recipe(str(RECIPES / f"{ROWS[row].recipe}.yaml")), CLUSTER)
    stage = next(each for each in plan.stages if each.name == ROWS[row].stage)
    measured = {each.type for each in stage.stage.evaluation.metrics.values()}
    assert set(SHOWN) <= measured
    best = stage.stage.evaluation.best_of
    assert ROWS[row].split == ("heldout" if best is None else f"heldout.best_of_{best.n}")


def test_rows_that_are_compared_are_there() -> None:
    assert {name for edge in EDGES for name in edge} <= set(ROWS)


def write_run(folder: Path, stage: str, values: dict[str, float]) -> None:
    """A finished run whose `stage` measured `values`, the same for each of 20 items."""
    folder.mkdir(parents=True)
    line: dict[str, Any] = {"stage": stage, "step": 60, "split": "heldout"}
    for name, value in values.items():
        line |= {name: value, f"{name}/low": 0.0, f"{name}/high": 1.0, f"{name}/ceiling": 0.5}
    step = {"stage": "train", "step": 60, "split": "train", "step_seconds": 7.5}
    (folder / "metrics.jsonl").write_text(json.dumps(step) + "\n" + json.dumps(line) + "\n")
    with (folder / "evaluation.jsonl").open("w") as file:
        for item in range(20):
            outcome = {
                "stage": stage, "step": 60, "split": "heldout", "item": item, "text": "", "question": "",
                "dialogue": f"reading-{item}", "details": {}, "values": values,
            }  # fmt: skip
            file.write(json.dumps(outcome) + "\n")
    (folder / "finished.json").write_text("{}")


def test_the_page_means_over_seeds_and_pairs_items(tmp_path: Path) -> None:
    write_run(tmp_path / "tiny-sft-0", "measure", dict.fromkeys(SHOWN, 0.6))
    for seed, value in enumerate((0.2, 0.4)):
        write_run(tmp_path / f"tiny-ppo-{seed}", "measure", dict.fromkeys(SHOWN, value))
    text = "\n".join(page(read(tmp_path, (0, 1)), tmp_path, (0, 1)))
    assert "| PPO | PPO against that reward model | 2 | 0.300 (0.200 to 0.400) |" in text
    assert "| PPO | SFT (the start) | 2, 40 | " in text and "-0.300 [" in text
    assert "| *golden tokens* | | | 0.500 |" in text and "CoH |" not in text
