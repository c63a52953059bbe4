"""What a step's rows come to by kind of token and in operations, and the rates that its time makes of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch

from wavalign.engine.compile.model_flops import TokenFlops
from wavalign.engine.step.batches import MicroBatches
from wavalign.engine.step.selection import Selection
from wavalign.plugins.batch import AUDIO_ROLES, MARK_ROLES, TEXT_ROLES, Role, RolloutGroup

KINDS = {"text": TEXT_ROLES, "audio": AUDIO_ROLES, "marks": MARK_ROLES}
ROWS_KINDS = {"prompt": (Role.PROMPT,), **KINDS}
"""Kinds of the tokens of whole rows; what the layout puts there (FORCED, PAD) is of none."""


@final
@dataclass(frozen=True, slots=True)
class Work:
    """What an update of this rank learns from and computes."""

    rows: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict)
    """Tokens of all streams by `ROWS_KINDS`, of rows that are not run among them."""
    flops: float = 0.0
    """Operations of the rows that are run, by the model's formula."""


def work_of(batches: MicroBatches, selection: Selection, flops: TokenFlops | None) -> Work:
    """Of an update's micro-batches; operations are 0 where nobody knows those of a token."""
    roles, rows, operations = Counter[int](), 0, 0.0
    streams = selection.streams
    for each in batches.counted:
        if not each.is_idle:
            rows += len(each.rows)
            found = torch.bincount(each.tokens.roles[:, :streams].flatten(), minlength=len(Role))
            roles.update(dict(enumerate(found.tolist())))
    for each in batches.made:
        if flops is not None and not each.is_idle:
            lengths = each.tokens.lengths.double()
            select = selection.union(each)
            scored = torch.bincount(each.tokens.sources[select], minlength=len(flops.heads)).tolist()
            span = float((lengths * lengths).sum() / lengths.sum())
            operations += flops.of(tokens=each.filled_tokens, span=span, scored=scored)
    return Work(rows, {kind: sum(roles[role] for role in which) for kind, which in ROWS_KINDS.items()}, operations)


def sampled_kinds(groups: Sequence[RolloutGroup]) -> dict[str, int]:
    """Tokens of the answers of this rank by kind, of all streams."""
    found = [each.completion.roles.flatten() for group in groups for each in group.rollouts]
    counts = torch.bincount(torch.cat(found) if found else torch.zeros(0, dtype=torch.int8), minlength=len(Role))
    return {kind: int(sum(counts[role] for role in which)) for kind, which in KINDS.items()}
