"""The embedded world: spoken questions about a closed set of facts, to be answered aloud in the asked style.

Synthesised once into a cache as ordinary JSONL and WAV (about 2 ms a clip on two processes) and then read like any
other file. Splits never share a rendition; `unseen_facts` and `unseen_voices` never occur in the others. The noise
options make the targets of a base model imperfect in a known way. Source: own construction (`plugins.speech.world`).
"""

from typing import final

from wavalign.plugins.data.embedded_world import World, WorldParams


@final
class SpokenWorldParams(WorldParams):
    """Which part of the world, and how clean its targets are."""


@final
class SpokenWorld(World):
    """One split of the embedded world."""

    Params = SpokenWorldParams
    params: SpokenWorldParams
    speakers = "espeak"
