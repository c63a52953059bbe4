"""What every dialogue must hold, whoever read it."""

import math
from collections.abc import Iterator
from itertools import combinations

from wavalign.plugins.batch import Dialogue, Message
from wavalign.storage.strict_json import flaw

LONGEST_TEXT = 100_000
"""Characters of one turn; about two hours of speech."""
LONGEST_DIALOGUE = 200_000
"""Characters of all its turns."""
LARGEST_CODE = 2**31 - 1
"""Largest id of a codec."""


def flaws(dialogue: Dialogue) -> list[str]:
    """Everything that keeps `dialogue` from being learned from or written down again, in words with its place."""
    return list(_flaws(dialogue))


def _flaws(dialogue: Dialogue) -> Iterator[str]:
    if not dialogue.messages:
        yield "messages: there are none"
    for index, message in enumerate(dialogue.messages):
        yield from _message(message, f"messages.{index}")
    said = sum(len(message.text) for message in dialogue.messages)
    if said > LONGEST_DIALOGUE:
        yield f"messages: they have {said:,} characters, more than the {LONGEST_DIALOGUE:,} that a dialogue may have"
    for name, target in dialogue.named_answers:
        yield from _message(target, name)
    for (one, earlier), (other, later) in combinations(dialogue.named_answers, 2):
        if same_answer(earlier, later):
            yield f"{one} and {other} are the same answer: there is nothing to prefer"
    yield from _numbers(dialogue)
    if wrong := flaw(dict(dialogue.metadata), "metadata") or flaw(dialogue.id, "id"):
        yield wrong


def same_answer(one: Message, other: Message) -> bool:
    """Whether two answers are learned alike: by words and codes, or by words and file."""
    sounds = [None if each.audio is None else (each.audio.codes or each.audio.url) for each in (one, other)]
    return one.text == other.text and sounds[0] == sounds[1]


def _numbers(dialogue: Dialogue) -> Iterator[str]:
    """What stands beside the targets, one for each."""
    for name, given in (("members", dialogue.members), ("scores", dialogue.scores)):
        if given and len(given) != len(dialogue.targets):
            yield f"{name}: {len(given)} for {len(dialogue.targets)} targets"
    if len(set(dialogue.members)) < len(dialogue.members) or any(each < 0 for each in dialogue.members):
        yield "members: they are distinct numbers from 0"
    if any(each is not None and not math.isfinite(each) for each in dialogue.scores):
        yield "scores: a score is a finite number"


def _message(message: Message, place: str) -> Iterator[str]:
    if wrong := flaw(message.text, f"{place}.text"):
        yield wrong
    if len(message.text) > LONGEST_TEXT:
        yield f"{place}.text has {len(message.text):,} characters, more than the {LONGEST_TEXT:,} that a turn may have"
    if message.audio is not None and message.audio.codes is not None:
        if not message.audio.codes:
            yield f"{place}.codes is empty: leave it out where there is no sound"
        elif min(message.audio.codes) < 0 or max(message.audio.codes) > LARGEST_CODE:
            yield f"{place}.codes: an id is a whole number from 0 to {LARGEST_CODE:,}"
    if message.audio is None and not message.text.strip():
        yield f"{place} is empty: it has neither words nor sound"
    elif message.text and not message.text.strip():
        yield f"{place}.text is blank: leave it out where there is sound alone"
