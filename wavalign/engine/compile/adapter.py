"""Which layers an adapter is put on and what it adds: read off names and shapes, before there is a network."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import final

import torch

from wavalign.errors import PreflightError
from wavalign.plugins.api import Architecture
from wavalign.schema.model import AdapterSection, ModelSection
from wavalign.schema.translation import did_you_mean

PREDICTING = ("text_head", "audio_head", "audio_branch", "mtp")
"""Groups of parameters that predict tokens, which a critic does not."""
Shapes = Mapping[str, tuple[int, ...]]
GroupOf = Callable[[str], str]


@final
@dataclass(frozen=True, slots=True)
class WeightCounts:
    """Numbers of elements, by what happens to them."""

    frozen: int
    trained: int
    """Of the network's own weights."""
    added: int = 0
    """Of an adapter, all of them trained."""
    kept: int = 0
    """Values a token that DoRA makes autograd keep: both results of every adapted layer."""
    head: int = 0
    """Of the largest trained head or embedding, whose gradient is whole before it is added; 0 where none is trained."""
    head_uses: int = 1
    """How often one backward pass gives a gradient for all of it by the heads that it serves."""
    embedded: bool = False
    """Whether one more comes from it as the embedding, or from an embedding as large."""
    projections: int = 0
    """All heads together, trained or not, each weight once."""
    critic_trained: int = 0
    """Of a second network that is a critic: what only predicts tokens is frozen there."""

    @property
    def trainable(self) -> int:
        return self.trained + self.added

    @property
    def held(self) -> int:
        return self.frozen + self.trained + self.added


def adapted_layers(section: AdapterSection, shapes: Shapes, group_of: GroupOf) -> dict[str, tuple[int, int]]:
    """Path -> (outputs, inputs) of every linear layer that gets an adapter.

    Raises PreflightError for a target or a group that selects nothing, with the names there are.
    """
    linear = {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2
    }
    groups = {path: group_of(f"{path}.weight") for path in linear}
    _check_groups(section, groups)
    known = sorted({_last(path) for path in linear if groups[path] in section.groups})
    for target in section.targets:
        if target not in known:
            where = " or ".join(section.groups)
            raise PreflightError(
                f"model.adapter.targets: no linear layer of {where} is named `{target}`",
                hint=f"{did_you_mean(target, known)} there are: {', '.join(known)}".strip(),
            )
    return {
        path: sizes
        for path, sizes in linear.items()
        if groups[path] in section.groups and _last(path) in section.targets
    }


def count_weights(model: ModelSection, architecture: Architecture) -> WeightCounts:
    """What a stage trains and what it leaves alone; nothing is allocated."""
    shapes, section = architecture.parameter_shapes(), model.adapter
    by_group: dict[str, int] = {}
    for name, shape in shapes.items():
        group = architecture.parameter_group(name)
        by_group[group] = by_group.get(group, 0) + prod(shape)
    total = sum(by_group.values())
    both = {
        "projections": _projections(architecture),
        "critic_trained": sum(n for group, n in by_group.items() if group not in (*PREDICTING, *(model.freeze or ()))),
    }
    if section is None:
        frozen = sum(by_group.get(group, 0) for group in model.freeze or ())
        head, uses, embedded = _head(architecture, frozenset(by_group) - frozenset(model.freeze or ()))
        return WeightCounts(frozen, total - frozen, head=head, head_uses=uses, embedded=embedded, **both)
    layers = adapted_layers(section, shapes, architecture.parameter_group).values()
    trained = sum(by_group[group] for group in section.also_train)
    dora = section.type == "dora"
    added = sum(section.rank * (outputs + inputs) + dora * outputs for outputs, inputs in layers)
    kept = sum(2 * outputs for outputs, _ in layers) if dora else 0
    head, uses, embedded = _head(architecture, frozenset(section.also_train))
    return WeightCounts(total - trained, trained, added, kept, head, uses, embedded, **both)


def _head(architecture: Architecture, trained: frozenset[str]) -> tuple[int, int, bool]:
    """Of the largest trained weight over the vocabulary: size, heads that it serves, and whether ids are embedded."""
    with torch.device("meta"):
        policy = architecture.empty_policy()
    groups = {id(each): architecture.parameter_group(name) for name, each in policy.named_parameters()}
    weights = [policy.head_weight(index) for index in range(len(architecture.tokens.heads))]
    served = Counter(id(weight) for weight in weights)
    embedded = "embed" in trained
    found = [(weight.numel(), served[id(weight)], embedded) for weight in weights if groups[id(weight)] in trained]
    if embedded:
        found.append((weights[0].numel(), 0, True))
    return max(found, default=(0, 0, False))


def _projections(architecture: Architecture) -> int:
    """Elements of all heads, each weight once."""
    with torch.device("meta"):
        policy = architecture.empty_policy()
    weights = [policy.head_weight(index) for index in range(len(architecture.tokens.heads))]
    return sum({id(weight): weight.numel() for weight in weights}.values())


def trained_line(model: ModelSection, weights: WeightCounts) -> str:
    """What is trained, in a line."""
    share = f"{weights.trainable / 1e6:.2f} of {weights.held / 1e6:.2f} M parameters"
    return share if model.adapter is None else f"{share}: {adapter_line(model.adapter)}"


def adapter_line(section: AdapterSection) -> str:
    """An adapter, in a line."""
    also = f", and {_listed(section.also_train)} in full" if section.also_train else ""
    factor = f"rank {section.rank}, alpha {section.alpha:g}"
    return f"{section.type} ({factor}) on {_listed(section.targets)} of {_listed(section.groups)}{also}"


def _check_groups(section: AdapterSection, groups: Mapping[str, str]) -> None:
    there = sorted(set(groups.values()))
    for key, named in (("groups", section.groups), ("also_train", section.also_train)):
        for group in named:
            if group not in there:
                raise PreflightError(
                    f"model.adapter.{key}: this model has no {group}", hint=f"it has {_listed(there)}; remove {group}"
                )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _last(path: str) -> str:
    return path.rpartition(".")[2]
