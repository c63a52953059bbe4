"""A trained model in the layout of the checkpoint it came from, for the code that the checkpoint was made for.

Every weight file is written over the header of the original one: the same tensors in the same order, places and types.
Tensors that the network does not use are carried over, all other files are copied. A model that has not changed is
therefore the original, byte for byte. A model without an original has the layout its architecture writes.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wavalign.engine.compile.plan import Plan, StagePlan
from wavalign.engine.compile.stage_links import start_in_plan
from wavalign.engine.contracts.origins import guarded_block
from wavalign.engine.models.adapters import merged_parts
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.choosing import Chosen, from_run
from wavalign.engine.run.hand_over import write_model
from wavalign.engine.run.original_files import HIDDEN, original_files
from wavalign.engine.state.distributed import World
from wavalign.engine.state.files import storage_errors
from wavalign.errors import CheckpointError, StorageError, UsageError
from wavalign.plugins.api import Architecture
from wavalign.plugins.registry import Registry
from wavalign.storage.checkpoints import Progress, local_folder
from wavalign.storage.shards import SHARD_BYTES, ShardWriter, write_tensors
from wavalign.storage.tensors import (
    DTYPES,
    INDEX_FILE,
    PICKLE_FILE,
    PICKLES,
    StoredTensor,
    Weights,
    is_ignored,
    read_checkpoint,
    weight_files,
)

Precision = Literal["original", "float32", "bfloat16"]
_TYPES = {name: dtype for dtype, name in DTYPES.items()}
_PIECE = 8 << 20


@final
@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a model is exported."""

    stage: str | None = None
    """Which stage's model; None takes the last."""
    at: str | None = None
    """Of a run, the checkpoint (`step-40`) whose weights they are; None for what the stage left at its end."""
    shard_bytes: int | None = None
    """Largest weight file; None keeps the original's files."""
    precision: Precision = "original"
    """Of floating-point weights."""
    link: bool = False
    """Let sub-folders of the original (encoders, decoders) be links instead of copies."""
    overwrite: bool = False
    """Replace an earlier export."""


@final
@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    stage: str
    checkpoint: str | None
    """Whose weights they are, `step-40`; None for what the stage left."""
    source: str | None
    """Address of the original checkpoint."""
    weights: tuple[str, ...]
    """Weight files."""
    copied: tuple[str, ...]
    copied_bytes: int
    linked: tuple[str, ...]
    carried: tuple[str, ...]
    """Tensors taken over from the original because the network does not use them."""
    left_out: tuple[str, ...]
    """Files of the original that hold its weights in another format."""


def export_model(place: Path, to: Path, options: ExportOptions, progress: Progress) -> Exported:
    """Write the model of a run (or of one stage or checkpoint: its folder) to `to`, complete or not at all.

    Raises UsageError for folders that do not fit, CheckpointError where model and original differ, StorageError.
    """
    to, chosen = to.absolute(), from_run(place, stage=options.stage, at=options.at)
    address, source = original(chosen.plan, chosen.stage), None
    if address is not None:
        pickles = chosen.stage.stage.model.allow_pickles
        source = Path(local_folder(address, want="everything", pickles=pickles, progress=progress))
    model = _held(chosen)
    _check_target(to, place, (model,) if source is None else (model, source), overwrite=options.overwrite)
    work = to.with_name(f".{to.name}.writing-{secrets.token_hex(8)}")
    with storage_errors(str(to)):
        try:
            (work / "export").mkdir(parents=True)
            if chosen.checkpoint is not None:
                model = work / "checkpoint"
                _write_checkpoint(chosen, model, progress)
            job = _Export(chosen, model, source, work / "export", options)
            job.check_space()
            job.write_weights(progress)
            job.bring_files()
            _put(work / "export", to)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return job.report(to, address)


def _held(chosen: Chosen) -> Path:
    """Folder of the weights that are exported."""
    if chosen.checkpoint is not None:
        return chosen.checkpoint.folder
    assert chosen.start is not None
    return chosen.start / "model"


def _write_checkpoint(chosen: Chosen, folder: Path, progress: Progress) -> None:
    """Write the model that its stage would have left at the checkpoint to `folder`, adapters merged."""
    world = World.single("cpu")
    builder = Builder(chosen.plan, world, progress)
    architecture = builder.architecture(chosen.stage, chosen.start)
    with guarded_block(architecture, "building its network"):
        policy = builder.policy(chosen.stage.model_copy(update={"deepspeed": None}), architecture)
    chosen.restore(policy, world)
    if chosen.stage.stage.model.adapter is None:
        write_model(architecture, policy.state_dict().items(), folder)
    else:
        write_model(architecture, ((name, merged()) for name, _, merged in merged_parts(policy)), folder)


def original(plan: Plan, stage: StagePlan) -> str | None:
    """Address of the checkpoint that a stage's weights come from through all earlier stages; None for random ones."""
    before = start_in_plan(plan.stages, stage)
    found = next((each for each in plan.stages if each.name == before), None)
    if found is not None and found.kind.leaves == "weights":
        return original(plan, found)
    return stage.stage.model.checkpoint


@final
class _Export:
    """One export under way, in a folder aside."""

    def __init__(self, chosen: Chosen, model: Path, source: Path | None, target: Path, options: ExportOptions) -> None:
        stage = chosen.stage
        architecture = Registry(chosen.plan.plugins).get(Architecture.kind, stage.stage.model.architecture.type)
        assert issubclass(architecture, Architecture)
        self.ignored, self.stage = architecture.ignored_keys, stage.name
        self.checkpoint = None if chosen.checkpoint is None else chosen.checkpoint.folder.name
        self.pickles = stage.stage.model.allow_pickles
        self.model, self.source, self.target, self.options = model, source, target, options
        self.weights: list[str] = []
        self.copied: list[str] = []
        self.linked: list[str] = []
        self.carried: list[str] = []
        self.left_out: list[str] = []
        self.copied_bytes = 0
        self.resharded = False
        self.files = original_files(source if source is not None else model)

    def check_space(self) -> None:
        """Raise StorageError before anything is written where the disk is too small."""
        skip_folders = self.options.link and self.source is not None
        files = [file for file in self.files if not (skip_folders and "/" in file.name)]
        needed, free = sum(file.size for file in files), shutil.disk_usage(self.target).free
        if needed > free:
            hint = "--link leaves sub-folders where they are" if not self.options.link else "name a larger disk"
            raise StorageError(f"about {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free", hint=hint)

    def write_weights(self, progress: Progress) -> None:
        """Every weight file."""
        trained = read_checkpoint(str(self.model))
        if self.source is None:
            stored, files = trained, weight_files(self.model)
        else:
            stored = read_checkpoint(str(self.source), pickles=self.pickles)
            files = weight_files(self.source, pickles=self.pickles)
        self._check_names(trained, stored)
        self.resharded = self.options.shard_bytes is not None or any(path.suffix in PICKLES for path in files)
        with Weights(trained) as ours, Weights(stored) as theirs:

            def tensor(name: str) -> Tensor:
                """What is written under `name`, [...] as the original has it."""
                value = ours[name] if name in trained else theirs[name]
                return value if name not in trained else value.to(self._dtype(stored[name].dtype, value))

            if self.resharded:
                self._write_shards(tensor, stored)
            elif self.options.precision == "original" and self.source is not None:
                for number, path in enumerate(files):
                    progress(f"writing {path.name}", number, len(files))
                    _rewrite(path, self._place(path.name), lambda name: tensor(name) if name in trained else None)
            else:
                for path in files:
                    held = {name: tensor(name) for name, each in stored.items() if each.file == str(path)}
                    write_tensors(held, self._place(path.name), metadata=_metadata(path))
        if self.resharded:
            self.weights = sorted(path.name for path in self.target.glob("*.safetensors"))

    def bring_files(self) -> None:
        """Everything that is no weight: index, config, tokenizer, code, sub-folders."""
        origin = self.source if self.source is not None else self.model
        skipped = {path.name for path in weight_files(origin, pickles=self.pickles)} | set(HIDDEN)
        if self.resharded:
            skipped.add(INDEX_FILE)
        for path in sorted(origin.iterdir()):
            if path.name in skipped or (self.target / path.name).exists():
                continue
            if path.name.startswith(PICKLE_FILE.removesuffix(".bin")):
                self.left_out.append(path.name)  # the untrained weights once more
                continue
            if path.is_dir() and self.options.link and self.source is not None:
                (self.target / path.name).symlink_to(path.resolve(), target_is_directory=True)
                self.linked.append(path.name)
            else:
                self._bring(path.name)
        if self.options.precision != "original":
            self._say_precision()

    def report(self, to: Path, address: str | None) -> Exported:
        """What was written, now at `to`."""
        return Exported(
            folder=to,
            stage=self.stage,
            checkpoint=self.checkpoint,
            source=address,
            weights=tuple(self.weights),
            copied=tuple(self.copied),
            copied_bytes=self.copied_bytes,
            linked=tuple(self.linked),
            carried=tuple(self.carried),
            left_out=tuple(self.left_out),
        )

    def _check_names(self, trained: Mapping[str, StoredTensor], stored: Mapping[str, StoredTensor]) -> None:
        self.carried = [name for name in stored if name not in trained and is_ignored(name, self.ignored)]
        unknown = [f"not in the original: {name}" for name in trained if name not in stored]
        unknown += [f"not in the model: {name}" for name in stored if name not in trained and name not in self.carried]
        unknown += [
            f"shape: {name} is {list(tensor.shape)}, in the original {list(stored[name].shape)}"
            for name, tensor in trained.items()
            if name in stored and tensor.shape != stored[name].shape
        ]
        if unknown:
            raise CheckpointError(
                f"{self.model} is not the model of {self.source} in {len(unknown)} tensors:\n  " + "\n  ".join(unknown)
            )

    def _dtype(self, original_type: str, value: Tensor) -> torch.dtype:
        """What `value` [...] is written in."""
        if self.options.precision == "original":
            return _TYPES[original_type]
        return torch.float32 if self.options.precision == "float32" else torch.bfloat16

    def _write_shards(self, tensor: Callable[[str], Tensor], stored: Mapping[str, StoredTensor]) -> None:
        """Write the `tensor` [...] of every stored name into files of a size."""
        writer = ShardWriter(self.target, self.options.shard_bytes or SHARD_BYTES)
        for name in stored:
            writer.add(name, tensor(name))
        writer.finish()

    def _place(self, name: str) -> Path:
        self.weights.append(name)
        return self.target / name

    def _bring(self, name: str) -> None:
        """Copy a file of the original, or all files of a folder."""
        if (self.source if self.source is not None else self.model).joinpath(name).is_dir():
            (self.target / name).mkdir()
        for file in self.files:
            if file.name.partition("/")[0] == name:
                (self.target / file.name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.path, self.target / file.name, follow_symlinks=False)
                self.copied_bytes += file.size
        self.copied.append(name)

    def _say_precision(self) -> None:
        """Let config and index speak of the precision that was asked for."""
        config = self.target / "config.json"
        content = json.loads(config.read_text(encoding="utf-8"))
        for key in ("torch_dtype", "dtype"):
            if key in content:
                content[key] = self.options.precision
        config.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        index = self.target / INDEX_FILE
        if index.is_file():
            content = json.loads(index.read_text(encoding="utf-8"))
            stored = read_checkpoint(str(self.target)).values()
            sizes = [_TYPES[each.dtype].itemsize * torch.Size(each.shape).numel() for each in stored]
            content.setdefault("metadata", {})["total_size"] = sum(sizes)
            index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _rewrite(source: Path, target: Path, tensor: Callable[[str], Tensor | None]) -> None:
    """Write a safetensors file with the header of `source` and new values [...]; None keeps the old ones."""
    with source.open("rb") as old, target.open("wb") as new:
        opening = old.read(8)
        header = old.read(int.from_bytes(opening, "little"))
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        new.write(opening + header)
        base = len(opening) + len(header)
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = entry["data_offsets"]
            value = tensor(name)
            new.seek(base + start)
            if value is None:
                old.seek(base + start)
                _copy(old.read, new.write, end - start)
                continue
            data = value.contiguous().reshape(-1).view(torch.uint8).numpy()
            if data.nbytes != end - start:
                raise CheckpointError(f"{source}: {name} has {end - start} bytes, the model's {data.nbytes}")
            new.write(data.data)
        new.flush()
        os.fsync(new.fileno())


def _copy(read: Callable[[int], bytes], write: Callable[[bytes], object], count: int) -> None:
    while count > 0:
        piece = read(min(_PIECE, count))
        if not piece:
            raise CheckpointError("the original's file ends before its tensors do")
        write(piece)
        count -= len(piece)


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _check_target(to: Path, place: Path, read: tuple[Path, ...], *, overwrite: bool) -> None:
    """Refuse a folder that holds something, that holds `place`, or that holds or is part of what is `read`."""
    here = to.resolve()
    for each in (path.resolve() for path in (place, *read)):
        if here in (each, *each.parents) or any(path.resolve() in here.parents for path in read):
            raise UsageError(f"{to} is part of what is read, or holds it", hint="name a folder of its own")
    if to.is_symlink():
        raise UsageError(f"{to} is a link", hint="name the folder that it leads to")
    if to.exists() and not to.is_dir():
        raise UsageError(f"{to} is a file")
    if not to.is_dir() or not any(to.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{to} is not empty", hint="name another folder, or --overwrite an earlier export")
    if not (to / "config.json").is_file():
        raise UsageError(f"{to} holds no config.json, so it is no earlier export", hint="name another folder")


def _put(aside: Path, to: Path) -> None:
    """Make `aside` the folder `to`; what stood there goes once the new one is complete."""
    gone = to.with_name(f".{to.name}.replaced-{secrets.token_hex(8)}")
    if to.exists():
        to.rename(gone)
    aside.rename(to)
    shutil.rmtree(gone, ignore_errors=True)
