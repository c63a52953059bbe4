"""A DPO step that two contenders must share, and the files of it."""

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, final

from benchmarks.grpo.point import Point as Network

WORDS = 1000
"""Of which prompts and answers are made."""


@final
@dataclass(frozen=True, slots=True)
class Point:
    """Everything that both contenders share."""

    size: str
    vocabulary: int
    pairs: int = 4
    """A step."""
    prompt_length: int = 64
    completion_length: int = 64
    ragged: bool = False
    """Prompts and answers of different lengths."""
    tied: bool = True
    variant: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    learning_rate: float = 1e-4
    reference: Literal["each", "once"] = "each"
    """Whether TRL scores pairs with the reference in each step, or all of them `once`, before the first."""
    fresh: bool = False
    """Pairs that no step has seen before, so that ours has none of them kept; else the same in every step."""
    warm_up: int = 3
    steps: int = 4
    threads: int = 1

    @property
    def total_steps(self) -> int:
        return self.warm_up + self.steps

    @property
    def records(self) -> int:
        """Pairs there are."""
        return self.pairs * (self.total_steps if self.fresh else 1)

    def network(self) -> Network:
        """What the network on disk hangs on; its frozen answers are not used here."""
        return Network(
            self.size, self.vocabulary, 1.0, prompts=1, group_size=1, prompt_length=32, completion_length=8,
            tied=self.tied,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Self:
        return cls(**content)


def pairs_of(point: Point) -> list[dict[str, str]]:
    """Random questions with two answers; of lengths in words that leave room for the turns around them."""
    rng, frame = random.Random(0), 10
    found = []
    for index in range(point.records):
        place = index % point.pairs
        lengths = [point.prompt_length - frame, point.completion_length - 1, point.completion_length - 1]
        if point.ragged:
            lengths = [lengths[0] - 3 * place, lengths[1] // 2 + 2 * place, lengths[2] - 5 * place]
        prompt, chosen, rejected = (" ".join(f"w{rng.randrange(WORDS)}" for _ in range(n)) for n in lengths)
        found.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return found


def write_pairs(point: Point, world: Path) -> Path:
    """The pairs as JSONL of dialogues, which a recipe reads, beside the network."""
    path = world / f"pairs-{point.records}-{point.pairs}-{point.prompt_length}-{point.completion_length}-{point.ragged}"
    path = path.with_suffix(".jsonl")
    lines = [
        {
            "messages": [{"role": "user", "text": each["prompt"]}],
            "chosen": {"text": each["chosen"]},
            "rejected": {"text": each["rejected"]},
        }
        for each in pairs_of(point)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
