"""Our side of a DPO step: a recipe, compiled and run whole, metrics file included."""

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.dpo.point import Point, write_pairs
from benchmarks.grpo.ours import Watching
from benchmarks.grpo.point import BETAS, EPSILON, MAX_NORM, Measured
from wavalign.engine.api import compile_recipe, run
from wavalign.schema.loading import load_recipe


def recipe(point: Point, world: Path, folder: Path) -> dict[str, Any]:
    """The point as a recipe."""
    loss = {"type": "dpo", "variant": point.variant, "beta": point.beta, "label_smoothing": point.label_smoothing}
    loss["length_normalized"] = point.variant == "ipo"
    return {
        "name": "dpo-step",
        "model": {"architecture": {"type": "vita"}, "checkpoint": str(world / "vita")},
        "data": {"families": {"pairs": {"type": "jsonl", "path": str(write_pairs(point, world))}}},
        "batch": {"families": {"pairs": point.pairs}},
        "objective": {"terms": {"prefer": {"loss": loss}}},
        "optim": {
            "learning_rate": point.learning_rate,
            "betas": list(BETAS),
            "epsilon": EPSILON,
            "max_grad_norm": MAX_NORM,
        },
        "steps": point.total_steps,
        "runtime": {"device": "cpu", "threads": point.threads, "folder": str(folder), "report": False},
    }


def measure(point: Point, world: Path, folder: Path) -> tuple[Measured, Path]:
    """Run the recipe; gives the numbers and the file of the trained weights."""
    folder.mkdir(parents=True)
    os.environ["WAVALIGN_CACHE"] = str(folder / "cache")  # empty: nobody has scored these pairs before
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe(point, world, folder / "run")), encoding="utf-8")
    observer = Watching(point)
    finished = run(compile_recipe(load_recipe(str(path))), observer=observer)
    return observer.measured, finished / "model" / "model.safetensors"
