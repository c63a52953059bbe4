"""The `config.json` of a checkpoint, read in one way by every architecture and codec."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavalign.errors import CheckpointError, quoted
from wavalign.storage.strict_json import parse

MOST = 1 << 31
"""No size of a network is larger."""


def read_object(path: Path, *, hint: str = "give the folder of a complete checkpoint") -> dict[str, Any]:
    """The JSON object in a file of a checkpoint; raises CheckpointError when it is missing, torn or something else."""
    try:
        content = parse(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", hint=hint) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", hint="fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no object but {type(content).__name__}", hint="fetch it again")
    return content


def read_config(folder: str) -> dict[str, Any]:
    """`config.json` of a checkpoint folder, as `read_object` reads it."""
    return read_object(Path(folder) / "config.json")


def whole(config: Mapping[str, Any], key: str, where: str, *, least: int = 1, default: int | None = None) -> int:
    """A whole number of a config; raises CheckpointError naming file and key."""
    value = _present(config, key, where, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise CheckpointError(
            f"{where}: config.json: {key} is {_said(value)}, not a whole number", hint="fetch it again"
        )
    if not least <= value <= MOST:
        raise CheckpointError(f"{where}: config.json: {key} is {_said(value)}, not from {least} to {MOST}")
    return int(value)


def real(config: Mapping[str, Any], key: str, where: str) -> float:
    """A number above 0 of a config; raises CheckpointError naming file and key."""
    value = _present(config, key, where, None)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise CheckpointError(f"{where}: config.json: {key} is {_said(value)}, not a number above 0")
    return float(value)


def flag(config: Mapping[str, Any], key: str, where: str) -> bool:
    """True or false of a config; raises CheckpointError naming file and key."""
    value = _present(config, key, where, None)
    if not isinstance(value, bool):
        raise CheckpointError(f"{where}: config.json: {key} is {_said(value)}, not true or false")
    return value


def mapping(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """An object inside a config, empty where there is none; raises CheckpointError naming file and key."""
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{where}: config.json: {key} is {_said(value)}, not an object")
    return value


def names(config: Mapping[str, Any], key: str, where: str) -> list[str]:
    """A list of texts of a config, empty where there is none; raises CheckpointError naming file and key."""
    value = config.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise CheckpointError(f"{where}: config.json: {key} is {_said(value)}, not a list of names")
    return value


def _present(config: Mapping[str, Any], key: str, where: str, default: object) -> Any:
    value = config.get(key, default)
    if value is None and key not in config:
        raise CheckpointError(f"{where}: config.json has no {key!r}", hint="fetch it again")
    return value


def _said(value: object) -> str:
    return "null" if value is None else quoted(repr(value))
