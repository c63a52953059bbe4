"""A family from a local folder in the layout of the transformers library; weights from safetensors alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging

from wavalign.errors import CheckpointError
from wavalign.plugins.codecs.neural.families import FAMILIES, Family
from wavalign.storage.checkpoint_config import read_config
from wavalign.storage.tensors import read_checkpoint

_UNLOADABLE = (
    *(OSError, ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError, AssertionError),
    StrictDataclassError,
)
"""What the library raises on a config whose numbers make no network."""


def load_family(folder: str, device: str) -> Family:
    """The model in `folder`, in float32 on `device`; CheckpointError where it is missing, torn or of another kind."""
    kind = read_config(folder).get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise CheckpointError(
            f"{folder}/config.json: model_type {kind!r} is no codec that is known here",
            hint=f"known: {', '.join(FAMILIES)}",
        )
    read_checkpoint(folder)  # names what is missing, torn or refused better than the library does
    name, family = FAMILIES[kind]
    return family(_model(getattr(transformers, name), folder, device), folder)


def _model(kind: Any, folder: str, device: str) -> Any:
    try:
        with _no_progress_bar():
            model, report = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype="float32", output_loading_info=True
            )
    except _UNLOADABLE as error:
        raise CheckpointError(f"{folder} cannot be loaded: {error}", hint="fetch it again") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} tensors: {', '.join(missing[:8])}", hint="fetch it again")
    return model.eval().requires_grad_(False).to(device)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
