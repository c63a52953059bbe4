"""Where and how a run executes; nothing here changes what is learned, except `precision`."""

from typing import Annotated, Literal, final

from pydantic import Field

from wavalign.schema.base import MadePath, Section
from wavalign.schema.bounds import Steps
from wavalign.schema.clips import ClipLimits
from wavalign.schema.component import Component
from wavalign.schema.evaluation import Watched

_Elements = Annotated[int, Field(ge=1, le=10**12)]


@final
class ZeroOptions(Section):
    """Options of DeepSpeed's own that change no result, by its names; omitted, those that the plan chooses."""

    reduce_bucket_size: _Elements | None = None
    """Elements of gradients that are sent at once (stages 1 to 3): less is less memory."""
    allgather_bucket_size: _Elements | None = None
    """Elements of updated weights that are gathered at once (stages 1 and 2)."""
    overlap_comm: bool | None = None
    """Send gradients while the backward pass goes on (stages 1 to 3): two buckets in place of one."""
    sub_group_size: _Elements | None = None
    """Elements that the optimiser updates at once (stage 3)."""
    stage3_prefetch_bucket_size: _Elements | None = None
    """Elements that are gathered ahead of their use."""
    stage3_param_persistence_threshold: Annotated[int, Field(ge=0, le=10**12)] | None = None
    """Weights of up to so many elements stay whole."""
    stage3_max_live_parameters: _Elements | None = None
    """Elements that are left whole at a time."""
    stage3_max_reuse_distance: _Elements | None = None
    """Weights that are used again within so many elements stay whole."""

    @property
    def given(self) -> dict[str, int | bool]:
        """Those that are stated."""
        return self.model_dump(exclude_none=True)


@final
class EngineSection(Section):
    """The training backend."""

    type: Literal["plain", "deepspeed"] = "plain"
    """`plain` is PyTorch alone; `deepspeed` adds ZeRO."""
    zero: Literal[0, 1, 2, 3] = 0
    """ZeRO stage (deepspeed): 1 shards optimiser states, 2 also gradients, 3 also parameters."""
    offload_optimizer: bool | Literal["nvme"] = False
    """Keep optimiser states in host memory (deepspeed, stages 1 to 3). `nvme` is refused with its reason."""
    offload_parameters: bool | Literal["nvme"] = Field(default=False, exclude_if=lambda offload: not offload)
    """Keep each process's part of the parameters in host memory (deepspeed, stage 3): layers come to the device as they
    are used. `nvme` is refused with its reason."""
    options: ZeroOptions = Field(default=ZeroOptions(), exclude_if=lambda options: not options.given)
    """Options of DeepSpeed's own, put over those that the plan chooses; one that is not read is an error."""


@final
class RuntimeSection(Section):
    """Processes, precision, folders, checkpoints, logging."""

    engine: EngineSection = EngineSection()
    """What runs the steps."""
    clips: ClipLimits = ClipLimits()
    """Bounds on every sound that is read, so that one file cannot take the machine."""
    nodes: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        default="auto", exclude_if=lambda nodes: nodes in ("auto", 1)
    )
    """Machines; `auto` takes those of the hostfile, the allocation or the launcher, and one without them."""
    processes: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = 1
    """Processes on each machine; `auto` takes one per GPU, or one where there is none."""
    timeout: float = Field(default=1800.0, gt=0, le=604_800, exclude_if=lambda seconds: seconds == 1800.0)
    """Seconds that a process waits for the others before the run ends and says whom it waited for."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU where there is one."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Of weights' compute; optimiser states and master weights are float32. `fp16` scales the loss by itself."""
    gradient_checkpointing: bool = False
    """Keep only each decoder layer's input and compute the layer again for its gradient: less memory, more time."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads per process; omitted, the cores are divided among the processes."""
    folder: MadePath | None = None
    """Exactly this folder for the run; omitted, a new one under `runs/<name>/`."""
    checkpoint_every: Steps = 0
    """Steps between checkpoints; 0 writes one at the end of each stage only."""
    async_checkpoints: bool = Field(default=False, exclude_if=lambda beside: not beside)
    """Write checkpoints beside the steps, from a copy of weights and optimiser states in host memory: a step waits for
    the copy alone."""
    checkpoint_store: str | None = Field(
        default=None, pattern=r"^[a-z][a-z0-9+.-]*://[^@?#]+$", exclude_if=lambda address: address is None
    )
    """Also copy the run, each checkpoint as it is complete, to exactly this folder of an object store (`s3://...`,
    `gs://...`, any URL of fsspec's); `--resume --from URL` goes on from it on an empty machine."""
    keep_checkpoints: int = Field(default=2, ge=1, le=10_000)
    """Newest checkpoints kept."""
    keep_every: Steps = 0
    """Also keep the checkpoints of steps that this divides; 0 keeps none but the newest."""
    keep_best: Watched | None = None
    """Also keep the checkpoint with the best value, and leave its weights as the stage's model."""
    trackers: tuple[Component, ...] = Field(default=(), max_length=100)
    """Where metrics go besides metrics.jsonl, e.g. `[tensorboard]`."""
    reward_workers: int = Field(default=2, ge=1, le=256)
    """Threads that score rollouts."""
    reward_failure_budget: float = Field(default=0.5, ge=0, le=1)
    """Share of a step's reward calls that may fail before the run stops."""
    dead_signal_after: Steps = 10
    """Consecutive steps without anything to learn from rewards after which that is said, once a stage; 0 never."""
    non_finite_limit: int = Field(default=3, ge=1, le=10_000, exclude_if=lambda limit: limit == 3)
    """Updates in a row with a NaN or infinite gradient at which the run ends; each is skipped. 1 ends at the first."""
    log_rollouts_every: Steps = 10
    """Steps between rollouts written to rollouts.jsonl; 0 writes none."""
    trace_every: Steps = 10
    """Steps between those whose operators' times are kept, the first among them (`wavalign report --trace`); 0 keeps
    none."""
    report: bool = True
    """Write report.html at the end."""
