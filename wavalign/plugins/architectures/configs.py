"""What every family does with the `config.json` of a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavalign.errors import CheckpointError


def read_config(folder: str) -> dict[str, Any]:
    """`config.json` of a checkpoint folder; raises CheckpointError when it is missing or torn."""
    path = Path(folder) / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", hint="give the folder of a complete checkpoint") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return config


def check_given_sizes(given: Mapping[str, Any], fixed: Mapping[str, Any], folder: str) -> None:
    """Sizes in a recipe may repeat those of its checkpoint; raise CheckpointError where they contradict them."""
    wrong = [f"{name} {value} (not {fixed[name]})" for name, value in given.items() if value != fixed[name]]
    if wrong:
        raise CheckpointError(
            f"{folder} fixes the sizes, but the recipe sets {', '.join(wrong)}",
            hint="remove them from model.architecture, or start from a preset",
        )
