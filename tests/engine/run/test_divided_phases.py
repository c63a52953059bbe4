"""How much of a network a rank holds whole in every phase of a run under ZeRO 3, on two ranks."""

import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from tests.distributed import run_ranks
from tests.engine.run.test_several_processes import TWO, part
from tests.toy.compiled import Change, compiled, put
from wavalign.engine.backends.deepspeed import DeepSpeedBackend
from wavalign.engine.backends.partitioned import PartitionedPlacement
from wavalign.engine.run import trainer
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.evaluation import Evaluator
from wavalign.engine.state.distributed import World
from wavalign.engine.step import executor
from wavalign.storage.shards import ShardWriter

LAYERS = 6
LIVE = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_live_parameters": 1,
    "stage3_max_reuse_distance": 1,
    "stage3_prefetch_bucket_size": 1,
}
"""Nothing stays whole longer than it is used."""
NETWORK: tuple[Change, ...] = (
    put("model.architecture.num_layers", LAYERS),
    put("model.architecture.tie_embeddings", False),
    put("runtime.engine", {"type": "deepspeed", "zero": 3, "options": LIVE}),
    put("steps", 1),
    put("runtime.log_rollouts_every", 0),
)
LORA = put("model.adapter", {"type": "dora", "rank": 2, "groups": ["trunk"], "also_train": ["embed"]})


class Watch:
    """Numbers of settled weights that are whole at once, by phase; the networks there are."""

    def __init__(self) -> None:
        self.seen: weakref.WeakSet[nn.Parameter] = weakref.WeakSet()
        self.most: dict[str, int] = defaultdict(int)
        self.gathered: dict[str, int] = defaultdict(int)
        """Bytes that were put together, by phase."""
        self._own = threading.local()

    @property
    def phase(self) -> str:
        """Of this thread: operators of several may run at once."""
        return getattr(self._own, "phase", "building")

    @phase.setter
    def phase(self, phase: str) -> None:
        self._own.phase = phase

    def look(self, *_: object) -> None:
        whole = sum(each.data.numel() for each in self.seen if hasattr(each, "ds_tensor"))
        self.most[self.phase] = max(self.most[self.phase], whole)

    def counting(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Tensor, **named: Any) -> Any:
            tensors = [each for each in (*given, *named.values()) if isinstance(each, Tensor)]
            self.gathered[self.phase] += max(each.numel() * each.element_size() for each in tensors)
            return own(*given, **named)

        return call

    def within(self, phase: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            before, self.phase = self.phase, phase
            try:
                return own(*given, **named)
            finally:
                self.look()
                self.phase = before

        return call


def watched(world: World, plan: str, folder: str) -> dict[str, Any]:
    """Run `plan`; the most numbers that were whole at once in every phase, and those of one network."""
    watch, sizes = Watch(), list[int]()
    settle, policy, run = PartitionedPlacement.settle, Builder.policy, executor._run

    def settled(self: PartitionedPlacement, parameter: nn.Parameter) -> None:
        watch.seen.add(parameter)
        settle(self, parameter)
        watch.look()

    def made(self: Builder, *given: Any) -> Any:
        found = policy(self, *given)
        sizes.append(sum(self_size(each) for each in found.parameters()))
        return found

    def self_size(parameter: nn.Parameter) -> int:
        return int(parameter.ds_numel)  # type: ignore[attr-defined]

    def operator(each: Any, *given: Any) -> Any:
        return watch.within(each.plan.function, run)(each, *given)

    gather = "all_gather_into_tensor"
    setattr(dist, gather, watch.counting(getattr(dist, gather)))
    PartitionedPlacement.settle = settled  # type: ignore[method-assign]
    Builder.policy = made  # type: ignore[method-assign, assignment]
    executor._run = operator  # type: ignore[assignment]
    for owner, method, phase in (
        (Evaluator, "_answered", "evaluation"),
        (DeepSpeedBackend, "save", "checkpoint"),
        (trainer, "leave_model", "export"),
    ):
        setattr(owner, method, watch.within(phase, getattr(owner, method)))
    ShardWriter.add = _looking(ShardWriter.add, watch)  # type: ignore[method-assign]
    register_module_forward_hook(watch.look)
    end = part(world, plan, folder, False)
    assert end["type"] == "", end
    return {"most": dict(watch.most), "all": sizes[0], "gathered": dict(watch.gathered)}


def _looking(own: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        watch.look()
        return own(*given)

    return call


@pytest.mark.parametrize("case", ["full", pytest.param("adapter", marks=pytest.mark.slow)])
def test_what_is_whole_and_when(tmp_path: Path, case: str) -> None:
    """The whole network is there to sample and to evaluate, and never else: layers come and go."""
    (tmp_path / "run").mkdir()
    plan = compiled(tmp_path, *TWO, *NETWORK, *((LORA,) if case == "adapter" else ()))
    for rank in run_ranks(watched, 2, plan.to_json(), str(tmp_path / "run")):
        shares = {phase: most / rank["all"] for phase, most in rank["most"].items()}
        assert rank["gathered"]["rollout"] == pytest.approx(4 * rank["all"], rel=0.01), (
            "once, for all answers of a step"
        )
        for phase in ("rollout", "evaluation"):
            assert shares.pop(phase) == pytest.approx(1, abs=0.01), phase
        assert {"building", "reference", "forward", "backward", "update", "checkpoint", "export"} <= set(shares)
        assert shares["reference"] > 0 and shares["forward"] > 0, "the watch sees layers that are in use"
        assert shares["checkpoint"] == shares["update"] == 0
        for phase, share in shares.items():
            assert share < 0.45, phase
