"""What rewards and metrics of the embedded world's kind ask of a dialogue."""

from wavalign.plugins.batch import Dialogue
from wavalign.plugins.speech.wording import references
from wavalign.plugins.speech.world.styles import STYLES

STYLE_NAMES = tuple(style.name for style in STYLES)


def needs_reference(dialogue: Dialogue, key: str | None, *, or_target: bool) -> str | None:
    """What is missing where the right answer should stand under metadata `key`, or, for None, in the target's text."""
    if key is None:
        has = dialogue.target is not None and bool(dialogue.target.text.strip())
        return None if has else "no target with text, which `reference: null` compares with: give one, or name a key"
    if references(dialogue.metadata.get(key)):
        return None
    other = ", or null for the target's text" if or_target else ""
    there = ", ".join(map(str, dialogue.metadata)) or "none"
    return f"no right answer in metadata.{key}: set `reference` to one of its keys ({there}){other}"


def needs_target_sound(dialogue: Dialogue) -> str | None:
    """What is missing where the target should have sound."""
    has = dialogue.target is not None and dialogue.target.audio is not None
    return None if has else "no target with sound, which the answer's sound is compared with: give one"


def needs_style(dialogue: Dialogue) -> str | None:
    """What is missing where a known style should stand under metadata `style`."""
    asked = dialogue.metadata.get("style")
    if isinstance(asked, str) and asked in STYLE_NAMES:
        return None
    return f"no known style in metadata.style ({asked!r}): it is one of {', '.join(STYLE_NAMES)}"
