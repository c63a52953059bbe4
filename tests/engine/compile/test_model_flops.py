"""Operations of a token: by hand on the toy network, and against what torch counts of real passes."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.plugins.architectures.test_conformance import MAKERS
from tests.toy.compiled import Change, compiled, put
from tests.toy.live import live_stage
from wavalign.engine.compile import peaks
from wavalign.engine.compile.model_flops import TokenFlops, token_flops
from wavalign.engine.compile.peaks import peak_flops
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.plugins.api import Architecture
from wavalign.plugins.batch import Role, TokenSequence, collate
from wavalign.schema.component import Component
from wavalign.schema.model import ModelSection

PROJECTIONS = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48
"""Of the toy network's layer: queries and output, keys and values of one head of two, and the three of the MLP."""


def of_toy(folder: Path, *changes: Change) -> TokenFlops:
    live = live_stage(compiled(folder, *changes))
    try:
        assert live.settings.flops is not None
        return live.settings.flops
    finally:
        live.close()


def test_the_toy_network_by_hand(tmp_path: Path) -> None:
    """H 32, one layer, I 48; 14 words of the tokenizer and what the family adds make the vocabulary of its head."""
    found = of_toy(tmp_path)
    assert (found.trunk, found.attention) == (6 * PROJECTIONS, 12 * 32)
    assert (found.beyond, found.attention_beyond) == (0, 0)
    (head,) = found.heads
    assert head % (6 * 32) == 0 and 14 < head / (6 * 32) < 100
    tokens = 10 * (6 * PROJECTIONS + 12 * 32 * 7) + 3 * head
    assert found.of(tokens=10, span=7, scored=[3]) == tokens


def test_what_is_frozen_has_no_gradient_of_its_own(tmp_path: Path) -> None:
    frozen = of_toy(tmp_path, put("model.freeze", ["trunk"]))
    assert frozen.trunk == 4 * PROJECTIONS
    adapter = put("model.adapter", {"type": "lora", "rank": 2, "targets": ["q_proj", "o_proj"]})
    adapted = of_toy(tmp_path, adapter)
    assert adapted.trunk == 4 * PROJECTIONS + 6 * 2 * (2 * 2 * 32)
    assert adapted.heads[0] == 4 / 6 * frozen.heads[0]


def model_section() -> ModelSection:
    return ModelSection(architecture=Component(type="vita"), preset="tiny")


def rows(architecture: Architecture, lengths: tuple[int, ...]) -> list[TokenSequence]:
    """Rows of random text without padding inside, the second half of each to be scored by the first head."""
    space, found = architecture.tokens, []
    for number, length in enumerate(lengths):
        ids = torch.randint(1, 12, (len(space.streams), length), generator=torch.Generator().manual_seed(number))
        roles = torch.full(ids.shape, Role.FORCED, dtype=torch.int8)
        roles[0, : length // 2], roles[0, length // 2 :] = Role.PROMPT, Role.TEXT
        found.append(TokenSequence(ids, roles))
    return found


@pytest.mark.parametrize("maker", ["vita", "kimi", "codec_lm", "codec_lm, qwen2 trunk"])
def test_against_what_torch_counts(tmp_path: Path, maker: str) -> None:
    """Forward and backward of whole rows, within 3 %."""
    architecture: Architecture = MAKERS[maker](tmp_path)
    policy, space = architecture.build_policy(seed=1), architecture.tokens
    batch = collate(rows(architecture, (24, 24, 24)), space)
    select = torch.isin(batch.roles, torch.tensor([Role.TEXT]))
    scored = ScoredPolicy(policy, space)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logprobs, _ = scored(batch, select, temperature=1.0)
        logprobs.sum().backward()
    flops = token_flops(architecture, model_section())
    counts = torch.bincount(batch.sources[select], minlength=len(space.heads)).tolist()
    expected = flops.of(tokens=3 * 24, span=24, scored=counts)
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("maker", ["vita, multi-token", "kimi"])
def test_layers_beyond_the_first_head_count_where_their_heads_score(tmp_path: Path, maker: str) -> None:
    flops = token_flops(MAKERS[maker](tmp_path), model_section())
    assert flops.beyond > 0 and flops.attention_beyond > 0
    alone = flops.of(tokens=10, span=5, scored=[10, *[0] * (len(flops.heads) - 1)])
    both = flops.of(tokens=10, span=5, scored=[9, 1, *[0] * (len(flops.heads) - 2)])
    more = 10 * (flops.beyond + 5 * flops.attention_beyond) + flops.heads[1] - flops.heads[0]
    assert both - alone == pytest.approx(more)


def test_peaks_are_those_of_whole_names() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 19.5e12
    assert peak_flops("Tesla T4", "bf16") is None, "it has no bfloat16"
    assert peak_flops("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "bf16") is None
    assert peak_flops("cpu", "float32") is None


def test_the_table_of_peaks_names_a_source_for_each_row() -> None:
    table = json.loads(Path(peaks.__file__).with_name("peaks.json").read_text())["devices"]
    names = [name for row in table for name in row["names"]]
    assert len(names) == len({*names})
    assert all(row["source"] and 0 < max(row["tflops"].values()) < 5000 for row in table)
    assert all({*row["tflops"]} <= {"bf16", "fp16", "float32"} for row in table)
