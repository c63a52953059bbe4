"""Who says what, and how: the records of a split, drawn from seeds alone, before anything is spoken.

Renditions of the same question differ in small steps of the user's sliders. The steps of a (fact, style, cue, voice)
are shuffled once and dealt out to the splits in separate hands, so that no split ever hears another's sound.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from typing import Literal, final

import numpy as np

from wavalign.plugins.speech.world.facts import Fact, world
from wavalign.plugins.speech.world.speakers import AnyDelivery, AnyStyle, Speakers, SpeakersName, speakers

Split = Literal["base", "train", "demonstrations", "heldout", "unseen_facts", "unseen_voices"]
Cue = Literal["words", "prosody", "both"]
Facts = Literal["all", "demonstrated"]
Reads = Literal["answers", "questions"]
MOST_RENDITIONS = 64
_HANDS: dict[str, int] = {
    "base": 0, "train": 1, "demonstrations": 2, "heldout": 3, "unseen_facts": 4, "unseen_voices": 4,
}  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Scene:
    """What determines a split, down to the sample."""

    split: Split
    renditions: int
    limit: int | None
    voices: int
    cue: Cue
    misconceptions: float
    slips: float
    mumbling: float
    demonstrations: int
    world_seed: int
    """Of renditions and noise: the same for everything that must not overlap."""
    seed: int
    """Of the choice of demonstrations."""
    facts: Facts = "all"
    reads: Reads = "answers"
    speakers: SpeakersName = "espeak"

    @property
    def voiced_by(self) -> Speakers:
        """Who speaks."""
        return speakers(self.speakers)


@final
@dataclass(frozen=True, slots=True)
class Clip:
    """One sound to make."""

    text: str
    delivery: AnyDelivery
    snr: float | None = None
    """Decibels above white noise; None for clean."""

    @property
    def name(self) -> str:
        """File name: equal clips share one file."""
        content = json.dumps([self.text, asdict(self.delivery), self.snr])
        return hashlib.sha256(content.encode()).hexdigest()[:24] + ".wav"


@final
@dataclass(frozen=True, slots=True)
class Line:
    """One record: a spoken question and the spoken answer to it."""

    id: str
    fact: Fact
    style: AnyStyle
    cue: str
    question: Clip
    answer: Clip
    metadata: dict[str, str | bool]


def lines(scene: Scene) -> Iterator[Line]:
    """The records of `scene` in order: each pass goes once through all facts, in turning styles."""
    for count, (fact, style, rendition) in enumerate(_cast(scene)):
        if scene.limit is not None and count >= scene.limit:
            return
        yield _line(scene, fact, style, rendition)


def _cast(scene: Scene) -> Iterator[tuple[Fact, AnyStyle, int]]:
    styles = scene.voiced_by.styles
    facts = world().unseen if scene.split == "unseen_facts" else world().taught
    generator = np.random.default_rng([scene.world_seed, scene.seed])
    shown = generator.permutation(len(world().taught))[: scene.demonstrations].tolist()
    if scene.split == "demonstrations":
        for index in shown:
            style = styles[int(generator.integers(len(styles)))]
            for rendition in generator.permutation(MOST_RENDITIONS)[: scene.renditions]:
                yield facts[index], style, int(rendition)
        return
    if scene.facts == "demonstrated":
        facts = tuple(facts[index] for index in sorted(shown))
    for rendition, turn in product(range(scene.renditions), range(len(styles))):
        for index, fact in enumerate(facts):
            yield fact, styles[(index + turn) % len(styles)], rendition


def _line(scene: Scene, fact: Fact, style: AnyStyle, rendition: int) -> Line:
    cast = scene.voiced_by
    place = sum(fact.id.encode()) + cast.styles.index(style) + rendition
    cue = scene.cue if scene.cue != "both" else ("words", "prosody")[place % 2]
    voices = cast.unseen if scene.split == "unseen_voices" else cast.taught[: scene.voices]
    voice = voices[place // 2 % len(voices)]
    question = _question(scene, fact, style, rendition=rendition, cue=cue, voice=voice)
    name = f"{scene.split}-{fact.id}-{style.name}-{rendition}"
    draw = _generator(scene.world_seed, name)
    word = _word(scene, fact, draw)
    answer, clear = _answer(scene, fact.say(word) if scene.reads == "answers" else fact.question, style, draw)
    metadata: dict[str, str | bool] = {
        "answer": fact.word, "reference": fact.answer, "style": style.name, "cue": cue, "fact": fact.id,
        "category": fact.category, "voice": voice, "misconceived": fact.id in world().misconceptions,
        "question_text": question.text, "target_is_right": word == fact.word, "target_is_clear": clear,
    }  # fmt: skip
    return Line(name, fact, style, cue, question, answer, metadata)


def _question(scene: Scene, fact: Fact, style: AnyStyle, *, rendition: int, cue: str, voice: str) -> Clip:
    cast = scene.voiced_by
    hand = _HANDS[scene.split] * MOST_RENDITIONS + rendition
    order = _order(scene.world_seed, f"{fact.id} {style.name} {cue} {voice}", len(cast.steps[cue]))
    delivery = cast.question(cast.styles.index(style), cue, voice, cast.steps[cue][order[hand]])
    return Clip(f"{fact.question} {style.request}" if cue == "words" else fact.question, delivery)


def _answer(scene: Scene, text: str, style: AnyStyle, draw: np.random.Generator) -> tuple[Clip, bool]:
    """The target's sound, and whether it is clear."""
    cast = scene.voiced_by
    spoken = cast.answer(cast.styles.index(style), int(draw.integers(cast.num_jitters)))
    if draw.random() >= scene.mumbling:
        return Clip(text, spoken), True
    delivery, snr = cast.mumbled(spoken)
    return Clip(text, delivery, snr), False


def _word(scene: Scene, fact: Fact, draw: np.random.Generator) -> str:
    """The word the target says: right, the fact's misconception, or a slip."""
    chance, rivals = draw.random(), world().rivals(fact)
    slip = rivals[int(draw.integers(len(rivals)))]
    believed = world().misconceptions.get(fact.id)
    if believed is not None:
        return believed if chance < scene.misconceptions else fact.word
    return slip if chance < scene.slips else fact.word


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


@cache
def _order(seed: int, name: str, count: int) -> tuple[int, ...]:
    return tuple(_generator(seed, name).permutation(count).tolist())
