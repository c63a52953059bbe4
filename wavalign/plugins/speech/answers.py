"""The sound of an answer, for rewards and metrics that listen."""

from wavalign.plugins.batch import Rollout, Scored, Waveform


def sound_of(rollout: Rollout) -> Waveform | Scored:
    """The answer's sound; else why there is none: the policy said nothing, or nothing decoded what it said."""
    waveform = rollout.waveform
    if waveform is None and rollout.answer.codes:
        return Scored(None, "the answer's codes were not decoded")
    if waveform is None or len(waveform.samples) == 0:
        return Scored.absent("the answer has no sound")
    return waveform
