"""Copy what a run of a recipe in recipes/base/ left in its folder to where the recipes take it from.

    python scripts/ship_base.py runs/base-spoken-world/20260101-120000-ab12 answers mumbling

Writes the named stages' models, the codec where the run fitted one, and PROVENANCE.json (recipe, seed, fingerprint,
versions, hardware, metrics) to recipes/base/<the run's name without "base-">.
"""

import json
import shutil
import sys
from pathlib import Path

BASES = Path(__file__).parents[1] / "recipes" / "base"


def main(run: Path, models: list[str]) -> None:
    """Ship the stages `models` of `run`."""
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    name = plan["name"].removeprefix("base-")
    target = BASES / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for model in models:
        shutil.copytree(run / "stages" / model / "model", target / model)
    if (run / "stages" / "codec").exists():
        shutil.copy2(run / "stages" / "codec" / "codec.safetensors", target / "codec.safetensors")
    provenance = {
        "recipe": f"recipes/base/{name}.yaml",
        "seed": plan["seed"],
        "fingerprint": plan["fingerprint"],
        "stages": {
            stage["name"]: stage["stage"]["steps"] for stage in plan["stages"] if stage["stage"]["type"] == "train"
        },
        "versions": {"wavalign": environment["wavalign"], "python": environment["python"], **environment["versions"]},
        "processor": environment["processor"],
        "metrics": {line["stage"]: _measured(line) for line in lines if line["split"] == "heldout"},
    }
    (target / "PROVENANCE.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


def _measured(line: dict[str, object]) -> dict[str, object]:
    """Values, intervals and ceilings of an evaluation line."""
    return {
        key: value for key, value in line.items() if key not in ("stage", "step", "split", "time", "evaluation_seconds")
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
