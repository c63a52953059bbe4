"""Files beside the weights of a model that came from a checkpoint."""

import shutil
from pathlib import Path

from wavalign.plugins.architectures.kimi_audio.whisper_front_end import WHISPER_FOLDER

SUFFIXES = (".json", ".jinja", ".model", ".py", ".txt")
"""Of the files that say what the weights mean: config, tokenizer, the public code. None of them is run or changed."""


def copy_checkpoint_files(checkpoint: Path, folder: Path) -> None:
    """Copy the small files of `checkpoint` byte for byte; weights and sub-folders stay where they are."""
    for path in sorted(checkpoint.iterdir()):
        if path.is_file() and path.suffix in SUFFIXES and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)


def link_whisper(whisper: Path, folder: Path) -> None:
    """Make an encoder, where there is one, findable from `folder`: a link, or a copy on a disk that knows no links."""
    link, target = folder / WHISPER_FOLDER, whisper.resolve()
    if not target.is_dir() or link.resolve() == target:
        return
    if link.is_symlink():
        link.unlink()
    elif link.is_dir():
        return  # one that was put there as a folder of its own
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        shutil.copytree(target, link)
