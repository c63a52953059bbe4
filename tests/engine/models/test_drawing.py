"""Random weights in parts: the same ones to the last bit, and never more than one of them whole."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.distributed import run_ranks
from tests.engine.backends.test_partitioned import config_of
from tests.plugins.architectures.kimi_helpers import small_kimi
from tests.plugins.architectures.vita_helpers import small_vita
from wavalign.engine.backends.base import Placement
from wavalign.engine.backends.partitioned import placement
from wavalign.engine.models.drawing import DrawnInParts
from wavalign.engine.models.starting_weights import StartingWeights
from wavalign.engine.state.distributed import World


class Fickle(nn.Module):
    """Weights that are drawn, left for others and worked on again, through views too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 3, bias=False)
        self.tied = self.second.weight
        with torch.no_grad():
            self.first.weight.normal_()
            nn.init.trunc_normal_(self.second.weight, std=0.3)
            self.first.weight[2].zero_()
            self.first.weight.mul_(3).sub_(self.second.weight.sum())
            self.second.weight.t()[1].copy_(self.first.weight[:3, 0])
        self.register_buffer("kept", torch.empty(4).normal_())
        self.spread = nn.Parameter(torch.randn(3, 3))


def fickle(world: World) -> dict[str, Tensor]:
    torch.manual_seed(5)
    whole = Fickle()
    torch.manual_seed(5)
    with DrawnInParts(world) as drawing:
        parted = Fickle()
    found = dict(parted.named_parameters())
    held = sum(each.untyped_storage().nbytes() for each in found.values())
    assert held <= whole.first.weight.numel() * 4 + 9 * 4 + 3 * 7 * 4, "that of the last operation, and what has values"
    drawing.all_whole(but={each.untyped_storage()._cdata for each in found.values()})
    for each in found.values():
        drawing.whole(each)
    assert parted.tied is parted.second.weight
    for name, wanted in whole.state_dict().items():
        assert torch.equal(parted.state_dict()[name], wanted), name
    return {name: each.detach().clone() for name, each in found.items()}


def test_weights_that_are_worked_on_again() -> None:
    first, second = run_ranks(fickle, 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    fickle(World.single())


def drawn(world: World) -> list[dict[str, Any]]:
    """Both ways to draw two networks; the bytes that were whole at once while one was drawn in parts."""
    found = []
    for make in (small_vita, small_kimi):
        with tempfile.TemporaryDirectory() as own:
            architecture = make(Path(own))
        weights, most = StartingWeights(architecture, folder=None, seed=3), 0
        wanted = weights.policy(Placement(world.device))
        own_dispatch = DrawnInParts.__torch_dispatch__

        def looked_at(self: DrawnInParts, *given: Any) -> Any:
            nonlocal most
            result = own_dispatch(self, *given)  # noqa: B023 - called before the loop goes on
            most = max(most, sum(each.storage.nbytes() for each in self._divided.values()))
            return result

        DrawnInParts.__torch_dispatch__ = looked_at  # type: ignore[method-assign, assignment]
        before = torch.random.get_rng_state()
        place = placement(config_of(world, "float32"), world)
        policy = weights.policy(place)
        DrawnInParts.__torch_dispatch__ = own_dispatch  # type: ignore[method-assign]
        assert torch.equal(torch.random.get_rng_state(), before)
        assert not any(each.numel() for each in policy.parameters()), "all lie in parts"
        with place.whole(list(policy.parameters())):
            for name, parameter in wanted.named_parameters():
                assert torch.equal(policy.get_parameter(name), parameter), name
        for name, buffer in wanted.named_buffers():
            assert torch.equal(dict(policy.named_buffers())[name], buffer), name
        sizes = [4 * each.numel() for each in wanted.parameters()]
        found.append({"most": most, "largest": max(sizes), "all": sum(sizes)})
    return found


def test_a_network_of_a_preset_is_never_whole() -> None:
    for each in (each for rank in run_ranks(drawn, 2) for each in rank):
        assert each["largest"] <= each["most"] <= 2 * each["largest"] < each["all"]
