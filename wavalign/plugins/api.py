"""The plugin kinds and their contracts.

A plugin is one file: a docstring with formula and source, a frozen `Params` model, one `@final` class. The engine
constructs it as `Class(params, **runtime)` with the runtime objects its kind names below, and reaches it through the
registry only. Shapes use the letters of `plugins.batch`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from wavalign.errors import DataError, PluginError
from wavalign.plugins.batch import (
    Answer,
    AudioClip,
    Dialogue,
    Rollout,
    RolloutGroup,
    Scored,
    TokenBatch,
    TokenSequence,
    TokenSpace,
    Waveform,
)
from wavalign.schema.base import Params

EncodeAudio = Callable[[AudioClip], Sequence[int]]
"""Clip -> codec ids; the engine's cache stands behind it, so asking twice costs nothing."""


class Plugin(ABC):
    """Base of every kind."""

    kind: ClassVar[str]
    Params: ClassVar[type[Params]] = Params


# --- model ------------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where an architecture takes its sizes, tokenizer and weights from."""

    checkpoint: str | None
    """Local folder of a checkpoint in its original layout; None starts from random weights."""
    preset: str | None
    """Named size, for random weights."""
    tokenizer: str | None
    """Folder or file of the base tokenizer, for random weights; a checkpoint brings its own."""
    device: str = "cpu"
    """Where frozen helpers outside the policy run, such as an encoder that turns sound into features."""


class DecodingState(ABC):
    """A batch of answers being sampled: caches, layout state, what comes next. Lives for one sampling call.

    The sampler's loop is: read `heads`, `hidden()` and `forced()`, choose `ids`, `append(ids)`, drop rows that
    `finished()` names with `keep`. Rows are [P * G], the G answers of a prompt adjacent.
    """

    @abstractmethod
    def heads(self) -> tuple[int, ...]:
        """Per stream, the index in `TokenSpace.heads` of the head that predicts the coming token, alike in all rows."""

    @abstractmethod
    def hidden(self) -> Tensor:
        """Hidden states [B, S, H] from which those heads predict the coming token."""

    @abstractmethod
    def forced(self) -> Tensor:
        """Ids [B, S] the layout puts next, -1 where the model chooses."""

    @abstractmethod
    def append(self, ids: Tensor) -> Tensor:
        """Take the chosen `ids` [B, S] and return their roles [B, S] int8."""

    @abstractmethod
    def finished(self) -> Tensor:
        """Bool [B]: rows that are complete (end of turn, or nothing that was asked for can still come)."""

    def text_over(self) -> Tensor:
        """Bool [B]: rows whose text is complete, whatever else may follow; the same however `need` is."""
        return self.finished()

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Go on with `rows` (indices [B'] into the present batch) only."""


class Policy(nn.Module, ABC):
    """The network of one architecture. Parameter names are those of the original checkpoint."""

    @abstractmethod
    def hidden(self, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        """Hidden states [B, T, H] of each wanted head (index in `TokenSpace.heads`), before its projection."""

    @abstractmethod
    def head_weight(self, head: int) -> nn.Parameter:
        """Projection [V, H] of a head (no bias)."""

    @abstractmethod
    def decode(
        self, prompts: Sequence[TokenSequence], *, group_size: int, need: Literal["text", "all"]
    ) -> DecodingState:
        """Prefill each prompt once, repeat it `group_size` times and stand ready to sample.

        `need="text"` lets a row finish as soon as the layout shows that no text can follow. Up to there it is the row
        that `need="all"` gives, and behind it that row has neither TEXT nor TEXT_END.
        """


class Architecture(Plugin):
    """A model family: token layout (stateless) and network. Runtime: `source: ModelSource`."""

    kind = "architecture"

    def __init__(self, params: Any, *, source: ModelSource) -> None:
        self.params, self.source = params, source

    @property
    @abstractmethod
    def tokens(self) -> TokenSpace:
        """Ids, streams and heads of this checkpoint."""

    @abstractmethod
    def empty_policy(self) -> Policy:
        """The network, weights to be filled by the caller: drawn at random or from a checkpoint.

        Modules are made under the caller's default device and dtype (the meta device included) and nothing is drawn.
        """

    @abstractmethod
    def build_policy(self, *, seed: int) -> Policy:
        """A network with random weights drawn from `seed`, in float32, on the CPU."""

    @abstractmethod
    def encode_prompt(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        """Everything before the answer, all positions PROMPT (or FORCED)."""

    @abstractmethod
    def encode_target(self, dialogue: Dialogue, encode_audio: EncodeAudio) -> TokenSequence:
        """The demonstration `dialogue.target` as a completion, in this family's layout."""

    def check_words(self, dialogue: Dialogue) -> None:
        """Raise DataError where the turns or words of a dialogue cannot be written; looks at no sound.

        Asked of every record before a run starts. Without it, a bad one is found when it is drawn.
        """

    @abstractmethod
    def decode_completion(self, completion: TokenSequence) -> Answer:
        """Text and codes of a completion; the inverse of `encode_target`."""

    def token_text(self, token: int) -> str:
        """What id `token` stands for, for people: its text, or a name in angle brackets."""
        return f"<{token}>"

    @abstractmethod
    def parameter_group(self, name: str) -> str:
        """Group of a parameter: embed, trunk, text_head, audio_head, audio_branch, mtp, encoder or projector."""

    @abstractmethod
    def dimensions(self) -> "Dimensions":
        """Sizes for the memory estimate, known without building the network."""

    def parameter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Name -> shape of every tensor the policy wants; nothing is allocated."""
        with torch.device("meta"):
            policy = self.empty_policy()
        return {name: tuple(tensor.shape) for name, tensor in policy.state_dict().items()}

    @abstractmethod
    def save_layout(self, folder: str) -> None:
        """Write config and tokenizer files of the original layout next to the weights."""

    ignored_keys: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of tensors a public checkpoint may hold that the policy does not use."""
    frozen_groups: ClassVar[tuple[str, ...]] = ()
    """Parameter groups that stay as they are unless a recipe's `freeze` says otherwise."""


@final
@dataclass(frozen=True, slots=True)
class Dimensions:
    """Sizes of a network, for the memory estimate."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    key_value_width: int
    """Width of one layer's cached keys plus values per token."""
    vocabulary: int
    positions: int | None = None
    """Most positions of a row that the network is made for; None where it knows no limit."""
    helper_bytes: int = 0
    """Of frozen networks on the device outside the policy, such as an encoder."""


class Codec(Plugin):
    """Waveform to discrete ids and back.

    Ids are flat and frame-major: the `codes_per_frame` ids of a frame stand side by side, and those of each code book
    lie in a range of their own (id = sizes of the books before it + code), so that an id alone tells its book.
    """

    kind = "codec"
    sample_rate: int
    """Hertz of what `encode` takes; what `decode` gives carries its own rate, which may be another."""
    frame_rate: float
    """Frames a second."""
    codes_per_frame: int
    num_codes: int
    """Ids of all code books together."""

    @abstractmethod
    def encode(self, waveform: Waveform) -> list[int]:
        """Flat ids of `waveform`; raises DataError when its rate is not `sample_rate`."""

    @abstractmethod
    def decode(self, codes: Sequence[int]) -> Waveform:
        """Sound of `codes`; an empty or malformed sequence gives the sound of its well-formed part, maybe empty.

        Raises PreflightError where `can_decode` is False.
        """

    @property
    def can_decode(self) -> bool:
        """Whether `decode` works; False where its decoder is an option that was not given."""
        return True

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever `encode` would give other ids; keys the cache of a dataset's codes."""

    @classmethod
    def fit_lacks(cls, params: Any, seconds: Sequence[float]) -> str | None:
        """Why clips of these lengths are too little to fit on; None where they are enough, or that is not known.

        Asked before a run starts, so that `fit` is not the first to find it.
        """
        return None

    @classmethod
    def fit(cls, params: Any, waveforms: Sequence[Waveform], *, generator: torch.Generator, path: str) -> None:
        """Learn from sound and write to `path` what `params.checkpoint` may then name."""
        raise PluginError(
            f"codec {cls.__name__} comes trained and cannot be fitted", hint="leave the fit_codec stage out"
        )


class Nar(Plugin):
    """A frozen model, not autoregressive, that completes frames an architecture has written in part; e.g. SoundStorm.

    It stands between an answer's ids and `Codec.decode`, and is never trained. Called one answer at a time.
    """

    kind = "nar"
    codes_given: int
    """Ids per frame it takes: the first of each, `TokenSpace.frame_codes` of them."""
    codes_per_frame: int
    """Ids per frame it gives: those of the codec."""
    num_codes: int | None = None
    """Ids of all code books together, to be compared with the codec's; None where it does not say."""

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def complete(self, codes_first: Sequence[int], *, prompt: Sequence[int] = ()) -> list[int]:
        """All ids of every frame, frame by frame, of which `codes_first` are the first; ids as the codec counts them.

        `prompt` holds all ids of sound in the voice to be imitated (a dialogue's metadata names it, by path or URL, as
        `voice_prompt`), empty for none. What it gives depends on its arguments alone; an incomplete last frame is left
        out.
        """


# --- data and rewards -------------------------------------------------------------------------------------------------


Place = tuple[int, ...]
"""Where in a shard a record stands: whole numbers that mean something to its source; `()` is the beginning."""


@final
@dataclass(frozen=True, slots=True)
class Placed:
    """A dialogue of a stream, where it stands and where reading goes on after it."""

    start: Place
    end: Place
    dialogue: Dialogue


class StreamSource(ABC):
    """Dialogues too many to index, in shards read from front to back. It remembers nothing: the engine does.

    The engine permutes the shards of every epoch and draws from a buffer of `shuffle_buffer` records.
    """

    shuffle_buffer: int

    @abstractmethod
    def shards(self) -> Sequence[str]:
        """A name for each shard, in a fixed order, that changes when its size does: a resume compares them."""

    @abstractmethod
    def open(self, shard: int, place: Place) -> Iterator[Placed]:
        """Records of a shard from `place` on; raises DataError with file and line at the first bad one."""


class DataSource(Plugin):
    """Dialogues by index. Runtime: `seed: int`. The engine shuffles, repeats and remembers the place.

    Where `stream` gives something, the engine reads that and asks for no index.
    """

    kind = "data"

    def __init__(self, params: Any, *, seed: int) -> None:
        self.params, self.seed = params, seed

    @abstractmethod
    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Build or open what `record` reads; called once, on one rank first. `progress(what, done, total)`."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of records, after `prepare`."""

    @abstractmethod
    def record(self, index: int) -> Dialogue:
        """Record `index`; raises DataError with file and line when it is bad."""

    def stream(self) -> StreamSource | None:
        """The records one after the other, after `prepare`, where they are too many to index; None for by index."""
        return None

    def reads(self) -> Sequence[str]:
        """Paths or URLs of the files that hold the records, after `prepare`: a resume refuses ones that have changed.

        Of a source that names none the records themselves are compared.
        """
        return ()

    def inspect(self) -> Iterator[tuple[str, Dialogue | DataError | None]]:
        """Every record in order with where it stands, a bad one as its error, None where Params say to drop it.

        For looking at data: comes instead of `prepare`, and goes on after an error where that is possible.
        """
        self.prepare(_unwatched)
        for index in range(len(self)):
            try:
                found: Dialogue | DataError = self.record(index)
            except DataError as error:
                found = error
            yield f"record {index}", found


class Reward(Plugin):
    """A score per rollout. Called from worker threads, several at a time."""

    kind = "reward"
    needs: ClassVar[frozenset[str]]
    """Subset of {"text", "waveform"}: `waveform` makes the engine decode the answer's sound. A reward that needs the
    text alone may be shown answers that were sampled no further than their text."""
    range: ClassVar[tuple[float, float]]
    """Lowest and highest value `score` can give; a recipe's `scale` maps it linearly."""

    def __init__(self, params: Any) -> None:
        self.params = params

    @classmethod
    def dialogue_needs(cls, params: Any, dialogue: Dialogue) -> str | None:
        """What `dialogue` lacks for being scored, and the remedy; None where it has all. Asked before a run starts."""
        return None

    @classmethod
    def instrument(cls, params: Any) -> str:
        """What it measures with, and the settings that matter, in a few words; empty for a plain comparison.

        A recipe in which a reward and a metric name the same one is warned: they share their errors.
        """
        return ""

    @abstractmethod
    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Score one answer; must not invent a number.

        `Scored.absent(reason)` where the answer has nothing to score, `Scored(None, reason)` where the reward failed.
        """

    def close(self) -> None:
        """Free what the reward holds; called once."""
        return


def _unwatched(what: str, done: int, total: int) -> None:
    """Progress nobody watches."""


# --- objective --------------------------------------------------------------------------------------------------------


class Mask(Plugin):
    """Weights over positions, from roles alone."""

    kind = "mask"

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def weights(self, roles: Tensor) -> Tensor:
        """Float32 weights [B, S, T] >= 0 of `roles` [B, S, T]; 0 for PAD, PROMPT and FORCED."""

    @property
    def text_alone(self) -> bool:
        """Whether weights are 0 off TEXT and TEXT_END and do not depend on what stands behind the text.

        Only where every mask says so, sampling may stop when no text can follow.
        """
        return False


class Advantage(Plugin):
    """Rewards of a group to advantages."""

    kind = "advantage"

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def compute(self, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """`rewards` [P, G] float64, NaN where absent -> advantages [P, G] (0 where absent), validity bool [P, G]."""


@final
@dataclass(frozen=True, slots=True)
class GateReading:
    """A gate's value this step and the factors that made it, for the report."""

    value: float
    factors: Mapping[str, float] = field(default_factory=dict)


class Gate(Plugin):
    """The moving share between terms. Sees rewards of all ranks, so that it is equal on all of them."""

    kind = "gate"
    needs_rewards: ClassVar[bool] = True

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def update(self, rewards: Tensor | None, *, progress: float) -> GateReading:
        """`rewards` [P, G] float64 of all ranks, NaN where absent; `progress` 0..1 of the stage. Advances the state."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What must be remembered for an exact resume (JSON values)."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""


@final
@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a loss may ask for in `needs`; a field it did not ask for is None.

    Positions outside the term's mask hold arbitrary finite values: the engine gives them weight 0.
    """

    logprobs: Tensor
    """[B, S, T] float32 of the policy, with gradient."""
    old_logprobs: Tensor | None = None
    """[B, S, T] of the distribution that was sampled."""
    ref_logprobs: Tensor | None = None
    """[B, S, T] of the reference."""
    advantages: Tensor | None = None
    """[B, S, T] or broadcastable."""
    mask: Tensor | None = None
    """Bool [B, S, T] of scored positions, for losses whose unit is the sequence (`needs: mask`)."""


@final
@dataclass(frozen=True, slots=True)
class LossOutput:
    """Unreduced values and, of the same shape, what is worth logging."""

    values: Tensor
    """[B, S, T] for unit `token`, [B] for unit `sequence`."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Logged by their means over the term's tokens."""
    maxima: Mapping[str, Tensor] = field(default_factory=dict)
    """Logged by their largest value among the term's tokens."""


@final
@dataclass(frozen=True, slots=True)
class Regularizer:
    """A further term a loss brings along: its own loss, over its own tokens."""

    name: str
    loss: str
    """Type of a loss plugin."""
    params: Mapping[str, Any]
    tokens: Any
    """Token selection as in a recipe; None means the tokens of the parent term."""
    weight: float


class Loss(Plugin):
    """Values per token or sequence. Knows no mask, weight, reduction, scaling or step number."""

    kind = "loss"
    unit: ClassVar[Literal["token", "sequence"]] = "token"
    rows: ClassVar[Literal["rollouts", "demonstrations"]]
    """Which rows the loss is made for."""

    def __init__(self, params: Any) -> None:
        self.params = params

    @property
    @abstractmethod
    def needs(self) -> frozenset[str]:
        """Subset of {"old_logprobs", "ref_logprobs", "advantages", "mask"} beyond `logprobs`."""

    @abstractmethod
    def compute(self, inputs: LossInputs) -> LossOutput:
        """Unreduced values; lower is better."""

    def regularizers(self) -> tuple[Regularizer, ...]:
        """Terms that come along with this one; none unless a loss says so."""
        return ()

    @property
    def inert_on_policy(self) -> str:
        """Options that do nothing while every batch of rollouts is used for one update; the plan says so."""
        return ""


# --- running ----------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Distribution:
    """What the ids of one stream are drawn from: penalised logits, divided by the temperature, top-k, then top-p."""

    temperature: float
    """0 takes the most likely token."""
    top_k: int
    """0 keeps every id."""
    top_p: float
    repetition_penalty: float = 1.0
    """Divides positive logits of ids said lately and multiplies negative ones; 1 does nothing."""
    repetition_window: int = 0
    """Newest ids of the stream's answer, forced ones among them, that count as said lately; no penalty before there
    are more."""


@final
@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """The distribution to sample from and how much of it."""

    group_size: int
    temperature: float
    """0 takes the most likely token."""
    top_k: int
    """0 keeps every id."""
    top_p: float
    max_new_tokens: int
    need: Literal["text", "all"] = "all"
    streams: Mapping[str, Distribution] = field(default_factory=dict)
    """By name, the distributions of streams that have one of their own."""

    def distribution(self, stream: str) -> Distribution:
        """What ids of `stream` are drawn from."""
        return self.streams.get(stream, Distribution(self.temperature, self.top_k, self.top_p))


class Sampler(Plugin):
    """Policy and prompts to rollouts."""

    kind = "sampler"

    def __init__(self, params: Any) -> None:
        self.params = params

    @abstractmethod
    def sample(
        self,
        policy: Policy,
        architecture: Architecture,
        prompts: Sequence[tuple[Dialogue, TokenSequence]],
        options: SamplingOptions,
        generator: torch.Generator,
    ) -> list[RolloutGroup]:
        """`options.group_size` answers to each prompt, with behaviour log-probs. Leaves the policy's mode as found."""


Detail = str | float | None
"""Something to show of one held-out item, e.g. the transcript that was heard; None where there is nothing to show."""


@final
@dataclass(frozen=True, slots=True)
class Measurement:
    """A named value with its interval and count, and what it was made of."""

    name: str
    value: float
    low: float
    high: float
    count: int
    unit: str = ""
    items: tuple[float | None, ...] = ()
    """Outcome of every group handed to `measure`, in its order: 1 or 0 for a share, the number for a mean, None where
    the group was left out. Two runs are compared item by item; empty where that makes no sense."""
    details: Mapping[str, tuple[Detail, ...]] = field(default_factory=dict)
    """By name, what to show beside an item's outcome, aligned with the groups likewise."""
    says: str = ""
    """The value in one sentence, for people; the class's docstring speaks for it where there is none."""


class Metric(Plugin):
    """Held-out rollouts (one a prompt) to named values. The engine also shows it the gold answers: the ceiling."""

    kind = "metric"
    needs: ClassVar[frozenset[str]]

    def __init__(self, params: Any) -> None:
        self.params = params

    @classmethod
    def dialogue_needs(cls, params: Any, dialogue: Dialogue) -> str | None:
        """What a held-out `dialogue` lacks for being measured, and the remedy; None where it has all."""
        return None

    @classmethod
    def instrument(cls, params: Any) -> str:
        """What it measures with, and the settings that matter, in a few words; empty for a plain comparison.

        A recipe in which a reward and a metric name the same one is warned: they share their errors.
        """
        return ""

    @abstractmethod
    def measure(self, groups: Sequence[RolloutGroup]) -> list[Measurement]:
        """Values with 95 % intervals; says on how many items (items without a value are left out and counted)."""

    def close(self) -> None:
        """Free what the metric holds; called once."""
        return


class Tracker(Plugin):
    """Somewhere metrics go. Runtime: `folder: str`. A failing tracker is switched off, the run goes on."""

    kind = "tracker"

    def __init__(self, params: Any, *, folder: str) -> None:
        self.params, self.folder = params, folder

    def resume(self, last: Mapping[str, int]) -> None:
        """A run goes on from a checkpoint: `last` is by split the last step whose values stay.

        What was logged of later steps, and of splits that `last` does not name, comes again. Called once, before the
        first `log`, and only when a run is resumed.
        """
        return

    @abstractmethod
    def log(self, values: Mapping[str, float], *, step: int, split: str) -> None:
        """Take one step's values."""

    @abstractmethod
    def close(self) -> None:
        """Flush and let go."""
