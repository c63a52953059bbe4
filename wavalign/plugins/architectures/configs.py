"""What every family does with the `config.json` of a checkpoint."""

from collections.abc import Mapping
from typing import Any

from wavalign.errors import CheckpointError


def check_given_sizes(given: Mapping[str, Any], fixed: Mapping[str, Any], folder: str) -> None:
    """Sizes in a recipe may repeat those of its checkpoint; raise CheckpointError where they contradict them."""
    wrong = [f"{name} {value} (not {fixed[name]})" for name, value in given.items() if value != fixed[name]]
    if wrong:
        raise CheckpointError(
            f"{folder} fixes the sizes, but the recipe sets {', '.join(wrong)}",
            hint="remove them from model.architecture, or start from a preset",
        )
