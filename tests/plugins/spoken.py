"""Shared by the tests of everything that speaks or listens: a small fitted codec and rollouts made of sound."""

from dataclasses import replace
from pathlib import Path

import torch

from wavalign.plugins.batch import Answer, Dialogue, Message, Role, Rollout, RolloutGroup, TokenSequence, Waveform
from wavalign.plugins.codecs.source_filter import SourceFilterCodec, SourceFilterParams
from wavalign.plugins.speech.codebooks import Settings, fit, save
from wavalign.plugins.speech.espeak import Delivery
from wavalign.plugins.speech.synthesizer import synthesize
from wavalign.plugins.speech.world.facts import answer_sentences
from wavalign.plugins.speech.world.styles import STYLES


def say(text: str, style: str = "neutral") -> Waveform:
    """`text` in the assistant's voice."""
    return synthesize(text, next(each.answer for each in STYLES if each.name == style))


def fitted_codec(path: Path) -> SourceFilterCodec:
    """A codec fitted to the world's answers: 79 sentences in two of five styles each, about two minutes of sound."""
    clips = []
    for index, sentence in enumerate(answer_sentences()):
        for turn in (0, 2):
            delivery: Delivery = STYLES[(index + turn) % len(STYLES)].answer
            clips.append(synthesize(sentence, replace(delivery, rate=delivery.rate - 5)))
    save(fit(clips, Settings(), generator=torch.Generator().manual_seed(0)), path)
    return SourceFilterCodec(SourceFilterParams(checkpoint=str(path)))


def rollout(text: str, waveform: Waveform | None = None, *, codes: int = 0, finished: bool = True) -> Rollout:
    """An answer of `text` and sound, with `codes` codes; its tokens do not matter to those who look and listen."""
    tokens = TokenSequence(torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), int(Role.TEXT), dtype=torch.int8))
    return Rollout(tokens, torch.zeros(1, 1), Answer(text, tuple(range(codes)), finished), waveform=waveform)


def dialogue(reference: str = "it is twelve", style: str = "neutral", **metadata: str | bool) -> Dialogue:
    """A question whose right answer is `reference`."""
    word = reference.rsplit(maxsplit=1)[-1] if reference else ""
    known = {"reference": reference, "answer": word, "style": style, **metadata}
    return Dialogue("d", (Message("user", "what"),), Message("assistant", reference), known)


def group(asked: Dialogue, answer: Rollout) -> RolloutGroup:
    """One answer to `asked`."""
    return RolloutGroup(asked, answer.completion, (answer,))
