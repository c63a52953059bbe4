"""Loading and saving under ZeRO-3: the numbers of the plain backend, and never a whole network on a rank."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.distributed import run_ranks
from tests.engine.backends.test_equality import several
from tests.engine.backends.tiny import OPTIM
from tests.plugins.architectures.vita_helpers import lively_policy, small_vita
from wavalign.engine.backends.base import AdamSettings, Backend, Placement, Precision
from wavalign.engine.backends.deepspeed import DeepSpeedBackend
from wavalign.engine.backends.partitioned import placement
from wavalign.engine.backends.plain import PlainBackend
from wavalign.engine.compile.lowering import deepspeed_config
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.engine.models.starting_weights import StartingWeights
from wavalign.engine.state.distributed import World
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import Role, TokenBatch
from wavalign.schema.runtime import EngineSection
from wavalign.storage.shards import ShardWriter
from wavalign.storage.tensors import save_weights

FROZEN = ("model.embed_tokens", "mtp_")


class Watch:
    """The most numbers of a network that had memory at once, looked at whenever something was placed or given."""

    def __init__(self) -> None:
        self.parameters: list[nn.Parameter] = []
        self.most = 0

    def look(self) -> None:
        self.most = max(self.most, sum(resident(each) for each in self.parameters))


def resident(parameter: nn.Parameter) -> int:
    """Numbers that this rank holds of a parameter: its data, and its part where it is partitioned."""
    part = getattr(parameter, "ds_tensor", None)
    return parameter.data.numel() + (0 if part is None else part.numel())


def config_of(world: World, precision: Precision) -> dict[str, Any]:
    config = deepspeed_config(
        EngineSection.model_validate({"type": "deepspeed", "zero": 3}),
        OPTIM,
        precision=precision,
        micro_batch=4 // world.size,
        accumulation=1,
        processes=world.size,
        device="cpu",
    )
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # everything here is small
    return config


def watched(real: Placement, watch: Watch) -> Placement:
    """`real`, looked at before and after it takes a parameter."""
    settle = real.settle

    def looked_at(parameter: nn.Parameter) -> None:
        watch.parameters.append(parameter)
        watch.look()
        settle(parameter)
        watch.look()

    real.settle = looked_at  # type: ignore[method-assign]
    return real


def build(kind: str, folder: Path, world: World, precision: Precision) -> tuple[Backend, Watch]:
    """A backend over the checkpoint in `folder`, two groups of it frozen."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as own:  # every rank writes a tokenizer
        architecture = small_vita(Path(own), num_mtp_layers=2, tie_embeddings=False)
    config = config_of(world, precision)
    place = placement(config, world) if kind == "zero3" else Placement(world.device)
    weights = StartingWeights(architecture, folder=str(folder / "model"), seed=0)
    policy: Policy = weights.policy(watched(place, watch))
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    module = ScoredPolicy(policy, architecture.tokens)
    if kind == "plain":
        settings = AdamSettings(OPTIM.betas, OPTIM.epsilon, OPTIM.weight_decay, OPTIM.max_grad_norm)
        return PlainBackend(module, policy=policy, optimizer=settings, precision=precision, ranks=world), watch
    heads = module.head_parameters()
    return DeepSpeedBackend(module, policy=policy, heads=heads, config=config, ranks=world), watch


def walked(backend: Backend, watch: Watch) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in backend.weights():
        watch.look()
        yield name, tensor


def train(world: World, kind: str, folder: str, precision: Precision = "float32") -> dict[str, Any]:
    """Three updates from the checkpoint, then the weights written by the first rank."""
    place = Path(folder)
    backend, watch = build(kind, place, world, precision)
    watch.look()
    constructed = watch.most
    losses, norms = [], []
    for step in range(3):
        ids = torch.randint(20, (4, 1, 16), generator=torch.Generator().manual_seed(step))
        own = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
        sources = torch.zeros_like(ids, dtype=torch.int8)
        sources[:, :, 12:] = 1
        roles = torch.full_like(sources, int(Role.TEXT))
        batch = TokenBatch(ids[own], roles[own], sources[own], torch.full((4 // world.size,), 16))
        select = torch.ones(batch.ids.shape, dtype=torch.bool)
        select[:, :, :8] = False
        backend.begin_update(1)
        loss = -backend.forward(batch, select, temperature=1.0).logprobs.sum() / (4 * 8)
        backend.backward(loss * backend.divisor)
        norms.append(backend.step(1e-2))
        losses.append(world.all_reduce_sum(loss.detach()).item())
    watch.most = 0
    out = place / f"{kind}-{world.size}-{precision}"
    writer = ShardWriter(out, 40_000)
    for name, tensor in walked(backend, watch):
        if world.is_first:
            writer.add(name, tensor)
    if world.is_first:
        writer.finish()
    world.barrier()
    with backend.full_parameters():
        total = sum(each.data.numel() for each in backend.policy.parameters())
        if world.is_first and kind == "zero3":
            resident_now = sum(each.data.numel() for each in watch.parameters)
            assert resident_now == total, "the watch sees whole parameters where they are whole"
    backend.close()
    return {"losses": losses, "norms": norms, "constructed": constructed, "saved": watch.most, "total": total}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small VITA with two multi-token heads."""
    place = tmp_path_factory.mktemp("partitioned")
    policy = lively_policy(small_vita(place, num_mtp_layers=2, tie_embeddings=False), scale=3.0)
    save_weights(policy.state_dict(), str(place / "model"), max_shard_bytes=50_000)
    return place


def loaded(place: Path) -> dict[str, Tensor]:
    return {name: x for file in place.glob("*.safetensors") for name, x in load_file(file).items()}


def test_partitioned_from_the_first_weight_to_the_last(folder: Path) -> None:
    (reference,) = run_ranks(several, 1, (train, ("plain", str(folder))))[0]
    kinds = (("zero3", "float32"), ("zero3", "bf16"), ("whole", "float32"), ("plain", "float32"))
    ranks = run_ranks(several, 2, *((train, (kind, str(folder), precision)) for kind, precision in kinds))
    start, wanted = loaded(folder / "model"), loaded(folder / "plain-1-float32")
    found = loaded(folder / "zero3-2-float32")
    assert len(list((folder / "zero3-2-float32").glob("*.safetensors"))) > 2
    assert found.keys() == wanted.keys() == start.keys()
    largest = max(x.numel() for x in start.values())
    for result, half, whole, _ in ranks:
        assert result["losses"] == whole["losses"], "read in parts or taken apart later: the same to the last bit"
        assert result["norms"] == whole["norms"]
        assert result["losses"] == pytest.approx(reference["losses"], rel=2e-6)
        assert result["norms"] == pytest.approx(reference["norms"], rel=2e-5)
        assert half["losses"] == pytest.approx(reference["losses"], rel=0.05)
        for each in (result, half):
            # Half of the network, the largest weight whole, and what partitions are padded by.
            for moment in ("constructed", "saved"):
                assert each[moment] <= each["total"] / 2 + largest + len(start), moment
                assert each[moment] < 0.8 * each["total"]
            assert each["constructed"] > each["total"] / 2 - 1
    assert reference["constructed"] == reference["total"], "the plain backend holds all of it"
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=0, atol=2e-5), name
        assert torch.equal(found[name], start[name]) == torch.equal(value, start[name]), name
        assert torch.equal(found[name], start[name]) or not name.startswith(FROZEN), name
    assert not torch.equal(found["lm_head.weight"], start["lm_head.weight"])
    half_weights = loaded(folder / "zero3-2-bf16")
    assert {x.dtype for x in half_weights.values()} == {torch.bfloat16}
    assert all(torch.equal(half_weights[name], start[name].bfloat16()) for name in start if name.startswith(FROZEN))
