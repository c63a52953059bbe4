"""Folders of Hugging Face datasets: which files are a split's."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import fsspec
import yaml

from wavalign.errors import DataError
from wavalign.plugins.data.tables.files import Shard, find_files, named
from wavalign.plugins.data.tables.readers import LINES
from wavalign.storage.strict_json import parse

SAVED, SAVED_SPLITS, CARD = "state.json", "dataset_dict.json", "README.md"
HUB_FILES = (".parquet", *LINES)
SPLIT_WORDS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
"""Parts of a path that name a split where no README.md does."""
_UNREADABLE = (OSError, ValueError, ImportError, KeyError, TypeError, yaml.YAMLError)


def dataset_files(path: str, *, split: str | None, config: str | None) -> list[Shard]:
    """The files of a split; raises DataError that names the splits there are."""
    folder = path.rstrip("/")
    if _exists(f"{folder}/{SAVED_SPLITS}"):
        splits = _read_json(f"{folder}/{SAVED_SPLITS}", "splits")
        return saved_files(f"{folder}/{_chosen('split', split, splits, folder)}")
    if _exists(f"{folder}/{SAVED}"):
        if split is not None:
            raise DataError(f"{folder}: one saved dataset without splits", hint="leave `split` out")
        return saved_files(folder)
    found = _hub_splits(folder, config)
    return find_files(found[_chosen("split", split, list(found), folder)], HUB_FILES)


def is_saved(path: str) -> bool:
    """Whether `save_to_disk` wrote the folder, without splits."""
    return _exists(f"{path.rstrip('/')}/{SAVED}")


def saved_files(folder: str) -> list[Shard]:
    """The Arrow files of a folder that `save_to_disk` wrote."""
    listed = _read_json(f"{folder}/{SAVED}", "_data_files")
    return named([shard for each in listed for shard in find_files(f"{folder}/{each['filename']}", ())])


def _hub_splits(folder: str, config: str | None) -> dict[str, list[str]]:
    """Paths or patterns of every split of a repository."""
    configs = _configs(folder)
    if configs:
        return _configured(folder, _chosen_config(configs, config, folder))
    if config is not None:
        raise DataError(f"{folder}: its {CARD} names no configs", hint="leave `config` out")
    found: dict[str, list[str]] = {}
    for shard in find_files(folder, HUB_FILES):
        words = re.split(r"[^a-z]+", shard.url[len(folder) :].lower())
        name = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "train")
        found.setdefault(name, []).append(shard.url)
    return found


def _configs(folder: str) -> list[Mapping[str, Any]]:
    """What the front matter of the README.md says under `configs`."""
    card = f"{folder}/{CARD}"
    if not _exists(card):
        return []
    try:
        with fsspec.open(card, "rt", encoding="utf-8") as file:
            text: str = file.read()
        front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        content = yaml.safe_load(front.group(1)) if front else {}
        configs = (content or {}).get("configs") or []
        return [each for each in configs if each["config_name"] and each.get("data_files")]
    except (*_UNREADABLE, AttributeError) as error:
        message = f"{card}: its front matter cannot be read: {error}"
        raise DataError(message, hint="name the files with the source parquet or jsonl instead") from error


def _chosen_config(configs: Sequence[Mapping[str, Any]], wanted: str | None, folder: str) -> Mapping[str, Any]:
    names = [str(each["config_name"]) for each in configs]
    default = next((str(each["config_name"]) for each in configs if each.get("default")), None)
    if wanted is None and default is None and "default" in names:
        default = "default"
    return configs[names.index(_chosen("config", wanted if wanted is not None else default, names, folder))]


def _configured(folder: str, config: Mapping[str, Any]) -> dict[str, list[str]]:
    """`data_files` is a pattern, a list of them, or a list of {split, path}."""
    given = config["data_files"]
    entries = given if isinstance(given, list) else [given]
    found: dict[str, list[str]] = {}
    for entry in entries:
        name, paths = (str(entry["split"]), entry["path"]) if isinstance(entry, Mapping) else ("train", entry)
        found.setdefault(name, []).extend(f"{folder}/{each}" for each in ([paths] if isinstance(paths, str) else paths))
    return found


def _chosen(what: str, wanted: str | None, there: Sequence[str], folder: str) -> str:
    if wanted is None and len(there) == 1:
        return there[0]
    if wanted is None:
        raise DataError(f"{folder} has several {what}s", hint=f"set {what} to one of: {', '.join(there)}")
    if wanted not in there:
        raise DataError(f"{folder} has no {what} '{wanted}'", hint=f"it has: {', '.join(there)}")
    return wanted


def _exists(url: str) -> bool:
    try:
        system, path = fsspec.core.url_to_fs(url)
        return bool(system.isfile(path))
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url}: cannot be looked for: {error}", hint="check the path") from error


def _read_json(url: str, key: str) -> Any:
    try:
        with fsspec.open(url, "rb") as file:
            return parse(file.read())[key]
    except _UNREADABLE as error:
        raise DataError(f"{url}: not what save_to_disk writes: {error}", hint="save the dataset again") from error
