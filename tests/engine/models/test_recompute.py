"""Recomputed layers: the same numbers, less kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.backends import test_vita
from tests.engine.compile.test_memory import saved_bytes
from tests.plugins.architectures.kimi_helpers import small_kimi
from tests.plugins.architectures.vita_helpers import small_vita
from tests.toy.compiled import compiled, put
from tests.toy.live import train
from wavalign.engine.models.recompute import recompute_layers
from wavalign.engine.state.distributed import World
from wavalign.errors import PluginError


def test_a_run_is_the_same_to_the_last_bit(tmp_path: Path) -> None:
    adapter = put("model.adapter", {"type": "lora", "rank": 4, "dropout": 0.2})
    for changes in ((), (adapter,)):
        wanted = train(compiled(tmp_path, *changes))
        found = train(compiled(tmp_path, *changes, put("runtime.gradient_checkpointing", True)))
        assert found[0] == wanted[0]
        assert all(torch.equal(found[1][name], weight) for name, weight in wanted[1].items())


@pytest.mark.parametrize("make", [small_vita, small_kimi])
def test_less_is_kept(tmp_path: Path, make: Any) -> None:
    policy = make(tmp_path, num_layers=4).build_policy(seed=0)
    before = saved_bytes(policy, tokens=64) if make is small_vita else 0
    recompute_layers(policy)
    layers = [module for module in policy.modules() if type(module).__name__ == "Qwen2DecoderLayer"]
    assert all(layer.gradient_checkpointing for layer in layers)
    assert len(layers) >= 4
    if before:
        assert saved_bytes(policy, tokens=64) < before / 5
        assert saved_bytes(policy.eval(), tokens=64) == before


def test_a_network_without_such_layers_is_told(tmp_path: Path) -> None:
    from tests.engine.backends.tiny import TinyPolicy

    with pytest.raises(PluginError, match="TinyPolicy has no layers that can be recomputed"):
        recompute_layers(TinyPolicy())


def recomputed(world: World, kind: str) -> list[Any]:
    """Losses, norms and weights on one rank, without and with."""
    plain = test_vita.train(world, kind, "float32")
    build = test_vita.build

    def changed(*arguments: Any) -> Any:
        backend, count = build(*arguments)
        recompute_layers(backend.policy)
        return backend, count

    setattr(test_vita, "build", changed)  # noqa: B010 - mypy refuses the plain assignment
    return [plain, test_vita.train(world, kind, "float32")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_sharded_parameters(kind: str) -> None:
    for wanted, found in run_ranks(recomputed, 2, kind):
        assert found["losses"] == wanted["losses"]
        assert found["norms"] == wanted["norms"]
        assert all(torch.equal(found["weights"][name], weight) for name, weight in wanted["weights"].items())
