"""Low-rank adapters on a policy: put on, switched off, merged into the weights, written by themselves.

    y = W x + (alpha / rank) B A x                                      LoRA
    y = m * (W + (alpha / rank) B A) x / ||W + (alpha / rank) B A||     DoRA, norms over rows, m trained

The layers are those of the peft library, which is imported only where a recipe asks for an adapter. An adapted layer
`path` keeps its own weights under `path.base_layer`; outside this module nobody needs to know: prefixes, and with them
parameter groups, stay as they are, and `merged_weights` gives the original names back.

Sources: LoRA (arXiv 2106.09685), DoRA (arXiv 2402.09353).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from wavalign.engine.backends.base import DTYPES, Precision
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
    policy: Policy, section: AdapterSection, *, architecture: Architecture, seed: int, precision: Precision
) -> None:
    """Put new adapters on `policy`, which computes as before until they are trained, and freeze everything else.

    A is drawn from `seed`, B is 0. Adapters and `also_train` are trainable; in half precision the frozen weights are
    held in it, too. Raises PreflightError for a target or group that selects nothing.
    """
    # It takes seconds to import, and most runs do without it.
    from peft import LoraConfig, inject_adapter_in_model

    shapes = {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}
    paths = adapted_layers(section, shapes, architecture.parameter_group)
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # declared int, used as a factor
        lora_dropout=section.dropout,
        target_modules=list(paths),
        use_dora=section.type == "dora",
    )
    unused = {id(parameter) for parameter in policy.parameters() if not parameter.requires_grad}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, policy, NAME)
    own = {id(parameter) for layer in _layers(policy).values() for parameter in _added(layer).values()}
    for name, parameter in policy.named_parameters():
        also = id(parameter) not in unused and architecture.parameter_group(name) in section.also_train
        trained = id(parameter) in own or also
        parameter.requires_grad_(trained)
        if trained:
            parameter.data = parameter.data.float()
        elif precision != "float32" and parameter.is_floating_point():
            parameter.data = parameter.data.to(DTYPES[precision])
    for layer in _layers(policy).values():
        _set_up(layer)


def trained_in_full(policy: Policy) -> dict[str, Tensor]:
    """Copies [...] of the trainable weights that are no adapter's, by name."""
    own = {id(parameter) for layer in _layers(policy).values() for parameter in _added(layer).values()}
    return {
        name: parameter.detach().clone()
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


def merged_weights(policy: Policy) -> Mapping[str, Tensor]:
    """The state dict of the network that `policy` computes, under the original names.

    A merged weight [O, I] is made when it is asked for, in float32, and given in the precision its layer is held in.
    """
    return _Merged(policy)


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


@final
class _Merged(Mapping[str, Tensor]):
    """A state dict whose adapted weights are merged one at a time."""

    def __init__(self, policy: Policy) -> None:
        self._plain, self._merged = dict(policy.state_dict()), dict[str, Any]()
        for path, layer in _layers(policy).items():
            inside = [name for name in self._plain if name.startswith(f"{path}.")]
            for name in inside:
                tensor = self._plain.pop(name)
                original = name.replace(f"{path}.base_layer.", f"{path}.", 1)
                if original != name and original != f"{path}.weight":
                    self._plain[original] = tensor
            self._merged[f"{path}.weight"] = layer

    def __getitem__(self, name: str) -> Tensor:
        """The weight [...] of that name; an adapted one [O, I] is merged now."""
        layer = self._merged.get(name)
        return self._plain[name] if layer is None else _merge(layer)

    def __iter__(self) -> Iterator[str]:
        yield from self._plain
        yield from self._merged

    def __len__(self) -> int:
        return len(self._plain) + len(self._merged)


def _merge(layer: "LoraLayer") -> Tensor:
    """The one matrix [O, I] that `layer` multiplies by; the layer stays as it is, to the last bit."""
    weight = layer.get_base_layer().weight
    assert isinstance(weight, nn.Parameter)
    kept = weight.data
    try:
        weight.data = kept.float()
        layer.merge(safe_merge=True)  # puts a new tensor there
        return weight.data.to(kept.dtype)
    finally:
        weight.data = kept
        layer.merged_adapters.clear()


def _set_up(layer: "LoraLayer") -> None:
    """What the library leaves to the precision the weights happened to be in."""
    if not layer.lora_magnitude_vector:
        # Autocast converts the input once, for the layer's own weight; a float32 copy of it would serve nobody.
        layer.cast_input_dtype_enabled = False
        return
    weight = layer.get_base_layer().weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        length = torch.linalg.norm(weight.float(), dim=1)
        layer.lora_magnitude_vector[NAME].weight.copy_(length)  # type: ignore[operator]  # a module's parameter


def _layers(policy: nn.Module) -> dict[str, "LoraLayer"]:
    """The adapted layers by their paths."""
    # As in `attach`.
    from peft.tuners.lora import LoraLayer

    return {path: module for path, module in policy.named_modules() if isinstance(module, LoraLayer)}


def _added(layer: "LoraLayer") -> dict[str, nn.Parameter]:
    """The parameters of `layer` that are the adapter's."""
    assert isinstance(layer, nn.Module)
    return {name: each for name, each in layer.named_parameters() if not name.startswith("base_layer.")}
