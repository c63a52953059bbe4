"""What every dialogue must hold, whoever read it."""

from collections.abc import Iterator

from wavalign.plugins.batch import Dialogue, Message
from wavalign.storage.strict_json import flaw

LONGEST_TEXT = 100_000
"""Characters of one turn; about two hours of speech."""
LONGEST_DIALOGUE = 200_000
"""Characters of all its turns."""


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
    for index, target in enumerate(dialogue.answers):
        yield from _message(target, f"targets.{index}" if dialogue.targets else "target")
    if wrong := flaw(dict(dialogue.metadata), "metadata") or flaw(dialogue.id, "id"):
        yield wrong


def _message(message: Message, place: str) -> Iterator[str]:
    if wrong := flaw(message.text, f"{place}.text"):
        yield wrong
    if len(message.text) > LONGEST_TEXT:
        yield f"{place}.text has {len(message.text):,} characters, more than the {LONGEST_TEXT:,} that a turn may have"
    if message.audio is None and not message.text.strip():
        yield f"{place} is empty: it has neither words nor sound"
    elif message.text and not message.text.strip():
        yield f"{place}.text is blank: leave it out where there is sound alone"
