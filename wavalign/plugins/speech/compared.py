"""The sound that an answer's sound is compared with: the target's, the user's, a voice prompt, or a file."""

from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip, Dialogue
from wavalign.plugins.speech.facets import Facets, facets
from wavalign.plugins.speech.needs import needs_target_sound
from wavalign.plugins.speech.speaker import speaker_embedding

Whose = Literal["target", "user", "voice_prompt"]
WHOM = {"target": "the gold sound", "user": "the user's turn", "voice_prompt": "the voice prompt"}


def clip_of(dialogue: Dialogue, whose: Whose) -> AudioClip | None:
    """The gold sound, the user's last turn, or the sound that `metadata.voice_prompt` names; None without one."""
    if whose == "target":
        return None if dialogue.target is None else dialogue.target.audio
    if whose == "user":
        return next((turn.audio for turn in reversed(dialogue.messages) if turn.role == "user"), None)
    named = dialogue.metadata.get("voice_prompt")
    return AudioClip(named) if isinstance(named, str) else None


def needs_sound_of(dialogue: Dialogue, whose: Whose, *, option: str) -> str | None:
    """What is missing where that sound should be; `option` chooses another one."""
    if whose == "target":
        return needs_target_sound(dialogue)
    if clip_of(dialogue, whose) is not None:
        return None
    return f"no sound of {WHOM[whose]}, which is compared with: set `{option}` to another one"


def text_of(dialogue: Dialogue, whose: Whose) -> str:
    """What is said in that sound, as far as the dialogue tells."""
    if whose == "target":
        return "" if dialogue.target is None else dialogue.target.text
    if whose == "user":
        return next((turn.text for turn in reversed(dialogue.messages) if turn.role == "user"), "")
    return ""


def facets_like(dialogue: Dialogue, whose: Whose) -> Facets:
    """Facets of that sound; without one none."""
    clip = clip_of(dialogue, whose)
    return {} if clip is None else _clip_facets(clip.url, text_of(dialogue, whose))


def voice_similarity(said: npt.NDArray[np.float64] | None, clip: AudioClip) -> float | None:
    """Cosine of an answer's speaker embedding [256] and that of `clip`; None where either is silent."""
    wanted = clip_embedding(clip.url)
    return None if said is None or wanted is None else float(said @ wanted)


@lru_cache(maxsize=4096)
def clip_embedding(url: str) -> npt.NDArray[np.float64] | None:
    """Speaker embedding [256] of a clip, which is compared with again and again; None for silence."""
    return speaker_embedding(audio.read(AudioClip(url), sample_rate=None))


@lru_cache(maxsize=4096)
def _clip_facets(url: str, text: str) -> Facets:
    """Facets of a clip, likewise."""
    return facets(audio.read(AudioClip(url), sample_rate=None), text)
