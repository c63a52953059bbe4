"""What the embedded worlds share as data sources: which part of a world, how clean, and the tasks made of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from wavalign.plugins.api import DataSource
from wavalign.plugins.batch import Dialogue, Message
from wavalign.plugins.data.dialogue_format import read_records
from wavalign.plugins.speech.world.rendering import prepared, world_cache
from wavalign.plugins.speech.world.script import MOST_RENDITIONS, Cue, Facts, Reads, Scene, Split
from wavalign.plugins.speech.world.speakers import SpeakersName
from wavalign.schema.base import MadePath, Params
from wavalign.schema.bounds import MOST_STEPS, Seed

TRANSCRIBE = "transcribe"
"""What asks for a transcript."""


class WorldParams(Params):
    """Which part of the world, and how clean its targets are."""

    split: Split
    """`base` (first training), `train` (prompts), `demonstrations`, `heldout`, `unseen_facts` or `unseen_voices`."""
    renditions: int = Field(default=1, ge=1, le=MOST_RENDITIONS)
    """How often each fact is asked in each of the five styles (in `demonstrations`: how often each fact is shown)."""
    limit: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    """Keep so many records; the first 213 ask each taught fact once, in turning styles."""
    demonstrations: int = Field(default=64, ge=1, le=213)
    """How many facts the split `demonstrations` shows; the run's seed chooses them, the first of one order: more show
    the same ones and others."""
    facts: Facts = "all"
    """`demonstrated` leaves of a split only the facts that `demonstrations` shows under the run's seed."""
    voices: int = Field(default=1, ge=1, le=2)
    """User voices; two are harder to understand than one. `unseen_voices` has its own two."""
    cue: Cue = "both"
    """Whether the style is asked in `words`, carried by the user's `prosody`, or the one and the other in turn."""
    misconceptions: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of a misconceived fact's targets that say its one wrong answer (97 of 213 facts have one)."""
    slips: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the other facts' targets that say a random wrong answer of their category."""
    mumbling: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of targets spoken 1.5 times as fast under white noise (18 dB): lost once they went through the codec."""
    task: Literal["answer", "transcript", "reading"] = "answer"
    """What is wanted: the spoken answer; after a message that says so, the question's words alone; or, the user having
    written an answer's words, their sound alone."""
    reads: Reads = "answers"
    """What is read aloud in `task: reading`: the facts' answers (79 sentences, the same in every split), or their
    questions (213 taught ones, and 32 others in `unseen_facts`), in the assistant's voice and styles."""
    instruction: Literal["system", "user"] = "system"
    """Who says that a transcript is wanted; some model families know no system messages."""
    world_seed: Seed = 0
    """Of renditions and noise; splits are disjoint only under the same one, so it is not the run's seed."""
    cache: MadePath | None = None
    """Folder of the cache; without one WAVALIGN_CACHE from the environment, or the user's cache folder."""

    @model_validator(mode="after")
    def _has_facts(self) -> "WorldParams":
        if self.facts == "demonstrated" and self.split == "unseen_facts":
            raise ValueError("no unseen fact is demonstrated: take facts: all, or another split")
        if self.reads == "questions" and self.task != "reading":
            raise ValueError("questions are read aloud in task: reading alone")
        return self


class World(DataSource):
    """One split of an embedded world."""

    params: WorldParams
    speakers: SpeakersName

    def __init__(self, params: WorldParams, *, seed: int) -> None:
        super().__init__(params, seed=seed)
        self._dialogues: list[Dialogue] = []

    def prepare(self, progress: Callable[[str, int, int], None]) -> None:
        """Speak what the cache does not hold yet, then read it."""
        options = self.params.model_dump(exclude={"cache", "task", "instruction"})
        records = prepared(Scene(seed=self.seed, speakers=self.speakers, **options), self._folder(), progress)
        self._dialogues = read_records(str(records))

    def _folder(self) -> Path:
        return world_cache(self.params.cache, self.speakers)

    def __len__(self) -> int:
        return len(self._dialogues)

    def record(self, index: int) -> Dialogue:
        dialogue = self._dialogues[index]
        if self.params.task == "answer":
            return dialogue
        if self.params.task == "reading":
            return _reading(dialogue)
        question = dialogue.messages[-1]
        asked = (Message(self.params.instruction, TRANSCRIBE), *dialogue.messages)
        return replace(dialogue, messages=asked, target=Message("assistant", question.text))


def _reading(dialogue: Dialogue) -> Dialogue:
    """The target's words as what the user wrote, its sound as the target; what is right is to say just these words."""
    assert dialogue.target is not None  # every record of this world has one
    words = dialogue.target.text
    metadata = {**dialogue.metadata, "reference": words, "answer": words.split()[-1], "question_text": words}
    return replace(
        dialogue, messages=(Message("user", words),), target=replace(dialogue.target, text=""), metadata=metadata
    )
