"""Plugins of every kind that raise what they are told to, where they are told to; elsewhere they do their work."""

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from tests.toy.plugins import Sums, SumsParams
from wavalign.plugins.api import (
    Advantage,
    AdvantageInputs,
    AdvantageOutput,
    Architecture,
    Codec,
    DataSource,
    DecodingState,
    EncodeAudio,
    Gate,
    GateReading,
    Loss,
    LossInputs,
    LossOutput,
    Mask,
    Measurement,
    Metric,
    ModelSource,
    Nar,
    Policy,
    Reward,
    Sampler,
    SamplingOptions,
    StreamRecord,
    StreamSource,
    Tracker,
)
from wavalign.plugins.architectures.vita import VitaAudio, VitaParams
from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy
from wavalign.plugins.batch import (
    SCORED_ROLES,
    Answer,
    Dialogue,
    Message,
    Rollout,
    RolloutGroup,
    Scored,
    TokenBatch,
    TokenSequence,
    Waveform,
)
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams
from wavalign.schema.base import Params


class OddError(BaseException):
    """Of no known family."""


class UnspeakableError(Exception):
    """Its text raises."""

    def __str__(self) -> str:
        raise SystemExit(0)


FAULTS: dict[str, Callable[[], BaseException]] = {
    "error": lambda: RuntimeError("it broke"),
    "exit": lambda: SystemExit(0),
    "interrupt": KeyboardInterrupt,
    "generator": GeneratorExit,
    "stop": StopIteration,
    "deep": lambda: RecursionError("too deep"),
    "memory": MemoryError,
    "odd": lambda: OddError("odd"),
    "unspeakable": UnspeakableError,
    "key": lambda: KeyError("nothing"),
    "empty": queue.Empty,
    "disk": lambda: OSError(28, "No space left on device"),
}


class At(Params):
    """Where and how to fail."""

    at: str = ""
    """The moment; empty for never."""
    fault: str = "error"
    """One of `FAULTS`."""


def trip(params: At, moment: str) -> None:
    """Fail, if this is the moment."""
    if params.at == moment:
        raise FAULTS[params.fault]()


@final
class BadLoss(Loss):
    """Cross entropy."""

    type = "bad_loss"
    family = "demonstrations"
    Params = At

    def __init__(self, params: At) -> None:
        super().__init__(params)
        trip(params, "constructor")

    @property
    def needs(self) -> frozenset[str]:
        trip(self.params, "needs")
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        trip(self.params, "compute")
        return LossOutput(-inputs.logprobs)

    def regularizers(self) -> tuple[()]:
        trip(self.params, "regularizers")
        return ()


@final
class BadMask(Mask):
    """Every scored token."""

    type = "bad_mask"
    Params = At

    def __init__(self, params: At) -> None:
        super().__init__(params)
        trip(params, "constructor")

    def weights(self, roles: Tensor) -> Tensor:
        trip(self.params, "weights")
        return torch.isin(roles, torch.tensor(SCORED_ROLES, dtype=roles.dtype)).float()


@final
class BadAdvantage(Advantage):
    """Rewards without their mean."""

    type = "bad_advantage"
    Params = At

    def __init__(self, params: At) -> None:
        super().__init__(params)
        trip(params, "constructor")

    def compute(self, inputs: AdvantageInputs) -> AdvantageOutput:
        trip(self.params, "compute")
        rewards = inputs.rewards
        valid = ~rewards.isnan()
        return AdvantageOutput(torch.where(valid, rewards - rewards.nanmean(), 0.0), valid)


@final
class BadGate(Gate):
    """A half."""

    type = "bad_gate"
    Params = At

    def __init__(self, params: At) -> None:
        super().__init__(params)
        trip(params, "constructor")

    def update(self, rewards: Tensor | None, *, progress: float, noise: Tensor | None = None) -> GateReading:
        trip(self.params, "update")
        return GateReading(0.5)

    def state_dict(self) -> dict[str, Any]:
        trip(self.params, "state_dict")
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        trip(self.params, "load_state_dict")


@final
class BadReward(Reward):
    """How long an answer is."""

    type = "bad_reward"
    Params = At
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1000.0)

    def __init__(self, params: At) -> None:
        super().__init__(params)
        trip(params, "constructor")

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        trip(self.params, "score")
        return Scored(float(len(rollout.answer.text)))

    def close(self) -> None:
        trip(self.params, "close")


@final
class BadMetric(Metric):
    """How many there were."""

    type = "bad_metric"
    Params = At
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def __init__(self, params: At) -> None:
        super().__init__(params)
        trip(params, "constructor")

    def observe(self, groups: Sequence[RolloutGroup]) -> list[int] | None:
        trip(self.params, "observe")
        return [1] * len(groups) if self.params.at == "conclude" else None

    def conclude(self, groups: Sequence[RolloutGroup], observed: Sequence[int]) -> list[Measurement]:
        trip(self.params, "conclude")
        return self.measure(groups)

    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        trip(self.params, "measure")
        return [Measurement("number", len(groups), len(groups), len(groups), len(groups))]

    def close(self) -> None:
        trip(self.params, "close")


@final
class BadTracker(Tracker):
    """Keeps nothing."""

    type = "bad_tracker"
    Params = At

    def __init__(self, params: At, *, folder: str) -> None:
        super().__init__(params, folder=folder)
        trip(params, "constructor")

    def resume(self, last: Mapping[str, int]) -> None:
        trip(self.params, "resume")

    def log(self, values: Mapping[str, float], *, step: int, split: str) -> None:
        trip(self.params, "log")

    def close(self) -> None:
        trip(self.params, "close")


@final
class BadSampler(Sampler):
    """The built-in one."""

    type = "bad_sampler"
    Params = At

    def __init__(self, params: At) -> None:
        super().__init__(params)
        trip(params, "constructor")

    def sample(
        self,
        policy: Policy,
        architecture: Architecture,
        prompts: Sequence[tuple[Dialogue, TokenSequence]],
        options: SamplingOptions,
        generator: torch.Generator,
    ) -> list[RolloutGroup]:
        trip(self.params, "sample")
        return KvCache(KvCacheParams()).sample(policy, architecture, prompts, options, generator)


class BadDataParams(At):
    """By index or as a stream."""

    streams: bool = False
    """Whether it is a stream."""


@final
class BadData(DataSource):
    """The toy's sums."""

    type = "bad_data"
    Params = BadDataParams

    def __init__(self, params: BadDataParams, *, seed: int) -> None:
        super().__init__(params, seed=seed)
        trip(params, "constructor")
        self._sums = Sums(SumsParams(limit=12), seed=seed)

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        trip(self.params, "prepare")

    def __len__(self) -> int:
        trip(self.params, "len")
        return len(self._sums)

    def record(self, index: int) -> Dialogue:
        trip(self.params, "record")
        return self._sums.record(index)

    def stream(self) -> StreamSource | None:
        trip(self.params, "stream")
        return BadStream(self.params, self._sums) if self.params.streams else None


@final
class BadStream(StreamSource):
    """One shard of sums."""

    shuffle_buffer = 4

    def __init__(self, params: At, sums: Sums) -> None:
        self._params, self._sums = params, sums

    def shards(self) -> Sequence[str]:
        trip(self._params, "shards")
        return ["sums"]

    def open(self, shard: int, position: tuple[int, ...]) -> Iterator[StreamRecord]:
        trip(self._params, "open")
        for index in range(position[0] if position else 0, len(self._sums)):
            yield StreamRecord((index,), (index + 1,), self._sums.record(index))
            trip(self._params, "item")


class BadArchitectureParams(VitaParams, At):
    """Vita's, and where to fail."""


class BadArchitecture(VitaAudio):  # type: ignore[misc]  # all of it works, but where it is told not to
    """Vita."""

    type = "bad_architecture"
    Params = BadArchitectureParams

    def __init__(self, params: BadArchitectureParams, *, source: ModelSource) -> None:
        trip(params, "constructor")
        super().__init__(VitaParams(**params.model_dump(exclude={"at", "fault"})), source=source)
        self.told = params

    def empty_policy(self) -> VitaPolicy:
        trip(self.told, "empty_policy")
        return super().empty_policy()

    def build_policy(self, *, seed: int) -> Policy:
        trip(self.told, "build_policy")
        policy, params = super().build_policy(seed=seed), self.told
        hidden, decode = policy.hidden, policy.decode

        def bad_hidden(batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
            trip(params, "hidden")
            return hidden(batch, heads)

        def bad_decode(*given: Any, **named: Any) -> DecodingState:
            trip(params, "decode")
            return decode(*given, **named)

        policy.hidden, policy.decode = bad_hidden, bad_decode  # type: ignore[method-assign]  # that is the point
        return policy

    def encode_prompt(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        trip(self.told, "encode_prompt")
        return super().encode_prompt(dialogue, encode_audio)

    def encode_target(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        trip(self.told, "encode_target")
        return super().encode_target(dialogue, encode_audio)

    def encode_answer(self, dialogue: Dialogue, answer: Message, encode_audio: EncodeAudio) -> TokenSequence:
        trip(self.told, "encode_answer")
        return super().encode_answer(dialogue, answer, encode_audio)

    def decode_completion(self, completion: TokenSequence) -> Answer:
        trip(self.told, "decode_completion")
        return super().decode_completion(completion)

    def parameter_group(self, name: str) -> str:
        trip(self.told, "parameter_group")
        return super().parameter_group(name)

    def save_layout(self, folder: str) -> None:
        trip(self.told, "save_layout")
        super().save_layout(folder)


@final
class BadCodec(Codec):
    """Eight ids of silence."""

    type = "bad_codec"
    Params = At
    sample_rate = 16000
    frame_rate = 10.0
    codes_per_frame = 1
    num_codes = 8

    def __init__(self, params: At) -> None:
        self.params = params
        trip(params, "constructor")

    def encode(self, waveform: Waveform) -> list[int]:
        trip(self.params, "encode")
        return [0]

    def decode(self, codes: Sequence[int]) -> Waveform:
        trip(self.params, "decode")
        return Waveform(torch.zeros(10).numpy(), 16000)

    @property
    def can_decode(self) -> bool:
        trip(self.params, "can_decode")
        return True

    def fingerprint(self) -> str:
        trip(self.params, "fingerprint")
        return "bad"


@final
class BadNar(Nar):
    """Adds a zero to every id."""

    type = "bad_nar"
    Params = At
    codes_given = 1
    codes_per_frame = 2

    def __init__(self, params: At) -> None:
        super().__init__(params)
        trip(params, "constructor")

    def complete(self, codes_first: Sequence[int], *, prompt: Sequence[int] = ()) -> list[int]:
        trip(self.params, "complete")
        return [each for code in codes_first for each in (code, 0)]
