"""The natural world: the embedded world's questions and answers, spoken by neural voices.

The assistant is a neural woman's voice; the users are that voice in a longer vocal tract, and in `unseen_voices` a real
man's voice and a shorter tract. The facts, splits and noise options are those of `spoken_world`; mumbling is slurred
articulation here, a quarter faster. Clips are 24 kHz; speaking them takes 0.013 of their duration on one process, `joe`
0.1. It needs the extra `natural`. Source: own construction (`plugins.speech.world`).
"""

from typing import final

from wavalign.plugins.data.embedded_world import World, WorldParams


@final
class NaturalWorldParams(WorldParams):
    """Which part of the world, and how clean its targets are."""


@final
class NaturalWorld(World):
    """One split of the natural world."""

    Params = NaturalWorldParams
    params: NaturalWorldParams
    speakers = "natural"
