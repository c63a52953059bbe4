"""Decoder layers that keep their input only and are computed again for the gradient."""

from functools import partial

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from wavalign.errors import PluginError
from wavalign.plugins.api import Policy


def recompute_layers(policy: Policy) -> None:
    """Make every decoder layer of `policy` recompute itself in training; in eval mode nothing changes.

    The layers are those transformers marks for it. Raises PluginError where there are none.
    """
    layers = [module for module in policy.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise PluginError(
            f"{type(policy).__name__} has no layers that can be recomputed",
            hint="remove runtime.gradient_checkpointing; layers of transformers can be recomputed",
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        # Declared as what a module holds; the layer calls it.
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
