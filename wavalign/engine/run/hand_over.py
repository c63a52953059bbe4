"""The model that a stage leaves: weights and files of its original layout, complete or absent as a folder."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from wavalign.engine.models.adapters import adapter_parameters, merged_parts, save_adapter
from wavalign.engine.state.files import fsync_folder, storage_errors
from wavalign.engine.step.stage import LiveStage
from wavalign.plugins.api import Architecture
from wavalign.storage.shards import ShardWriter


def leave_model(live: LiveStage, folder: Path) -> None:
    """Write the stage's network to `folder`, in place of what an interrupted run left; every rank calls it.

    Tensors come one by one from the backend, so that no rank holds the network twice and partitioned weights are whole
    one at a time; with an adapter they are merged, and the adapter alone is left beside `folder`. Raises StorageError
    when the disk refuses; `folder` is then as it was.
    """
    if not live.world.is_first:
        for _ in _weights(live):
            pass  # the first rank cannot gather them alone
        return
    aside = folder.with_name(f".{folder.name}.writing")
    with storage_errors(str(folder)):
        shutil.rmtree(aside, ignore_errors=True)
        write_model(live.architecture, _weights(live, adapter=folder.with_name("adapter")), aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        fsync_folder(folder.parent)


def write_model(architecture: Architecture, weights: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Write `weights` [...] by original name, and the files beside them, to a new `folder`."""
    folder.mkdir(parents=True)
    architecture.save_layout(str(folder))
    writer = ShardWriter(folder)
    for name, tensor in weights:
        writer.add(name, tensor)
    writer.finish()


def _weights(live: LiveStage, adapter: Path | None = None) -> Iterator[tuple[str, Tensor]]:
    """The network's tensors [...] by original name; an adapter's own files are written to `adapter` on the way."""
    backend = live.backend
    if live.plan.stage.model.adapter is None:
        yield from backend.weights()
        return
    with backend.whole(adapter_parameters(backend.policy)):
        if adapter is not None:
            save_adapter(backend.policy, adapter)
    for name, parts, merged in merged_parts(backend.policy):
        with backend.whole(parts):
            if adapter is not None:
                yield name, merged()
