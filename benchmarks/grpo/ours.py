"""Our side: a recipe, compiled and run whole, metrics file included; an observer holds the watch."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from benchmarks.grpo import replay
from benchmarks.grpo.point import (
    ADVANTAGE_EPSILON,
    AGGREGATIONS,
    BETAS,
    CLIP,
    EPSILON,
    MAX_NORM,
    Measured,
    Point,
    Stopwatch,
    Timed,
)
from wavalign.engine.api import compile_recipe, run
from wavalign.engine.run.observers import Observer, RunInfo
from wavalign.schema.loading import load_recipe


def recipe(point: Point, world: Path, folder: Path) -> dict[str, Any]:
    """The point as a recipe."""
    frozen = str(world / "frozen.json")
    loss = {"type": "grpo", "clip": CLIP, "kl": {"coefficient": point.beta, "estimator": "k3"}}
    replayed = {"type": "replay", "file": frozen}
    return {
        "name": "grpo-step",
        "plugins": [replay.__file__],
        "model": {"architecture": {"type": "vita"}, "checkpoint": str(world / "vita")},
        "data": {"prompts": {"type": "replay_prompts", "file": frozen}},
        "rollout": {
            "sampler": {"type": "kv_cache"} if point.sampling else replayed,
            "group_size": point.group_size,
            "temperature": 1.0,
            "max_new_tokens": point.completion_length,
        },
        "batch": {"prompts": point.prompts, "epochs": point.epochs, "mini_batches": point.mini_batches},
        "rewards": {"ids": {"type": "replay_ids"}},
        "objective": {
            "advantage": {"type": "group_normalized", "std": "sample", "eps": ADVANTAGE_EPSILON},
            "terms": {
                "rl": {
                    "loss": loss,
                    "tokens": "all" if point.sampling else "text",
                    "aggregation": AGGREGATIONS[point.loss_type],
                }
            },
        },
        "optim": {
            "learning_rate": point.learning_rate,
            "betas": list(BETAS),
            "epsilon": EPSILON,
            "max_grad_norm": MAX_NORM,
        },
        "steps": point.total_steps,
        "runtime": {
            "device": "cpu",
            "threads": point.threads,
            "folder": str(folder),
            "report": False,
            "log_rollouts_every": 0,
        },
    }


def measure(point: Point, world: Path, folder: Path) -> tuple[Measured, Path]:
    """Run the recipe; gives the numbers and the file of the trained weights."""
    folder.mkdir(parents=True)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe(point, world, folder / "run")), encoding="utf-8")
    observer = Watching(point)
    finished = run(compile_recipe(load_recipe(str(path))), observer=observer)
    return observer.measured, finished / "model" / "model.safetensors"


@final
class Watching(Observer):
    """Writes down what every step says of itself."""

    def __init__(self, point: Timed) -> None:
        self.measured = Measured()
        self._watch = Stopwatch(point, self.measured)

    def start(self, run: RunInfo) -> None:
        return

    def stage(self, name: str, steps: int) -> None:
        self._watch.begin()

    def step(self, values: Mapping[str, float], steps_done: int) -> None:
        self.measured.losses.append(values["loss"])
        self.measured.grad_norms.append(values["grad_norm"])
        self.measured.new_tokens.append(values.get("rollout_length", math.nan))
        self._watch.tick()

    def evaluation(self, split: str, values: Mapping[str, float], when: str) -> None:
        return

    def message(self, text: str) -> None:
        return

    def progress(self, what: str, done: int, total: int) -> None:
        return

    def finish(self, summary: str) -> None:
        return

    def close(self) -> None:
        return
