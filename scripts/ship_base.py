"""Copy what `wavalign run recipes/base/spoken-world.yaml` left in its folder to where the recipes take it from.

    python scripts/ship_base.py runs/base-spoken-world/20260101-120000-ab12

Writes the codec, the two models and PROVENANCE.json (recipe, seed, fingerprint, versions, hardware, metrics).
"""

import json
import shutil
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "recipes" / "base" / "spoken-world"
MODELS = ("answers", "mumbling")


def main(run: Path) -> None:
    """Ship the stages of `run`."""
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shutil.rmtree(TARGET, ignore_errors=True)
    TARGET.mkdir(parents=True)
    for name in MODELS:
        shutil.copytree(run / "stages" / name / "model", TARGET / name)
    shutil.copy2(run / "stages" / "codec" / "codec.safetensors", TARGET / "codec.safetensors")
    provenance = {
        "recipe": "recipes/base/spoken-world.yaml",
        "seed": plan["seed"],
        "fingerprint": plan["fingerprint"],
        "stages": {
            stage["name"]: stage["stage"]["steps"] for stage in plan["stages"] if stage["stage"]["type"] == "train"
        },
        "versions": {"wavalign": environment["wavalign"], "python": environment["python"], **environment["versions"]},
        "processor": environment["processor"],
        "metrics": {line["stage"]: _measured(line) for line in lines if line["split"] == "heldout"},
    }
    (TARGET / "PROVENANCE.json").write_text(json.dumps(provenance, indent=1) + "\n", encoding="utf-8")


def _measured(line: dict[str, object]) -> dict[str, object]:
    """Values, intervals and ceilings of an evaluation line."""
    return {
        key: value for key, value in line.items() if key not in ("stage", "step", "split", "time", "evaluation_seconds")
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
