"""Judges of known faults against people: what `wavalign judge calibrate` finds, beside what was put in.

    python benchmarks/calibration.py [--prompts 80] [--answers 5] [--repeats 3] [--folder runs/calibration] [--out MD]

Writes scores of three raters of answers of known quality, has each judge calibrated by the command, and prints a table.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RATERS, RATER_NOISE, SPREAD = 3, 0.4, 0.6
"""People to an answer, and the standard deviations of their errors and of the quality of answers."""
JUDGES: Mapping[str, Mapping[str, float]] = {
    "exact": {},
    "bias": {"bias": 0.6},
    "noise": {"noise": 0.5},
    "verbosity": {"per_ten_words": 0.4},
    "compressed": {"stretch": 0.5},
    "drift": {"drift": 0.5},
    "all": {"bias": 0.4, "noise": 0.4, "per_ten_words": 0.3, "stretch": 0.8},
}
SHOWN = {
    "bias": "bias",
    "noise": "variance of an asking",
    "per_ten_words": "ten words more",
    "order": "last minus first",
    "pearson": "Pearson",
    "spearman_within": "Spearman within prompt",
    "mae": "MAE",
    "mae_affine": "MAE corrected",
}


def main() -> None:
    """Write, calibrate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--prompts", type=int, default=80)
    parser.add_argument("--answers", type=int, default=5, help="to a prompt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--out", type=Path, help="also write it there")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    scores = write_scores(options.folder / "human.jsonl", prompts=options.prompts, answers=options.answers)
    recipe = write_recipe(options.folder / "judges.yaml", answers=options.prompts * options.answers)
    found = {name: calibrated(recipe, name, scores, options.repeats) for name in JUDGES}
    text = "\n".join(table(found)) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


def write_scores(path: Path, *, prompts: int, answers: int, seed: int = 0) -> Path:
    """People's scores of answers whose quality is known; longer answers are no better."""
    draws = np.random.default_rng(seed)
    lines = []
    for prompt in range(prompts):
        middle = 3 + 0.4 * draws.standard_normal()
        for answer in range(answers):
            quality = float(np.clip(middle + SPREAD * draws.standard_normal(), 1.5, 4.5))
            words = int(draws.integers(8, 33))
            people = np.clip(quality + RATER_NOISE * draws.standard_normal(RATERS), 1, 5)
            lines.append(
                {
                    "id": f"p{prompt}-a{answer}",
                    "prompt": f"p{prompt}",
                    "question": f"question {prompt}",
                    "answer": " ".join(["word"] * words),
                    "scores": [round(float(each), 3) for each in people],
                    "metadata": {"quality": quality},
                }
            )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_recipe(path: Path, *, answers: int) -> Path:
    """A recipe whose rewards are the judges."""
    rewards = "".join(
        f"  {name}: {json.dumps({'type': 'known_judge', 'answers': answers, **faults})}\n"
        for name, faults in JUDGES.items()
    )
    plugin, base = ROOT / "benchmarks" / "known_judge.py", ROOT / "recipes" / "quickstart.yaml"
    text = f"extends: {base}\nname: judges\nplugins: [{plugin}]\nruntime: {{reward_workers: 1}}\n"
    path.write_text(f"{text}rewards: !replace\n{rewards}", encoding="utf-8")
    return path


def calibrated(recipe: Path, name: str, scores: Path, repeats: int) -> dict[str, Any]:
    """The calibration of one judge, by the command."""
    from wavalign_cli.app import main as command  # it wants to be the first to look at the terminal

    out = recipe.parent / f"{name}.json"
    page = recipe.parent / f"{name}.html"
    arguments = ["judge", "calibrate", str(recipe), "--reward", name, "--on", str(scores)]
    arguments += ["--repeats", str(repeats), "-o", str(out), "--report", str(page)]
    if command(arguments):
        raise SystemExit(f"{name} was not calibrated")
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def put_in(name: str) -> dict[str, float]:
    """What there is to be found of a judge."""
    faults = JUDGES[name]
    return {
        "bias": faults.get("bias", 0.0),
        "noise": faults.get("noise", 0.0) ** 2,
        "per_ten_words": faults.get("per_ten_words", 0.0),
        "order": faults.get("drift", 0.0),
    }


def table(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line a judge: found [95 % interval] (put in)."""
    yield f"| judge | {' | '.join(SHOWN.values())} |"
    yield f"|---|{'---|' * len(SHOWN)}"
    for name, each in found.items():
        truth = put_in(name)
        cells = []
        for key in SHOWN:
            estimate = each["statistics"][key]
            value, low, high = (round(estimate[each], 2) + 0.0 for each in ("value", "low", "high"))
            cell = f"{value:.2f} [{low:.2f}, {high:.2f}]"
            cells.append(f"{cell} ({truth[key]:.2f})" if key in truth else cell)
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
