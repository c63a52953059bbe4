"""DeepSpeed with ZeRO 0 to 3: the only module that knows it.

DeepSpeed averages over micro-batches and ranks (`divisor`) and skips an update whose gradient norm is not finite. It
also writes to the terminal in many places; all of them are silenced here. Its logger `LOGGER` stays, without a handler,
for those who want its words in a file.
"""

import atexit
import copy
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wavalign.engine.backends.base import (
    Backend,
    Placement,
    PolicyOutput,
    Ranks,
    autocast,
    beside,
    finite_norm,
    parameter_groups,
)
from wavalign.engine.backends.deepspeed_stretches import part_of, stretches
from wavalign.engine.backends.training_state import Holding, StoredState, Stretch
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import TokenBatch

LOGGER = "DeepSpeed"
_MAX_HEADS = 127
"""A head's index in a batch is an int8."""


def placement(config: Mapping[str, Any], ranks: Ranks) -> Placement:
    """Where the weights of a network to be trained by `config` are read to: whole, or at stage 3 in parts."""
    dtype = _dtype(config)
    if config["zero_optimization"]["stage"] == 3:
        return PartitionedPlacement(config, ranks, dtype)
    return Placement(ranks.device, dtype=dtype)


@final
class PartitionedPlacement(Placement):
    """Every rank keeps its part of each weight; whole is but the one that is being read."""

    def __init__(self, config: Mapping[str, Any], ranks: Ranks, dtype: torch.dtype) -> None:
        super().__init__(ranks.device, dtype=dtype)
        self._config = copy.deepcopy(dict(config))
        _join_group(ranks)
        with _hushed():
            self._library = _load(ranks.device)
            self._library.init_distributed(dist_init_required=False)  # it takes part in the group there is

    def settle(self, parameter: nn.Parameter) -> None:
        holder = nn.Module()  # the library partitions modules
        holder.register_parameter("weight", parameter)
        with _hushed():
            self._library.zero.Init(module=holder, config_dict_or_path=self._config, dtype=self.dtype)


@final
class DeepSpeedBackend(Backend):
    """One DeepSpeed engine; every rank calls every method alike."""

    def __init__(
        self,
        module: nn.Module,
        *,
        policy: Policy,
        heads: Sequence[nn.Parameter],
        config: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        """Train `module`, whose forward pass scores `policy`, as the complete dictionary `config` says.

        `heads` are the weights that the forward pass of `module` uses itself, outside the modules that own them.
        `module` must take `heads` (indices to walk through beyond those of its selection) in its forward pass.
        """
        super().__init__()
        self._policy, self._ranks = policy, ranks
        self._beside = beside(module, policy)
        self._named = dict(policy.named_parameters()) | self._beside
        for parameter in self._beside.values():
            # The library does not convert and move what stands beside weights that were partitioned while read.
            parameter.data = parameter.data.to(ranks.device, _dtype(config))
        self._stage = int(config["zero_optimization"]["stage"])
        self._offload = "offload_optimizer" in config["zero_optimization"]
        self._autocast = bool(config["torch_autocast"]["enabled"])
        self._micro_batch = int(config["train_micro_batch_size_per_gpu"])
        _join_group(ranks)
        with _hushed(), ranks.joint("its building"):
            self._library = _load(ranks.device)
            if self._stage == 3:
                for head in heads:
                    self._library.zero.register_external_parameter(module, head)
            decay = float(config["optimizer"]["params"]["weight_decay"])
            self._engine, *_ = self._library.initialize(
                model=module,
                model_parameters=parameter_groups(self._named.values(), decay, _dimensions),
                config=copy.deepcopy(dict(config)),
                dist_init_required=False,
            )
        _filter_warnings()
        self._whole = False

    @property
    def policy(self) -> Policy:
        return self._policy

    def forward(
        self, batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> PolicyOutput:
        heads = self._heads_of_all(batch, select) if self._stage else None
        with self._ranks.joint("a forward pass"):
            output = self._engine(batch, select, temperature=temperature, support=support, heads=heads)
        return PolicyOutput(*output)

    def _begin(self) -> None:
        # Of its batch size the engine reads only how many micro-batches that makes: it divides each loss by them, and
        # takes the mean over ranks.
        self._engine.set_train_batch_size(self._micro_batch * self._planned * self._ranks.size)
        self.divisor = float(self._planned * self._ranks.size)

    def _backward(self, loss: Tensor, *, first: bool, last: bool) -> None:
        if first:
            self._forget_gradients()
        with self._ranks.joint("a backward pass"):
            self._engine.set_gradient_accumulation_boundary(last)
            self._engine.backward(loss)
            if last and self._offload:
                # Takes along parameters that an earlier micro-batch reached and this one did not.
                self._engine.optimizer.finalize_gradient_accumulation_boundary()

    def _step(self, learning_rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        with self._ranks.joint("an update"):
            norm = self._checked_norm() if self._stage == 0 else None
            self._engine.step()
            return finite_norm(float(self._engine.get_global_grad_norm())) if norm is None else norm

    @property
    def beside(self) -> Mapping[str, Tensor]:
        return {name: parameter.data for name, parameter in self._beside.items()}

    def full_parameters(self) -> AbstractContextManager[None]:
        if self._stage == 3 and not self._whole:
            return self._gathered()
        return autocast(self._ranks.device, "bf16") if self._autocast else nullcontext()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._policy.state_dict(keep_vars=True).items():
            if self._stage == 3 and isinstance(tensor, nn.Parameter) and not self._whole:
                with self._library.zero.GatheredParameters([tensor]):
                    tensor.ds_active_sub_modules.clear()  # type: ignore[attr-defined]
                    yield name, tensor.data.to("cpu", copy=True) if self._ranks.rank == 0 else tensor.data
            else:
                yield name, tensor.data

    def _parts(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._named.items():
            if not parameter.requires_grad:
                continue
            if self._stage < 3:
                yield name, parameter.data
            else:
                yield name, part_of(parameter, self._ranks.rank)[1]

    def holding(self) -> Holding:
        """Of trained weights this rank's stretches; the first rank also what is whole on all of them."""
        rank, optimizer = self._ranks.rank, self._engine.optimizer
        holding = Holding(f"training-{rank:05d}.safetensors")
        if rank == 0 or self._stage:
            for found in self._stretches():
                holding.add(found, optimizer.state if self._stage == 0 else optimizer.optimizer.state)
        for name, tensor in self._still().items():
            if _is_parted(tensor):
                start, part = part_of(tensor, rank)
                if part.numel():
                    holding.tensors[f"weights/{name}"] = part
                    holding.places[f"weights/{name}"] = (start, list(_shape(tensor)))
            elif rank == 0:
                holding.tensors[f"weights/{name}"] = tensor.data
        if rank == 0:
            holding.extra |= {name: value for name, value in self._scaler().items() if isinstance(value, int | float)}
        return holding

    def _restore(self, stored: StoredState) -> None:
        optimizer, still = self._engine.optimizer, self._still()
        stored.check([*still, *(name for name, each in self._named.items() if each.requires_grad)])
        for name, tensor in still.items():
            start, held = part_of(tensor, self._ranks.rank) if _is_parted(tensor) else (0, tensor.data)
            if held.numel():
                stored.restore(name, held, start)
        for index, found in enumerate(self._stretches()):
            stored.fill(found, optimizer if self._stage == 0 else optimizer.optimizer)
            if self._stage == 3:
                optimizer._reassign_or_swap_out_partitioned_parameters(index)
        if self._stage in (1, 2):
            optimizer._hp_optimizer_states_linked = False  # the library links them again at the next step
            for name, parameter in self._named.items():
                if parameter.requires_grad:
                    parameter.data.copy_(stored.read("weights", name).view(parameter.shape))
        if self._stage == 3:
            with self._ranks.joint("a checkpoint"):
                optimizer.checkpoint_event_epilogue()  # what stays whole is gathered again
        scaler = self._scaler()
        scaler.update({name: type(scaler[name])(value) for name, value in stored.extra.items() if name in scaler})

    def _stretches(self) -> Iterator[list[Stretch]]:
        return stretches(self._engine.optimizer, self._named, stage=self._stage, rank=self._ranks.rank)

    def _still(self) -> dict[str, Tensor]:
        """Every frozen weight and lasting buffer [*] by name."""
        lasting = self._policy.state_dict(keep_vars=True)
        frozen: dict[str, Tensor] = {name: each for name, each in self._named.items() if not each.requires_grad}
        return frozen | {name: buffer for name, buffer in self._policy.named_buffers() if name in lasting}

    def _scaler(self) -> dict[str, Any]:
        """What a loss scaler remembers; empty where there is none."""
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        return vars(scaler) if scaler is not None and scaler.dynamic else {}

    def close(self) -> None:
        self._engine.destroy()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _heads_of_all(self, batch: TokenBatch, select: Tensor) -> frozenset[int]:
        """Heads that any rank's `select` (bool [B, S, T]) comes from: gathering a parameter takes every rank."""
        used = torch.zeros(_MAX_HEADS + 1, dtype=torch.int64, device=self._ranks.device)
        sources, chosen = (each.flatten().to(used.device, torch.int64) for each in (batch.sources, select))
        used.index_add_(0, sources, chosen)
        self._ranks.sum_(used)
        return frozenset(head for head, count in enumerate(used.tolist()) if count)

    def _forget_gradients(self) -> None:
        """Clear the last step's gradients at the start of a step.

        DeepSpeed overwrites them when a parameter's gradient of the first micro-batch comes. For a parameter that this
        micro-batch, or the whole step, does not reach it would go on with the old ones: another head, a codec branch.
        """
        optimizer = self._engine.optimizer
        stale: list[Tensor | None] = []
        if self._stage == 3:
            stale.append(optimizer.grad_partitions_flat_buffer)
        if self._offload:
            if self._stage == 3:
                masters = optimizer.fp32_partitioned_groups_flat
            else:
                masters = optimizer.single_partition_of_fp32_groups
                stale += optimizer.accumulated_grads_in_cpu.values()
            stale += [master.grad for master in masters]
        for gradients in stale:
            if gradients is not None:
                gradients.zero_()

    def _checked_norm(self) -> float:
        """Norm of the whole gradients at stage 0, where the engine keeps none and would update by NaN."""
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
        if not torch.isfinite(norm):
            self._engine.zero_grad()
        return finite_norm(float(norm))

    @contextmanager
    def _gathered(self) -> Iterator[None]:
        """Whole parameters, without the hooks that would take them apart again after each module."""
        offload = self._engine.optimizer.parameter_offload
        with self._library.zero.GatheredParameters(list(self._named.values())):
            for parameter in self._named.values():
                parameter.ds_active_sub_modules.clear()  # type: ignore[attr-defined]
            for hook in (*offload.forward_hooks, *offload.backward_hooks):
                hook.remove()
            offload.forward_hooks, offload.backward_hooks = [], []
            self._whole = True
            try:
                yield
            finally:
                self._whole = False
                offload._register_deepspeed_module(offload.module)


def _dtype(config: Mapping[str, Any]) -> torch.dtype:
    """What weights are held in."""
    return torch.bfloat16 if config["bf16"]["enabled"] else torch.float32


def _shape(parameter: Tensor) -> Sequence[int]:
    """Of the whole parameter [*]; what is left in the place of a partitioned one has one dimension."""
    shape: Sequence[int] = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _dimensions(parameter: nn.Parameter) -> int:
    return len(_shape(parameter))


def _is_parted(tensor: Tensor) -> bool:
    """Whether it is a weight [*] that every rank has its part of."""
    return hasattr(tensor, "ds_tensor")


def _join_group(ranks: Ranks) -> None:
    """DeepSpeed wants a process group and its variables also where there is only one process."""
    for name, value in (("RANK", ranks.rank), ("WORLD_SIZE", ranks.size), ("LOCAL_RANK", ranks.device.index or 0)):
        os.environ.setdefault(name, str(value))
    if not dist.is_initialized():
        backend = "gloo" if ranks.device.type == "cpu" else "cpu:gloo,cuda:nccl"
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size)
        # DeepSpeed keeps groups of its own for the life of the process: the next run in it must find the same.
        atexit.register(dist.destroy_process_group)


def _load(device: torch.device) -> Any:
    """The library, told what device it runs on, without a compiled helper that only its inference uses."""
    os.environ["DS_ACCELERATOR"] = device.type
    # Here and not above: the import takes seconds, looks at the variable, and most runs do without it.
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logger = logging.getLogger(LOGGER)
    for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
        logger.removeHandler(handler)
    logger.addHandler(logging.NullHandler())
    return deepspeed


def _filter_warnings() -> None:
    """What the library's steps would warn of: its own habits, nothing a user could change."""
    warnings.filterwarnings("ignore", module=r"deepspeed(\.|$)")
    warnings.filterwarnings("ignore", message=r".torch\.distributed\.\w+. is deprecated", category=FutureWarning)


@contextmanager
def _hushed() -> Iterator[None]:
    """Nothing written inside reaches the terminal, be it by Python, by a library or by a child process."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with open(os.devnull, "w", encoding="utf-8") as null, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
            with redirect_stdout(null), redirect_stderr(null):
                yield
    finally:
        for descriptor, number in zip(saved, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
