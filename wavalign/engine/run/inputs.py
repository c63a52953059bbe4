"""Content sums of everything a run reads, so that a resume does not go on with something else.

A file that the recipe names, a file of a checkpoint (weights, config, tokenizer) and a data file count by SHA-256 of
their content; of a file larger than `WHOLE` bytes by its size, its first and last megabyte and `SAMPLES` pieces between
them. Sound beside the data counts by the size of every file and the content of up to `SOUNDS` of them, spread evenly. A
data source that names no files counts by its records, up to `RECORDS` of them. What lies on a server and is not fetched
counts by what the server says of it (size, etag, time).
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import fsspec

from wavalign.engine.compile.components import components, used_sources
from wavalign.engine.compile.stage_links import writer_of
from wavalign.engine.run.builder import Builder
from wavalign.engine.state.files import read_json
from wavalign.engine.state.folder import RunFolder
from wavalign.errors import ResumeError
from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import Dialogue
from wavalign.redaction import REDACTOR
from wavalign.schema.shapes import Option, is_path, leaves
from wavalign.storage.checkpoints import LAYOUT, local_folder, local_path
from wavalign.storage.tensors import PICKLES

WHOLE = 256 << 20
SAMPLES = 256
SOUNDS = 1000
RECORDS = 10_000
MOST_NAMED = 5
_PIECE = 64 << 10
_MEGABYTE = 1 << 20
_CHUNK = 4 << 20
_MODEL_FILES = (*LAYOUT, ".safetensors", *PICKLES)
_SERVER = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "generation", "md5Hash", "blob_id")
"""What file systems say of a file, by their various names."""


@final
class InputReader:
    """Reads what a plan's stages will read; on the first rank, once every rank has prepared the sources."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._files: dict[str, dict[str, Any]] = {}
        self._sums: dict[tuple[str, int, int, int], str] = {}

    def read(self) -> dict[str, Any]:
        """Address -> `by` (who reads it), `bytes` and `sha256`, as JSON; secrets are hidden."""
        self._models()
        for each in components(self._builder.plan):
            plugin = self._builder.registry.get(each.kind, each.component.type)
            if each.kind == "tracker" or writer_of(each.component) is not None:
                continue  # what the run itself writes is no input
            for key, value, accepted in leaves((Option(plugin.Params),), dict(each.component.params), ()):
                if not (isinstance(value, str) and is_path(accepted)):
                    continue
                if each.kind == "codec" and key == ("checkpoint",):  # may lie elsewhere, and is then fetched
                    folder = local_folder(value, want="weights", progress=self._builder.progress)
                    self._folder(value, Path(folder), each.label)
                else:
                    self._path(value, each.label, folders=each.kind != "data")
        for label, sources in used_sources(self._builder.plan):
            for source in sources:
                self._source(label, self._builder.prepared_source(source))
        hidden: dict[str, Any] = REDACTOR.tree(self._files)  # as it will be read back
        return hidden

    def _models(self) -> None:
        for stage in self._builder.plan.stages:
            model = stage.stage.model
            if model.checkpoint is not None:
                folder = local_folder(
                    model.checkpoint, want="weights", pickles=model.allow_pickles, progress=self._builder.progress
                )
                self._folder(model.checkpoint, Path(folder), "model.checkpoint")
            elif model.tokenizer is not None:
                folder = local_folder(model.tokenizer, want="layout", progress=self._builder.progress)
                self._path(folder, "model.tokenizer", folders=True)

    def _path(self, address: str, label: str, *, folders: bool) -> None:
        """A file or a folder of model files; what is not there is for others to miss."""
        local = local_path(address)
        if local is None:
            self._remote(address, label)
        elif os.path.isfile(local):
            self._note(address, label, self._of_file(local))
        elif folders and os.path.isdir(local):
            self._folder(address, Path(local), label)

    def _folder(self, address: str, folder: Path, label: str) -> None:
        if folder.is_file():
            self._note(address, label, self._of_file(str(folder)))
            return
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in name.parts)
            if path.name.endswith(_MODEL_FILES) and not hidden and path.is_file():
                self._note(f"{address}/{name.as_posix()}", label, self._of_file(str(path)))

    def _remote(self, address: str, label: str) -> None:
        try:
            system, path = fsspec.core.url_to_fs(address)
            info: Mapping[str, Any] = system.info(path)
        except (OSError, ValueError, ImportError):
            return  # whoever reads it says why it cannot be
        said = {key: str(info[key]) for key in _SERVER if info.get(key) is not None}
        size = info.get("size")
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        self._note(address, label, {"bytes": size if isinstance(size, int) else -1, "sha256": digest, "how": "server"})

    # --- data ---------------------------------------------------------------------------------------------------------

    def _source(self, label: str, source: DataSource) -> None:
        files = source.reads()
        for file in files:
            self._path(file, label, folders=False)
        if source.stream() is not None:
            return
        if files:
            self._sounds(label, source)
        else:
            seen = sum(name.startswith(f"records of {label} ") for name in self._files)
            self._note(f"records of {label} {seen + 1} ({type(source).__name__})", label, _of_records(source))

    def _sounds(self, label: str, source: DataSource) -> None:
        """Sizes of all sound files on this machine, and the content of some."""
        found = {clip for index in range(len(source)) for clip in _clips(source.record(index))}
        local = sorted(path for url in found if (path := local_path(url)) is not None)
        read = {local[index * len(local) // SOUNDS] for index in range(SOUNDS)} if len(local) > SOUNDS else set(local)
        for path in local:
            if path in read and os.path.isfile(path):
                self._note(path, label, self._of_file(path))
            elif os.path.isfile(path):
                self._note(path, label, {"bytes": os.path.getsize(path)})

    # --- sums ---------------------------------------------------------------------------------------------------------

    def _note(self, address: str, label: str, found: Mapping[str, Any]) -> None:
        entry = self._files.setdefault(address, {"by": [], **found})
        if label not in entry["by"]:
            entry["by"].append(label)

    def _of_file(self, path: str) -> dict[str, Any]:
        stat = os.stat(path)
        key = (path, stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if key not in self._sums:
            self._sums[key] = _file_sum(path, stat.st_size)
        found = {"bytes": stat.st_size, "sha256": self._sums[key]}
        return found if stat.st_size <= WHOLE else {**found, "how": "sampled"}


def check_read(builder: Builder, folder: RunFolder, wanted: str | None) -> str:
    """Prepare what the stages read, and hold it against what the run began with; every rank calls it.

    Gives the sum that checkpoints carry, on the first rank; `wanted` is that of the checkpoint the run goes on from.
    """
    for source in [each for _, sources in used_sources(builder.plan) for each in sources]:
        builder.prepared_source(source)
    if not builder.world.is_first:
        return ""
    accepted = read_json(folder.plan).get("accepted", ()) if folder.plan.exists() else ()
    return recorded(folder, InputReader(builder).read(), accepted=accepted, wanted=wanted)


def digest_of(files: Mapping[str, Any]) -> str:
    """One sum over all of them."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def recorded(folder: RunFolder, found: Mapping[str, Any], *, accepted: Collection[str], wanted: str | None) -> str:
    """Hold `found` against what the run began with and write it down; gives its sum, which checkpoints carry.

    `wanted` is the sum in the checkpoint that the run goes on from. Raises ResumeError, before anything is trained.
    """
    digest, earlier = digest_of(found), list[str]()
    if folder.inputs.exists():
        old = read_json(folder.inputs)
        try:
            files, known, earlier = old["files"], str(old["digest"]), list(old["earlier"])
        except (KeyError, TypeError) as error:
            raise _damaged(folder) from error
        if digest_of(files) != known or wanted not in (None, known, *earlier):
            raise _damaged(folder)
        check_inputs(files, found, accepted)
        if known == digest:
            return digest
        earlier.append(known)
    elif wanted not in (None, digest):
        raise _damaged(folder)
    folder.write_json(folder.inputs, {"digest": digest, "earlier": earlier, "files": found})
    return digest


def _damaged(folder: RunFolder) -> ResumeError:
    return ResumeError(
        f"{folder.inputs} is not what the run wrote, so that nobody can say whether its data and weights are the same",
        hint="put the file back from a copy, or start a new run",
    )


def check_inputs(old: Mapping[str, Any], new: Mapping[str, Any], accepted: Collection[str]) -> None:
    """Raise ResumeError naming what is gone, new or changed, but for files that only `accepted` components read."""
    problems = []
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        entry = after if after is not None else before
        if before == after or entry is None or set(entry["by"]) <= set(accepted):
            continue
        if what := _what_changed(before, after):
            problems.append(f"{name}, read by {', '.join(entry['by'])}, {what}")
    if problems:
        more = [f"and {len(problems) - MOST_NAMED} more"] if len(problems) > MOST_NAMED else []
        shown = "\n  ".join([*problems[:MOST_NAMED], *more])
        raise ResumeError(
            f"what the run reads is not what it began with:\n  {shown}",
            hint="put it back as it was, or start a new run on what there is now",
        )


def _what_changed(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    if after is None:
        return "is not there any more"
    if before is None:
        return "was not there when the run began"
    if before["bytes"] != after["bytes"]:
        return f"has {after['bytes']} bytes and had {before['bytes']}"
    if before.get("sha256") != after.get("sha256"):
        return "has other content of the same size"
    return ""  # read by more or fewer: the plan's affair


def _file_sum(path: str, size: int) -> str:
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= WHOLE:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            return digest.hexdigest()
        for start, length in _pieces(size):
            file.seek(start)
            digest.update(file.read(length))
    return digest.hexdigest()


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    """Start and length of what is read of a large file: its header, its end and pieces between."""
    yield 0, _MEGABYTE
    for index in range(SAMPLES):
        yield index * (size - _PIECE) // SAMPLES, _PIECE
    yield size - _MEGABYTE, _MEGABYTE


def _of_records(source: DataSource) -> dict[str, Any]:
    count = len(source)
    some: Sequence[int] = range(count) if count <= RECORDS else [index * count // RECORDS for index in range(RECORDS)]
    digest = hashlib.sha256(str(count).encode())
    for index in some:
        digest.update(json.dumps(_plain(source.record(index)), sort_keys=True, default=_type_name).encode())
    return {"bytes": count, "sha256": digest.hexdigest(), "how": "records"}


def _plain(dialogue: Dialogue) -> dict[str, Any]:
    """A dialogue without the folders its sound lies in, which may be a cache."""
    plain = asdict(dialogue)
    for key in ("members", "scores"):  # the sum of records without them is what it was before there were any
        if not plain[key]:
            del plain[key]
    for turn in [*plain["messages"], *plain["targets"], *([plain["target"]] if plain["target"] is not None else [])]:
        if turn["audio"] is not None:
            codes = turn["audio"]["codes"]
            turn |= {"codes": list(codes)} if codes is not None else {}
            turn["audio"] = os.path.basename(turn["audio"]["url"])
    return plain


def _type_name(value: object) -> str:
    """Of what JSON cannot hold, e.g. an object of a person's own."""
    return type(value).__name__


def _clips(dialogue: Dialogue) -> Iterator[str]:
    turns = [*dialogue.messages, *dialogue.answers]
    yield from (turn.audio.url for turn in turns if turn.audio is not None and turn.audio.has_sound)
