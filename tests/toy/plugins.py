"""A toy world for end-to-end tests, as a person's own plugin file: text only, a second to train on."""

import collections.abc
import itertools
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from wavalign.plugins.api import (
    DataSource,
    Gate,
    GateReading,
    Loss,
    LossInputs,
    LossOutput,
    Measurement,
    Metric,
    Reward,
)
from wavalign.plugins.batch import Dialogue, Message, Rollout, RolloutGroup, Scored
from wavalign.schema.base import Params

WORDS = ("zero", "one", "two", "three", "four", "five")


class SumsParams(Params):
    """Which sums."""

    limit: int = 36
    """Records."""


@final
class Sums(DataSource):
    """What is a plus b, modulo six."""

    type = "toy_sums"
    Params = SumsParams

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Nothing to build."""

    def __len__(self) -> int:
        return int(self.params.limit)

    def record(self, index: int) -> Dialogue:
        """Sum number `index`."""
        a, b = divmod(index, 6)
        answer = WORDS[(a + b) % 6]
        question = Message("user", f"{WORDS[a]} plus {WORDS[b]}")
        return Dialogue(f"sum-{a}-{b}", (question,), Message("assistant", f"it is {answer}"), {"answer": answer})


class ExactParams(Params):
    """How to misbehave, for tests of the failure contract."""

    misbehave: str = ""
    """Empty, or `raise`, `hang`, `nan`, `range`, `sometimes`."""


@final
class Exact(Reward):
    """1 for the right word, 0 otherwise."""

    type = "toy_exact"
    Params = ExactParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Whether the answer's last word is right."""
        match self.params.misbehave:
            case "raise":
                raise RuntimeError("the judge is down")
            case "hang":
                time.sleep(30)
            case "nan":
                return Scored(math.nan)
            case "range":
                return Scored(7.0)
            case "sometimes" if dialogue.id.endswith("0"):
                return Scored(None, "no opinion on zero")
        words = rollout.answer.text.split()
        return Scored(float(bool(words) and words[-1] == dialogue.metadata["answer"]))


class LateParams(Params):
    """When to fail."""

    after: int
    """Answers that are still scored."""


@final
class Late(Reward):
    """1 for every answer, then the judge is gone."""

    type = "toy_late"
    Params = LateParams
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __init__(self, params: LateParams) -> None:
        super().__init__(params)
        self._scored = itertools.count(1)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Raise once `after` answers were scored."""
        if next(self._scored) > self.params.after:
            raise RuntimeError("the judge is gone")
        return Scored(1.0)


@final
class Sharpen(Loss):
    """A loss of one's own: the policy gradient, weighted by the square of the advantage's size."""

    type = "toy_sharpen"
    family = "rollouts"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"advantages"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        """-A |A| log pi at every token."""
        return LossOutput(-inputs.column("advantages") * inputs.column("advantages").abs() * inputs.logprobs)


class BrokenParams(Params):
    """When to break."""

    after: int = 2
    """Steps that are still fine."""


@final
class Broken(Loss):
    """A cross-entropy that turns into NaN."""

    type = "toy_broken"
    family = "demonstrations"
    Params = BrokenParams

    def __init__(self, params: BrokenParams) -> None:
        super().__init__(params)
        self._calls = 0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        """-log pi, then NaN."""
        self._calls += 1
        return LossOutput(-inputs.logprobs * (math.nan if self._calls > self.params.after else 1.0))


@final
class Counting(Gate):
    """A gate that remembers how often it was asked: 0.1 more each time, up to 0.5."""

    type = "toy_counting"

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self._count = 0

    def update(self, rewards: Tensor | None, *, progress: float, noise: Tensor | None = None) -> GateReading:
        """The next value."""
        self._count += 1
        return GateReading(min(0.5, 0.1 * self._count), {"count": float(self._count)})

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the count."""
        self._count = int(state["count"])


@final
class Accuracy(Metric):
    """Share of right last words."""

    type = "toy_accuracy"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})

    def measure(self, groups: collections.abc.Sequence[RolloutGroup]) -> list[Measurement]:
        """With a normal interval."""
        right = [
            float(group.rollouts[0].answer.text.endswith(f" {group.dialogue.metadata['answer']}")) for group in groups
        ]
        mean = sum(right) / len(right)
        spread = 1.96 * math.sqrt(mean * (1 - mean) / len(right))
        said = tuple(group.rollouts[0].answer.text for group in groups)
        low, high = mean - spread, mean + spread
        return [Measurement("accuracy", mean, low, high, len(right), items=tuple(right), details={"said": said})]


@final
class Loudness(Reward):
    """A reward that listens: the largest sample."""

    type = "toy_loudness"
    needs: ClassVar[frozenset[str]] = frozenset({"waveform"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """None where there is no sound."""
        if rollout.waveform is None or not len(rollout.waveform.samples):
            return Scored(None, "there is no sound")
        return Scored(float(abs(rollout.waveform.samples).max()))


@final
class GoldKL(Loss):
    """Stay near the reference on demonstrations."""

    type = "toy_gold_kl"
    family = "demonstrations"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"ref_logprobs"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        """Half the square of the log-ratio."""
        return LossOutput((inputs.column("ref_logprobs") - inputs.logprobs).square() / 2)


@final
class PerAnswer(Loss):
    """A loss per answer: -A times the mean log-prob."""

    type = "toy_sequence"
    family = "rollouts"
    unit = "sequence"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"advantages"})

    def compute(self, inputs: LossInputs) -> LossOutput:
        """[B], with the number of tokens as a metric, by its mean and its largest value."""
        length = inputs.mask.sum(dim=(1, 2))
        mean = torch.where(inputs.mask, inputs.logprobs, 0.0).sum(dim=(1, 2)) / length.clamp(min=1)
        return LossOutput(
            -inputs.column("advantages").flatten() * mean, {"length": length.float()}, {"longest": length.float()}
        )


@final
class Checksum(Reward):
    """Something of every answer that differs between answers, also of a model that has learned nothing yet."""

    type = "toy_checksum"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 6.0)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """Sum of letters modulo seven; None for empty answers to some dialogues."""
        if not rollout.answer.text and dialogue.id.endswith(("0", "3")):
            return Scored(None, "nothing was said")
        return Scored(float(sum(map(ord, rollout.answer.text)) % 7))


class SteepParams(Params):
    """Where the gradient breaks down."""

    above: float = 0.5
    """Probability of a token from which on it has no gradient that is a number."""


@final
class Steep(Loss):
    """Cross entropy whose value is always finite, and whose gradient is NaN at tokens that are likely."""

    type = "toy_steep"
    Params = SteepParams
    family = "demonstrations"
    params: SteepParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        """The root of nothing, where a token is likely."""
        likely = inputs.logprobs.exp() > self.params.above
        root = torch.where(likely, inputs.logprobs - inputs.logprobs.detach(), 1.0).abs().sqrt()
        return LossOutput(torch.where(likely, root, 0.0) - inputs.logprobs)


class GreedyParams(Params):
    """What is too much."""

    rows: int = 2
    """Rows of its family that still fit."""
    rank: int = 0
    """The process that has so little memory."""


@final
class Greedy(Loss):
    """Cross entropy that asks for more memory than there is where a micro-batch has many rows."""

    type = "toy_greedy"
    Params = GreedyParams
    family = "demonstrations"
    params: GreedyParams

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        """-log pi, if that fits."""
        if len(inputs.logprobs) > self.params.rows and os.environ.get("RANK", "0") == str(self.params.rank):
            torch.empty(2**50)
        return LossOutput(-inputs.logprobs)
