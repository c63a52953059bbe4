"""What a reward is shown of answers beyond what sampling left: the text of their tokens, the codes of their targets."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from wavalign.engine.feeding.feeds import Encoder
from wavalign.plugins.batch import AudioClip, Dialogue, Role, Rollout, RolloutGroup


def shown_to(needs: Collection[str], groups: Sequence[RolloutGroup], encoder: Encoder) -> list[RolloutGroup]:
    """`groups` with what a reward that has these `needs` asked for."""
    found = list(groups)
    if "pieces" in needs:
        found = _with_pieces(found, encoder)
    if "target_codes" in needs:
        found = [replace(group, dialogue=_with_codes(group.dialogue, encoder)) for group in found]
    return found


def _with_pieces(groups: Sequence[RolloutGroup], encoder: Encoder) -> list[RolloutGroup]:
    """The text of every text token."""
    known: dict[int, str] = {}

    def completed(rollout: Rollout) -> Rollout:
        completion = rollout.completion
        written = completion.ids[completion.roles == Role.TEXT].tolist()
        known.update((token, encoder.architecture.token_text(token)) for token in set(written) - known.keys())
        return replace(rollout, pieces=tuple(known[token] for token in written))

    return [replace(group, rollouts=tuple(map(completed, group.rollouts))) for group in groups]


def _with_codes(dialogue: Dialogue, encoder: Encoder) -> Dialogue:
    """The codes of the target's sound, where it has any."""
    target = dialogue.target
    if target is None or target.audio is None:
        return dialogue
    clip = AudioClip.of_codes(encoder.codes(target.audio), target.audio.url)
    return replace(dialogue, target=replace(target, audio=clip))
