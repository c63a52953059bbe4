"""Frozen prompts, completions and rewards as plugins of a recipe."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor

from wavalign.plugins.api import Architecture, DataSource, Policy, Reward, Sampler, SamplingOptions
from wavalign.plugins.batch import Answer, Dialogue, Message, Role, Rollout, RolloutGroup, Scored, TokenSequence
from wavalign.schema.base import Params, RecipePath


class ReplayParams(Params):
    """Where the frozen rollouts are."""

    file: RecipePath
    """JSON as `world.py` writes it."""


@final
class ReplayPrompts(DataSource):
    """The frozen dialogues, named by their index."""

    type = "replay_prompts"
    Params = ReplayParams
    params: ReplayParams

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Read the file."""
        self._texts: list[str] = json.loads(Path(self.params.file).read_text(encoding="utf-8"))["texts"]

    def __len__(self) -> int:
        return len(self._texts)

    def record(self, index: int) -> Dialogue:
        """A user's words."""
        return Dialogue(str(index), (Message("user", self._texts[index]),))


@final
class Replay(Sampler):
    """Gives the frozen answers back, with the log-probs they were frozen with."""

    type = "replay"
    Params = ReplayParams
    params: ReplayParams

    def __init__(self, params: ReplayParams) -> None:
        super().__init__(params)
        self._answers = json.loads(Path(params.file).read_text(encoding="utf-8"))["answers"]

    def sample(
        self,
        policy: Policy,
        architecture: Architecture,
        prompts: Sequence[tuple[Dialogue, TokenSequence]],
        options: SamplingOptions,
        generator: torch.Generator,
    ) -> list[RolloutGroup]:
        """The answers to each prompt by its dialogue's name."""
        return [
            RolloutGroup(dialogue, prompt, tuple(self._rollout(answer) for answer in self._answers[int(dialogue.id)]))
            for dialogue, prompt in prompts
        ]

    @staticmethod
    def _rollout(answer: dict[str, list[float]]) -> Rollout:
        ids = torch.tensor([answer["ids"]])
        seen: Tensor = torch.tensor([answer["mask"]]) > 0
        roles = torch.where(seen, int(Role.TEXT), int(Role.AUDIO)).to(torch.int8)
        logprobs = torch.tensor([answer["logprobs"]])
        return Rollout(TokenSequence(ids, roles), logprobs, Answer("", (), finished=True))


@final
class IdReward(Reward):
    """The same arithmetic on ids that the other contenders use."""

    type = "replay_ids"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        """See `point.reward_of`."""
        return Scored(sum(rollout.completion.ids[0].tolist()) % 97 / 97)
