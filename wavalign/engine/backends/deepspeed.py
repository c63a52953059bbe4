"""DeepSpeed with ZeRO 0 to 3, as a backend.

DeepSpeed averages over micro-batches and ranks (`divisor`) and skips an update whose gradient norm is not finite.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, final

import torch
from torch import Tensor, nn

from wavalign.engine.backends.base import (
    Backend,
    PolicyOutput,
    Precision,
    Ranks,
    autocast,
    beside,
    finite_norm,
    parameter_groups,
)
from wavalign.engine.backends.deepspeed_library import filter_warnings, hushed, join_group, load_library
from wavalign.engine.backends.deepspeed_stretches import is_parted, stretch_of, stretches, unmoved
from wavalign.engine.backends.loss_scale import LossScale, scaler_numbers, scaler_state
from wavalign.engine.backends.partitioned import dimensions_of, dtype_of, exchanged, heads_of_all, shape_of
from wavalign.engine.backends.training_state import Holding, StoredState, Stretch
from wavalign.errors import PreflightError
from wavalign.plugins.api import Policy
from wavalign.plugins.batch import TokenBatch


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
            parameter.data = parameter.data.to(ranks.device, dtype_of(config))
        self._stage = int(config["zero_optimization"]["stage"])
        self._offload = "offload_optimizer" in config["zero_optimization"]
        self._autocast = _autocast_precision(config)
        self._micro_batch = int(config["train_micro_batch_size_per_gpu"])
        join_group(ranks)
        with hushed(), ranks.joint("its building"):
            self._library = load_library(ranks.device)
            if config["fp16"]["enabled"] and not self._library.accelerator.get_accelerator().is_fp16_supported():
                hint = "take runtime.precision: float32 or bf16 here, or fp16 with the plain engine or stage 0"
                raise PreflightError("DeepSpeed's stages 1 to 3 do not compute in fp16 on this device", hint=hint)
            if self._stage == 3:
                for head in heads:
                    self._library.zero.register_external_parameter(module, head)
            decay = float(config["optimizer"]["params"]["weight_decay"])
            self._engine, *_ = self._library.initialize(
                model=module,
                model_parameters=parameter_groups(self._named.values(), decay, dimensions_of),
                config=copy.deepcopy(dict(config)),
                dist_init_required=False,
            )
        filter_warnings()
        self._whole = False
        self._fp16 = bool(config["fp16"]["enabled"])
        self._scale = LossScale(ranks.device) if self._autocast == "fp16" else None
        if self._fp16:
            # Below the least scale it is said as what it is, not by an exception without a class.
            self._engine.optimizer.loss_scaler.raise_error_at_min_scale = False

    @property
    def policy(self) -> Policy:
        return self._policy

    def forward(
        self, batch: TokenBatch, select: Tensor, *, temperature: float | Tensor, support: Tensor | None = None
    ) -> PolicyOutput:
        heads = heads_of_all(self._ranks, batch, select) if self._stage else None
        half = autocast(self._ranks.device, "fp16") if self._autocast == "fp16" else nullcontext()
        with self._ranks.joint("a forward pass"), half:
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
            self._engine.backward(loss if self._scale is None else self._scale.scaled(loss))
            if last and self._offload:
                # Takes along parameters that an earlier micro-batch reached and this one did not.
                self._engine.optimizer.finalize_gradient_accumulation_boundary()

    def _step(self, learning_rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        scale = self.loss_scale
        with self._ranks.joint("an update"):
            if self._scale is not None:
                self._scale.unscale(self._engine.optimizer)
            norm = self._checked_norm(scale) if self._stage == 0 else None
            self._engine.step()
            self._forget_skipped()
            if norm is None and self._fp16 and self._engine.optimizer.overflow:
                return finite_norm(math.inf, scale)  # the norm that it gives is that of an earlier update
            return finite_norm(float(self._engine.get_global_grad_norm())) if norm is None else norm

    @property
    def loss_scale(self) -> float | None:
        if self._fp16:
            return float(self._engine.optimizer.loss_scaler.cur_scale)
        return None if self._scale is None else self._scale.value

    @property
    def beside(self) -> Mapping[str, Tensor]:
        return {name: parameter.data for name, parameter in self._beside.items()}

    def full_parameters(self) -> AbstractContextManager[None]:
        if self._stage == 3 and not self._whole:
            return self._gathered()
        return autocast(self._ranks.device, self._autocast)

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
        if self._stage < 3 or self._whole:
            return self.full_parameters()
        return self._alone(parameters)

    def exchanged(self, kept: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        return exchanged(self._named, kept)

    @contextmanager
    def _alone(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Some parameters whole, outside any pass."""
        with self._library.zero.GatheredParameters(list(parameters)):
            for parameter in parameters:
                parameter.ds_active_sub_modules.clear()  # type: ignore[attr-defined]
            yield

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._policy.state_dict(keep_vars=True).items():
            if self._stage == 3 and isinstance(tensor, nn.Parameter) and not self._whole:
                with self._alone([tensor]):
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
                yield name, stretch_of(parameter, self._ranks.rank)[1]

    def holding(self) -> Holding:
        """Of trained weights this rank's stretches; the first rank also what is whole on all of them."""
        rank, optimizer = self._ranks.rank, self._engine.optimizer
        holding = Holding(f"training-{rank:05d}.safetensors")
        if rank == 0 or self._stage:
            for found in self._stretches():
                holding.add(found, optimizer.state if self._stage == 0 else optimizer.optimizer.state)
        for name, tensor in unmoved(self._policy, self._named).items():
            if is_parted(tensor):
                start, part = stretch_of(tensor, rank)
                if part.numel():
                    holding.tensors[f"weights/{name}"] = part
                    holding.places[f"weights/{name}"] = (start, list(shape_of(tensor)))
            elif rank == 0:
                holding.tensors[f"weights/{name}"] = tensor.data
        if rank == 0:
            holding.extra |= self._scale.numbers() if self._scale is not None else scaler_numbers(self._scaler())
        return holding

    def _restore(self, stored: StoredState) -> None:
        optimizer, still = self._engine.optimizer, unmoved(self._policy, self._named)
        stored.check([*still, *(name for name, each in self._named.items() if each.requires_grad)])
        for name, tensor in still.items():
            start, held = stretch_of(tensor, self._ranks.rank) if is_parted(tensor) else (0, tensor.data)
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
        if self._scale is not None:
            self._scale.take(stored.extra)
        self._scaler().update(scaler_state(self._scaler(), stored.extra))

    def _stretches(self) -> Iterator[list[Stretch]]:
        return stretches(self._engine.optimizer, self._named, stage=self._stage, rank=self._ranks.rank)

    def _scaler(self) -> dict[str, Any]:
        """What a loss scaler remembers; empty where there is none."""
        scaler = getattr(self._engine.optimizer, "loss_scaler", None)
        return vars(scaler) if scaler is not None and scaler.dynamic else {}

    def close(self) -> None:
        self._engine.destroy()

    # --- inside -------------------------------------------------------------------------------------------------------

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

    def _forget_skipped(self) -> None:
        """Free the sums of a skipped update: in half precision, offloading, DeepSpeed would add to them."""
        optimizer = self._engine.optimizer
        if self._offload and self._stage < 3 and optimizer.overflow:
            for group in optimizer.averaged_gradients:
                optimizer.averaged_gradients[group] = None

    def _checked_norm(self, scale: float | None) -> float:
        """Norm of the whole gradients at stage 0, where the engine keeps none and would update by NaN."""
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
        if not torch.isfinite(norm):
            self._engine.zero_grad()
        return finite_norm(float(norm), scale)

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


def _autocast_precision(config: Mapping[str, Any]) -> Precision:
    """What is computed in from float32 weights."""
    if config["torch_autocast"]["dtype"] == "float16":
        return "fp16"
    return "bf16" if config["torch_autocast"]["enabled"] else "float32"
