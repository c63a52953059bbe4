"""Low-rank adapters on a policy: put on, switched off, merged into the weights, written by themselves.

    y = W x + (alpha / rank) B A x                                      LoRA
    y = m * (W + (alpha / rank) B A) x / ||W + (alpha / rank) B A||     DoRA, norms over rows, m trained

The layers are those of the peft library, which is imported only where a recipe asks for an adapter. An adapted layer
`path` keeps its own weights under `path.base_layer`; outside this module nobody needs to know: prefixes, and with them
parameter groups, stay as they are, and `merged_weights` gives the original names back.

Sources: LoRA (arXiv 2106.09685), DoRA (arXiv 2402.09353).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wavalign.engine.backends.base import DTYPES, Placement, Precision
from wavalign.engine.compile.adapter import adapted_layers
from wavalign.plugins.api import Architecture, Policy
from wavalign.schema.model import AdapterSection
from wavalign.storage.tensors import write_tensors

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

NAME = "default"
"""Adapters have names in the library; each policy has one."""
_PREFIX = "base_model.model."
"""What the library's files put before a module's path."""


def attach(
    policy: Policy,
    section: AdapterSection,
    *,
    architecture: Architecture,
    seed: int,
    precision: Precision,
    placement: Placement | None = None,
) -> None:
    """Put new adapters on `policy`, which computes as before until they are trained, and freeze everything else.

    A is drawn from `seed`, B is 0. Adapters and `also_train` are trainable; in half precision the frozen weights are
    held in it, too. `placement` is that of the policy's weights, which may lie in parts. Raises PreflightError for a
    target or group that selects nothing.
    """
    place = placement if placement is not None else Placement(next(policy.parameters()).device)
    # It takes seconds to import, and most runs do without it.
    from peft import LoraConfig, inject_adapter_in_model

    shapes = _shapes(policy, place)
    paths = adapted_layers(section, shapes, architecture.parameter_group)
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # declared int, used as a factor
        lora_dropout=section.dropout,
        target_modules=list(paths),
        use_dora=section.type == "dora",
    )
    unused = {id(parameter) for parameter in policy.parameters() if not parameter.requires_grad}
    with torch.random.fork_rng(devices=[]), _shaped(policy, paths, place):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, policy, NAME)
    _set_trained(policy, section, architecture=architecture, unused=unused, precision=precision, place=place)
    for layer in _layers(policy).values():
        _set_up(layer, place)
    if place.among is not None:
        for parameter in adapter_parameters(policy):
            parameter.data = parameter.data.to(place.dtype)
            place.settle(parameter)


def _set_trained(
    policy: Policy,
    section: AdapterSection,
    *,
    architecture: Architecture,
    unused: set[int],
    precision: Precision,
    place: Placement,
) -> None:
    """Say what is trained and what is frozen, and hold both in their precision where they are whole."""
    own = {id(parameter) for parameter in adapter_parameters(policy)}
    for name, parameter in policy.named_parameters():
        also = id(parameter) not in unused and architecture.parameter_group(name) in section.also_train
        trained = id(parameter) in own or also
        parameter.requires_grad_(trained)
        if place.among is not None and id(parameter) not in own:
            continue  # it lies in the precision of the backend
        if trained:
            parameter.data = parameter.data.float()
        elif precision != "float32" and parameter.is_floating_point():
            parameter.data = parameter.data.to(DTYPES[precision])


def _shapes(policy: Policy, place: Placement) -> dict[str, tuple[int, ...]]:
    """Whole shapes of a policy's lasting tensors by name."""
    found = policy.state_dict(keep_vars=True).items()
    return {name: place.shape(x) if isinstance(x, nn.Parameter) else tuple(x.shape) for name, x in found}


@contextmanager
def _shaped(policy: Policy, paths: Collection[str], place: Placement) -> Iterator[None]:
    """Inside, weights in parts of the modules `paths` have the shape of whole ones and nothing in them.

    The library looks at shapes, and with DoRA computes with values, which `_set_up` does again.
    """
    weights = [each for path in paths for each in policy.get_submodule(path).parameters()]
    kept = [(each, each.data) for each in weights if place.among is not None]
    for parameter, data in kept:
        parameter.data = data.new_zeros(()).expand(place.shape(parameter))
    try:
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def trained_in_full(policy: Policy, placement: Placement | None = None) -> dict[str, Tensor]:
    """Copies [...] of the trainable weights that are no adapter's, by name; of those in parts the part [N]."""
    own = {id(parameter) for parameter in adapter_parameters(policy)}
    part = (lambda each: each.data) if placement is None else placement.part
    return {
        name: part(parameter).clone()
        for name, parameter in policy.named_parameters()
        if parameter.requires_grad and id(parameter) not in own
    }


@contextmanager
def switched_off(policy: Policy, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, `policy` computes without adapters and dropout, and with `weights` [...] in place of its own."""
    modes = [(module, module.training) for module in policy.modules()]
    named = dict(policy.named_parameters())
    own = {name: named[name].data for name in weights}
    layers = _layers(policy).values()
    policy.eval()
    for layer in layers:
        layer.enable_adapters(False)
    for name, weight in weights.items():
        named[name].data = weight.to(own[name].dtype)
    try:
        yield
    finally:
        for name, data in own.items():
            named[name].data = data
        for layer in layers:
            layer.enable_adapters(True)
        for module, training in modes:
            module.training = training


def merged_weights(policy: Policy) -> dict[str, Tensor]:
    """The state dict [...] of the network that `policy`, which is whole, computes: all that `merged_parts` makes."""
    return {name: made() for name, _, made in merged_parts(policy)}


def merged_parts(policy: Policy) -> Iterator[tuple[str, list[nn.Parameter], Callable[[], Tensor]]]:
    """Every tensor of the network that `policy` computes: its original name, the parameters it is made of, and how.

    A merged weight [O, I] is made in float32, and given in the precision its layer is held in.
    """
    layers, merged = _layers(policy), list[str]()
    for name, tensor in policy.state_dict(keep_vars=True).items():
        path = next((path for path in layers if name.startswith(f"{path}.")), None)
        original = name if path is None else name.replace(f"{path}.base_layer.", f"{path}.", 1)
        if path is not None and (original == name or original == f"{path}.weight"):
            if path not in merged:
                merged.append(path)
        else:
            parts = [tensor] if isinstance(tensor, nn.Parameter) else []
            yield original, parts, partial(Tensor.detach, tensor)
    for path in merged:
        yield f"{path}.weight", list(policy.get_submodule(path).parameters()), partial(_merge, layers[path])


def save_adapter(policy: Policy, folder: Path) -> None:
    """Write the adapters alone, as the library's own files: `adapter_config.json`, `adapter_model.safetensors`."""
    # As in `attach`.
    from peft import PeftConfig, get_peft_model_state_dict

    tensors = get_peft_model_state_dict(policy, policy.state_dict(), NAME, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    found = {f"{_PREFIX}{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_tensors(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = policy.peft_config[NAME]  # type: ignore[index]  # what the library leaves at the module
    assert isinstance(config, PeftConfig)
    config.target_modules = sorted(_layers(policy))  # type: ignore[attr-defined]  # as short as it could be, it misleads
    config.inference_mode = True
    config.save_pretrained(str(folder))


def _merge(layer: "LoraLayer") -> Tensor:
    """The one matrix [O, I] that `layer` multiplies by; the layer stays as it is, to the last bit."""
    weight = layer.get_base_layer().weight
    assert isinstance(weight, nn.Parameter)
    kept = weight.data
    try:
        with torch.autocast(kept.device.type, enabled=False):  # a stage's may be on, and would multiply in bfloat16
            weight.data = kept.float()
            layer.merge(safe_merge=True)  # puts a new tensor there
        return weight.data.to(kept.dtype)
    finally:
        weight.data = kept
        layer.merged_adapters.clear()


def _set_up(layer: "LoraLayer", place: Placement) -> None:
    """What the library leaves to the precision the weights happened to be in."""
    if not layer.lora_magnitude_vector:
        # Autocast converts the input once, for the layer's own weight; a float32 copy of it would serve nobody.
        layer.cast_input_dtype_enabled = False
        return
    weight = layer.get_base_layer().weight
    assert isinstance(weight, nn.Parameter)
    with torch.no_grad(), place.whole([weight]):
        length = torch.linalg.norm(weight.float(), dim=1)
        layer.lora_magnitude_vector[NAME].weight.copy_(length)  # type: ignore[operator]  # a module's parameter


def _layers(policy: nn.Module) -> dict[str, "LoraLayer"]:
    """The adapted layers by their paths."""
    # As in `attach`.
    from peft.tuners.lora import LoraLayer

    return {path: module for path, module in policy.named_modules() if isinstance(module, LoraLayer)}


def adapter_parameters(policy: nn.Module) -> list[nn.Parameter]:
    """Those of all adapters."""
    return [parameter for layer in _layers(policy).values() for parameter in _added(layer).values()]


def _added(layer: "LoraLayer") -> dict[str, nn.Parameter]:
    """The parameters of `layer` that are the adapter's."""
    assert isinstance(layer, nn.Module)
    return {name: each for name, each in layer.named_parameters() if not name.startswith("base_layer.")}
