"""Writes the toy world's files: a word-level tokenizer and recipes that train in seconds."""

from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

PLUGINS = Path(__file__).with_name("plugins.py")
NUMBERS = ("zero", "one", "two", "three", "four", "five")
WORDS = ("<unk>", "\n", "system", "user", "assistant", "plus", "it", "is", *NUMBERS)


def write_tokenizer(folder: Path) -> Path:
    """A word-level tokenizer in which a line break is a word."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    path = folder / "words.json"
    tokenizer.save(str(path))
    return path


def toy_recipe(folder: Path, **runtime: Any) -> dict[str, Any]:
    """A hybrid recipe over sums modulo six; `runtime` goes to its runtime section."""
    sizes = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}
    return {
        "name": "toy",
        "seed": 3,
        "plugins": [str(PLUGINS)],
        "model": {
            "architecture": {"type": "vita", "num_codes": 4, **sizes},
            "preset": "tiny",
            "tokenizer": str(write_tokenizer(folder)),
        },
        "data": {
            "prompts": {"type": "toy_sums"},
            "demonstrations": {"type": "toy_sums", "limit": 12},
            "evaluation": {"type": "toy_sums"},
        },
        "rollout": {"group_size": 4, "temperature": 1.0, "max_new_tokens": 5, "truncated": "keep"},
        "batch": {"prompts": 4, "demonstrations": 4},
        "rewards": {"exact": {"type": "toy_exact", "scale": [1, 5]}},
        "objective": {
            "gate": {"type": "rollout_adaptive"},
            "terms": {
                "rl": {"loss": {"type": "grpo", "kl": {"coefficient": 0.01}}, "tokens": "text", "share": "gate"},
                "sft": {"loss": "cross_entropy", "tokens": "all", "share": "1 - gate"},
            },
        },
        "optim": {"learning_rate": 0.003},
        "evaluation": {"metrics": {"accuracy": {"type": "toy_accuracy"}}},
        "steps": 6,
        "runtime": {
            "device": "cpu",
            "threads": 1,
            "trackers": [],
            "report": False,
            "folder": str(folder / "run"),
            "checkpoint_every": 2,
            "log_rollouts_every": 3,
            **runtime,
        },
    }


def write_recipe(folder: Path, recipe: dict[str, Any]) -> str:
    """Write a recipe and give its path."""
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return str(path)
