"""Answers as bytes that hold no code, to the last bit: what a checkpoint keeps of those that wait for their step.

Of a group its dialogue and what its prompt hears are left out: they are made again of the data.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from wavalign.engine.step.records_as_bytes import as_bytes, from_bytes
from wavalign.errors import ResumeError
from wavalign.plugins.batch import Answer, Dialogue, Rollout, RolloutGroup, SoundSegment, TokenSequence, Waveform

_RECORDS = (Answer, Rollout, SoundSegment, TokenSequence, Waveform)


def packed(groups: Sequence[RolloutGroup]) -> bytes:
    """`groups` as the bytes of a safetensors file."""
    return as_bytes(tuple((each.dialogue.id, replace(each.prompt, sounds=()), tuple(each.rollouts)) for each in groups))


def unpacked(
    data: bytes, dialogues: Sequence[Dialogue], prompt: Callable[[Dialogue], TokenSequence]
) -> list[RolloutGroup]:
    """The groups of `packed`, to `dialogues` whose prompts are written anew by `prompt`.

    Raises ResumeError where they are not answers to these.
    """
    records = from_bytes(data, _RECORDS)
    if [name for name, _, _ in records] != [dialogue.id for dialogue in dialogues]:
        raise ResumeError(
            "the answers that a checkpoint keeps for the next step are to other prompts than the data gives",
            hint="resume on the same data",
        )
    return [
        RolloutGroup(dialogue, replace(stored, sounds=prompt(dialogue).sounds), rollouts)
        for (_, stored, rollouts), dialogue in zip(records, dialogues, strict=True)
    ]
