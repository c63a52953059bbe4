"""What a stage starts from: read without drawing, to where it belongs, the same as before it was written."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.plugins.architectures.kimi_helpers import small_kimi
from tests.plugins.architectures.vita_helpers import small_vita
from wavalign.engine.backends.base import Placement
from wavalign.engine.models.starting_weights import StartingWeights
from wavalign.errors import CheckpointError, PluginError
from wavalign.plugins.api import Architecture, ModelSource
from wavalign.storage.tensors import save_weights

CPU = torch.device("cpu")


def checkpoint(folder: Path, architecture: Architecture, dtype: torch.dtype) -> str:
    policy = architecture.build_policy(seed=9)
    save_weights({name: x.to(dtype) for name, x in policy.state_dict().items()}, str(folder / "model"))
    return str(folder / "model")


@pytest.mark.parametrize("make", [small_vita, small_kimi], ids=["vita", "kimi"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_a_checkpoint_gives_the_network_it_was_made_of(tmp_path: Path, make: object, dtype: torch.dtype) -> None:
    assert callable(make)
    architecture = make(tmp_path)
    wanted = architecture.build_policy(seed=9)
    folder = checkpoint(tmp_path, architecture, dtype)
    before = torch.random.get_rng_state()
    policy = StartingWeights(architecture, folder=folder, seed=1).policy(Placement(CPU))
    assert torch.equal(torch.random.get_rng_state(), before), "nothing is drawn"
    for name, parameter in wanted.named_parameters():
        found = policy.get_parameter(name)
        assert found.dtype == torch.float32 and found.requires_grad
        assert torch.equal(found, parameter.to(dtype).float()), name
    buffers = dict(wanted.named_buffers())
    assert buffers, "rotary frequencies are computed, not stored"
    for name, buffer in policy.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert policy.get_parameter("model.embed_tokens.weight").is_leaf


def test_nothing_is_taken_before_it_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more weights have memory than were placed, at any time."""
    architecture = small_vita(tmp_path)
    folder = checkpoint(tmp_path, architecture, torch.float32)
    settled: list[int] = []

    class Watching(Placement):
        def settle(self, parameter: nn.Parameter) -> None:
            settled.append(parameter.numel())

    def drawn(*arguments: object, **named: object) -> None:
        raise AssertionError("weights are drawn")

    monkeypatch.setattr(type(architecture), "build_policy", drawn)
    policy = StartingWeights(architecture, folder=folder, seed=1).policy(Watching(CPU))
    assert sum(settled) == sum(x.numel() for x in policy.parameters())


def test_precision_and_device_are_the_backends(tmp_path: Path) -> None:
    architecture = small_vita(tmp_path)
    weights = StartingWeights(architecture, folder=checkpoint(tmp_path, architecture, torch.float32), seed=1)
    half = weights.policy(Placement(CPU, dtype=torch.bfloat16))
    assert {x.dtype for x in half.parameters()} == {torch.bfloat16}
    assert {x.dtype for x in half.buffers()} == {torch.float32}, "rotary frequencies stay exact"
    drawn = StartingWeights(architecture, folder=None, seed=1).policy(Placement(CPU, dtype=torch.bfloat16))
    whole = architecture.build_policy(seed=1)
    assert all(torch.equal(x, whole.get_parameter(name).bfloat16()) for name, x in drawn.named_parameters())


@pytest.mark.parametrize("stored", [True, False], ids=["checkpoint", "random"])
def test_every_network_is_one_of_its_own_with_equal_weights(tmp_path: Path, stored: bool) -> None:
    architecture = small_kimi(tmp_path)
    folder = checkpoint(tmp_path, architecture, torch.bfloat16) if stored else None
    weights = StartingWeights(architecture, folder=folder, seed=4)
    policy, reference = weights.policy(Placement(CPU)), weights.policy(Placement(CPU))
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, reference.get_parameter(name))
        assert parameter.data_ptr() != reference.get_parameter(name).data_ptr()
    with torch.no_grad():
        policy.get_parameter("lm_head.weight").add_(1)
    assert not torch.equal(policy.get_parameter("lm_head.weight"), reference.get_parameter("lm_head.weight"))


def test_a_checkpoint_that_does_not_fit_names_every_tensor(tmp_path: Path) -> None:
    architecture = small_vita(tmp_path)
    folder = checkpoint(tmp_path, small_vita(tmp_path, hidden_size=64), torch.float32)
    with pytest.raises(CheckpointError) as caught:
        StartingWeights(architecture, folder=folder, seed=1).policy(Placement(CPU))
    assert "shape: model.norm.weight is [64], wanted [32]" in caught.value.message


class Odd(nn.Module):
    """A weight in two places, a stored buffer, a computed one, integers."""

    def __init__(self, *, forgetful: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("stored", torch.empty(2))
        self.register_buffer("count", torch.empty((), dtype=torch.int64))
        made = torch.empty(3) if forgetful else torch.arange(3.0)
        self.register_buffer("computed", made, persistent=False)


class OddArchitecture:
    """As much of an architecture as loading asks for."""

    ignored_keys: tuple[str, ...] = ()

    def __init__(self, forgetful: bool) -> None:
        self.forgetful, self.source = forgetful, ModelSource(None, None, None)

    def empty_policy(self) -> Odd:
        return Odd(forgetful=self.forgetful)


def odd(folder: Path, *, forgetful: bool) -> Odd:
    weight = torch.arange(9.0).reshape(3, 3)
    tensors: dict[str, Tensor] = {"first.weight": weight, "second.weight": weight.clone()}
    save_weights({**tensors, "stored": torch.tensor([1.0, 2.0]), "count": torch.tensor(7)}, str(folder))
    weights = StartingWeights(OddArchitecture(forgetful), folder=str(folder), seed=0)  # type: ignore[arg-type]
    policy = weights.policy(Placement(CPU, dtype=torch.bfloat16))
    assert isinstance(policy, Odd)
    return policy


def test_tied_weights_buffers_and_integers(tmp_path: Path) -> None:
    policy = odd(tmp_path, forgetful=False)
    assert policy.first.weight is policy.second.weight
    assert policy.first.weight.tolist() == torch.arange(9.0).reshape(3, 3).tolist()
    found = copy.copy(dict(policy.named_buffers()))
    assert found["stored"].tolist() == [1.0, 2.0]
    assert (found["count"].item(), found["count"].dtype) == (7, torch.int64)
    assert found["computed"].tolist() == [0.0, 1.0, 2.0]
    assert set(policy.state_dict()) == {"first.weight", "second.weight", "stored", "count"}


def test_a_buffer_that_nobody_fills_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="buffer computed"):
        odd(tmp_path, forgetful=True)
