"""A real, small NAR as a person's own plugin file: a table of prosody ids by content ids, fitted on paired codes."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from safetensors.torch import load_file, save_file

from wavalign.plugins.api import Nar
from wavalign.schema.base import Params, RecipePath


class TableParams(Params):
    """Where the table is."""

    checkpoint: RecipePath
    """Safetensors file that `fit_table` wrote."""


@final
class TableNar(Nar):
    """For every content id the prosody id that most often stood beside it; the voice's own where it says one."""

    type = "toy_table"
    Params = TableParams
    codes_given = 1
    codes_per_frame = 2

    def __init__(self, params: TableParams) -> None:
        super().__init__(params)
        self._table = load_file(params.checkpoint)["table"].tolist()

    def complete(self, codes_first: Sequence[int], *, prompt: Sequence[int] = ()) -> list[int]:
        """Content and prosody in turn."""
        voice = dict(zip(prompt[0::2], prompt[1::2], strict=True))
        return [code for first in codes_first for code in (first, voice.get(first, self._table[first]))]


def fit_table(pairs: Sequence[Sequence[int]], num_content: int, path: Path) -> None:
    """Count which prosody id stands beside which content id in `pairs`, flat codes of sounds."""
    counted: dict[int, Counter[int]] = defaultdict(Counter)
    for codes in pairs:
        for first, second in zip(codes[0::2], codes[1::2], strict=True):
            counted[first][second] += 1
    usual = Counter(second for codes in pairs for second in codes[1::2]).most_common(1)[0][0]
    table = [counted[first].most_common(1)[0][0] if first in counted else usual for first in range(num_content)]
    save_file({"table": torch.tensor(table)}, path)
