"""The model that a stage leaves: weights and files of its original layout, complete or absent as a folder."""

import shutil
from pathlib import Path

from wavalign.engine.run.live import LiveStage
from wavalign.engine.state.files import fsync_folder, storage_errors
from wavalign.plugins.shards import ShardWriter


def leave_model(live: LiveStage, folder: Path) -> None:
    """Write the stage's network to `folder`, in place of what an interrupted run left; every rank calls it.

    Tensors come one by one from the backend, so that no rank holds the network twice and partitioned weights are whole
    one at a time. Raises StorageError when the disk refuses; `folder` is then as it was.
    """
    if not live.world.is_first:
        for _ in live.backend.weights():
            pass  # the first rank cannot gather them alone
        return
    aside = folder.with_name(f".{folder.name}.writing")
    with storage_errors(str(folder)):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        live.architecture.save_layout(str(aside))
        writer = ShardWriter(aside)
        for name, tensor in live.backend.weights():
            writer.add(name, tensor)
        writer.finish()
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        fsync_folder(folder.parent)
