"""`wavalign export`: a trained model in the layout of the checkpoint it came from."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, final

import typer

from wavalign.errors import UsageError

from .console import Format, note, output_format, say, say_json
from .options import FormatOption

if TYPE_CHECKING:
    from wavalign.engine.run.exporting import Exported

EXAMPLES = """Examples:

wavalign export runs/my-run/20260101-120000-abc123 --to exported

wavalign export runs/my-run/20260101-120000-abc123 --stage warm --to exported --link

wavalign export runs/my-run/20260101-120000-abc123 --at step-40 --to exported
"""
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SHOWN = 5
"""Names of a list that are printed."""


@final
class Dtype(StrEnum):
    """Precision of what is written."""

    ORIGINAL = "original"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def precision(self) -> Literal["original", "float32", "bfloat16"]:
        """As the engine spells it."""
        return self.value


def export(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A run's folder, or a stage's or checkpoint's in it.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where the model is written; made when missing.")],
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="Which stage's model; omitted, the last one's.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="CHECKPOINT", help="The weights of this checkpoint instead, e.g. step-40."),
    ] = None,
    shard_size: Annotated[
        str | None,
        typer.Option("--shard-size", metavar="SIZE", help="Largest weight file, e.g. 5GB; omitted, as the original."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Precision of the weights.")] = Dtype.ORIGINAL,
    link: Annotated[
        bool, typer.Option("--link", help="Link sub-folders of the original (encoders, decoders) instead of copying.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    format_: FormatOption = Format.TEXT,
) -> None:
    """Write a run's model in its original layout.

    That is the layout of the checkpoint the run came from: weights keep its names, files and types, and every other
    file of it comes along.
    """
    output_format.set(format_)
    limit = None if shard_size is None else size_in_bytes(shard_size)
    from wavalign.engine import api  # brings torch, which no `--help` shall wait for
    from wavalign.engine.run.exporting import ExportOptions  # and this too

    options = ExportOptions(
        stage=stage, at=at, shard_bytes=limit, precision=dtype.precision, link=link, overwrite=overwrite
    )
    done = api.export(folder, to, options)
    if format_ is Format.JSON:
        say_json(_as_json(done))
        return
    for line in lines(done):
        note(line)
    say(str(done.folder))


def size_in_bytes(text: str) -> int:
    """`5GB`, `500 MB`, `2GiB` or a number of bytes; raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B?)", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2]]) if match is not None and match[2] in UNITS else 0
    if size < 1:
        raise UsageError(f"--shard-size {text} is no size", hint="e.g. 5GB or 500MB")
    return size


def lines(done: "Exported") -> list[str]:
    """What was done, for people."""
    place = done.stage if done.checkpoint is None else f"{done.stage}, {done.checkpoint}"
    found = [f"stage {place}: {len(done.weights)} weight file{'s' * (len(done.weights) != 1)} written"]
    if done.source is not None:
        found.append(f"original: {done.source}")
    if done.copied:
        found.append(f"copied ({done.copied_bytes / 1e6:.1f} MB): {_names(done.copied)}")
    if done.linked:
        found.append(f"linked: {_names(done.linked)}")
    if done.carried:
        found.append(f"carried over from the original: {_names(done.carried)}")
    if done.left_out:
        found.append(f"left out, as they hold the weights before training: {_names(done.left_out)}")
    return found


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _as_json(done: "Exported") -> dict[str, object]:
    return {
        "folder": str(done.folder),
        "stage": done.stage,
        "checkpoint": done.checkpoint,
        "original": done.source,
        "weights": done.weights,
        "copied": done.copied,
        "linked": done.linked,
        "carried": done.carried,
        "left_out": done.left_out,
    }
