"""What a position of an answer is, where its id alone does not say it.

    role(x) = kind(x)       but AUDIO_MARK for   a word where the layout has no room for text
                                                 an end mark that does not stand directly behind text

Sampling that is asked for text alone stops where no text can follow. What is learned and read as text must not depend
on that, so a family says from the ids before a position whether text may stand there, never does so again once text is
over, and counts the mark that closes a spoken answer among the marks of sound. An answer without sound, the empty one
included, ends in TEXT_END.
"""

import torch
from torch import Tensor

from wavalign.plugins.batch import Role


def placed_roles(kinds: Tensor, *, room_for_text: Tensor, behind_text: Tensor) -> Tensor:
    """Roles, int8, of positions whose ids are of `kinds`; all three of one shape.

    `room_for_text`: bool, the layout lets words stand there. `behind_text`: bool, the position before holds a word of
    the answer, or the answer begins there.
    """
    stray = (kinds == int(Role.TEXT)) & ~room_for_text
    closes_sound = (kinds == int(Role.TEXT_END)) & ~behind_text
    return kinds.masked_fill(stray | closes_sound, int(Role.AUDIO_MARK)).to(torch.int8)


def roles_of_row(kinds: Tensor, room_for_text: Tensor) -> Tensor:
    """`placed_roles` of a whole answer [T]."""
    words = (kinds == int(Role.TEXT)) & room_for_text
    behind = torch.cat([words.new_ones(1), words[:-1]])[: len(words)]
    return placed_roles(kinds, room_for_text=room_for_text, behind_text=behind)
