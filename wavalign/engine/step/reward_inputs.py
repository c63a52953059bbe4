"""What a reward is shown of answers beyond what sampling left: the text of their tokens."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from wavalign.plugins.api import Architecture
from wavalign.plugins.batch import Role, Rollout, RolloutGroup


def shown_to(needs: Collection[str], groups: Sequence[RolloutGroup], architecture: Architecture) -> list[RolloutGroup]:
    """`groups` with what a reward that has these `needs` asked for."""
    if "pieces" not in needs:
        return list(groups)
    known: dict[int, str] = {}

    def with_pieces(rollout: Rollout) -> Rollout:
        completion = rollout.completion
        written = completion.ids[completion.roles == Role.TEXT].tolist()
        known.update((token, architecture.token_text(token)) for token in set(written) - known.keys())
        return replace(rollout, pieces=tuple(known[token] for token in written))

    return [replace(group, rollouts=tuple(map(with_pieces, group.rollouts))) for group in groups]
