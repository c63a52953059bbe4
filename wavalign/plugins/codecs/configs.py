"""The `config.json` of a codec's checkpoint."""

import json
from pathlib import Path
from typing import Any

from wavalign.errors import CheckpointError


def read_config(folder: str) -> dict[str, Any]:
    """What `folder`/config.json holds; raises CheckpointError when it is missing or torn."""
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", hint="give the folder of a complete checkpoint") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint="fetch it again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no object", hint="fetch it again")
    return config
