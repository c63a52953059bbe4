"""Where DeepSpeed's optimisers keep what a rank holds of every weight, by ZeRO stage.

Stage 0 updates whole weights. Stages 1 and 2 lay a group's weights end to end and give every rank an equal piece of
that, stage 3 gives it a piece of every weight; both pad the last one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from wavalign.engine.backends.training_state import Stretch, whole_stretches


def stretches(optimizer: Any, named: Mapping[str, nn.Parameter], *, stage: int, rank: int) -> Iterator[list[Stretch]]:
    """This rank's stretches of the trained weights in `named`, group by group."""
    if stage == 0:
        yield list(whole_stretches(named))
        return
    names = {id(parameter): name for name, parameter in named.items()}
    if stage < 3:
        yield list(_of_flats(optimizer, named))
        return
    for index, group in enumerate(optimizer.fp16_groups):
        flat, offset, found = optimizer.fp32_partitioned_groups_flat[index], 0, []
        for each in group:
            found.append(_of_parts(each, names[id(each)], flat, offset=offset, rank=rank))
            offset += int(each.partition_numel())
        yield found


def unmoved(policy: nn.Module, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Every frozen weight in `named` and lasting buffer of `policy` [*], by name."""
    lasting = policy.state_dict(keep_vars=True)
    frozen: dict[str, Tensor] = {name: each for name, each in named.items() if not each.requires_grad}
    return frozen | {name: buffer for name, buffer in policy.named_buffers() if name in lasting}


def is_parted(tensor: Tensor) -> bool:
    """Whether it is a weight [*] that every rank has its part of."""
    return hasattr(tensor, "ds_tensor")


def stretch_of(parameter: Any, rank: int) -> tuple[int, Tensor]:
    """First element, and elements [N], of what this rank holds of a weight at stage 3."""
    part: Tensor = parameter.ds_tensor.data
    start = rank * part.numel()
    # The last part may be longer than what is left of the weight; behind that stands anything.
    return start, part.flatten()[: max(0, int(parameter.ds_numel) - start)]


def _of_flats(optimizer: Any, named: Mapping[str, nn.Parameter]) -> Iterator[Stretch]:
    """At stages 1 and 2, of weights that reach into this rank's pieces."""
    # Stage 1 in bfloat16 has an optimiser of its own.
    field = "single_partition_of_fp32_groups"
    flats = getattr(optimizer, field if hasattr(optimizer, field) else "fp32_groups_flat_partition")
    for name, parameter in named.items():
        held = parameter._hp_mapping if parameter.requires_grad else None  # type: ignore[attr-defined]
        if held is not None:
            flat, there = flats[held.param_group_index], held.hp_fragment_address
            master = flat.data.narrow(0, there.start, there.numel)
            yield Stretch(name, parameter.shape, held.lp_fragment_address.start, master, flat, there.start)


def _of_parts(parameter: Any, name: str, flat: Tensor, *, offset: int, rank: int) -> Stretch:
    """At stage 3, of `flat` [N]."""
    size = int(parameter.partition_numel())
    held = max(0, min(size, int(parameter.ds_numel) - rank * size))
    return Stretch(name, parameter.ds_shape, rank * size, flat.data.narrow(0, offset, held), flat, offset)
