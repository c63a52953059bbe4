"""A point of the benchmark, and what measuring it gives."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, final

import torch

from wavalign.engine.state.peaks import forget_highest, highest

CPU = torch.device("cpu")

Contender = Literal["ours", "trl", "research"]
CONTENDERS: tuple[Contender, ...] = ("ours", "trl", "research")
SIZES: dict[str, dict[str, int]] = {
    "T": {"num_layers": 2, "hidden_size": 64, "intermediate_size": 176, "num_heads": 4, "num_key_value_heads": 2},
    "S": {"num_layers": 4, "hidden_size": 256, "intermediate_size": 688, "num_heads": 8, "num_key_value_heads": 4},
}
"""`T` and `S`: two Qwen2 networks by the names of `VitaSizes`."""


def plain_settings(folder: Path, log_every: int) -> dict[str, Any]:
    """What TRL's trainers are told alike: our optimiser, float32 on the CPU, and nothing beside the training itself."""
    return {
        "output_dir": str(folder),
        "lr_scheduler_type": "constant",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_epsilon": EPSILON,
        "weight_decay": 0.0,
        "max_grad_norm": MAX_NORM,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "model_init_kwargs": {"dtype": "float32"},
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": log_every,
        "save_strategy": "no",
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


@final
@dataclass(frozen=True, slots=True)
class Point:
    """Everything that two contenders must share."""

    size: str
    vocabulary: int
    density: float
    """Share of a completion's tokens that the loss sees, the text tokens."""
    prompts: int = 4
    group_size: int = 4
    prompt_length: int = 64
    completion_length: int = 64
    ragged: bool = False
    """Prompts of different lengths, completions of a half to the whole of `completion_length`."""
    tied: bool = True
    """The embedding is the output projection."""
    loss_type: str = "grpo"
    """As TRL spells it; see `AGGREGATIONS`."""
    beta: float = 0.04
    """Coefficient of the divergence to the starting weights; 0 loads no reference."""
    learning_rate: float = 1e-4
    sampling: bool = False
    """Sample the completions instead of replaying frozen ones."""
    warm_up: int = 3
    steps: int = 4
    """Measured steps, after those of the warm-up."""
    threads: int = 1
    epochs: int = 1
    """Times that the rows of a step are learned from."""
    mini_batches: int = 1
    """Updates an epoch."""

    @property
    def total_steps(self) -> int:
        return self.warm_up + self.steps

    @property
    def updates(self) -> int:
        """Of a step."""
        return self.epochs * self.mini_batches

    @property
    def rows(self) -> int:
        return self.prompts * self.group_size

    def world(self) -> tuple[Any, ...]:
        """What the files on disk depend on."""
        lengths = (self.prompts, self.group_size, self.prompt_length, self.completion_length, self.ragged)
        return (self.size, self.vocabulary, self.density, self.tied, *lengths)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        return cls(**content)


AGGREGATIONS = {"grpo": "sequence", "bnpo": "token", "dapo": "token", "dr_grpo": "fixed"}
"""TRL's loss types and what our recipes call their means; `dapo` and `bnpo` differ only across micro-batches."""
CLIP = 0.2
BETAS, EPSILON, MAX_NORM, ADVANTAGE_EPSILON = (0.9, 0.999), 1e-8, 1.0, 1e-4


def reward_of(ids: list[int]) -> float:
    """A reward in [0, 1) that both frameworks compute from nothing but a completion's ids."""
    return sum(ids) % 97 / 97


class Timed(Protocol):
    """What a stopwatch reads of a point."""

    @property
    def warm_up(self) -> int:
        """Steps before those that are measured."""

    @property
    def total_steps(self) -> int:
        """All of them."""


@final
@dataclass(slots=True)
class Measured:
    """What one process saw of one contender."""

    wall: list[float] = field(default_factory=list)
    """Seconds of each measured step."""
    cpu: list[float] = field(default_factory=list)
    """Seconds of processor time, all threads."""
    losses: list[float] = field(default_factory=list)
    """Of all steps, the warm-up's among them."""
    grad_norms: list[float] = field(default_factory=list)
    new_tokens: list[float] = field(default_factory=list)
    """Mean length of the completions of a step."""
    peak: int = 0
    """Bytes: the highest resident memory from the first step on."""
    before: int = 0
    """Bytes: resident memory before the first step."""


@final
class Stopwatch:
    """Called after every step: stamps time, and memory at the beginning and the end."""

    def __init__(self, point: Timed, measured: Measured) -> None:
        self._warm_up, self._last, self.measured, self._step = point.warm_up, point.total_steps, measured, 0
        self._wall = self._cpu = 0.0

    def begin(self) -> None:
        """The first step is about to begin."""
        self.measured.before = resident("VmRSS")
        forget_highest(CPU)
        self._stamp()

    def tick(self) -> None:
        """A step is over."""
        self._step += 1
        if self._step > self._warm_up:
            self.measured.wall.append(time.perf_counter() - self._wall)
            self.measured.cpu.append(time.process_time() - self._cpu)
        if self._step == self._last:
            self.measured.peak = highest(CPU)
        self._stamp()

    def _stamp(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()


def resident(field_name: str) -> int:
    """Bytes of a field of /proc/self/status, as `VmRSS`, what this process holds now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{field_name}:")[1].split()[0]) * 1024
