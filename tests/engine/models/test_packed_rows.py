"""What rows begin with, found from the rows; and what a scored policy makes of packed ones, whatever it computes in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.plugins.architectures.vita_helpers import small_vita
from wavalign.engine.models.packed_rows import find_units, forward_tokens, laid_out, packed, packing_options
from wavalign.engine.models.recompute import recompute_layers
from wavalign.engine.models.scored_policy import ScoredPolicy, score_batch
from wavalign.plugins.api import Policy
from wavalign.plugins.architectures.vita import VitaAudio
from wavalign.plugins.batch import Role, SoundSegment, TokenBatch, TokenSequence, collate
from wavalign.plugins.packing import PackingOptions
from wavalign.plugins.scalars import ScalarHead

BOTH = PackingOptions(share=True, pack=True, pairs=1e9)


@pytest.fixture
def vita(tmp_path: Path) -> VitaAudio:
    return small_vita(tmp_path, num_mtp_layers=1, decoding=(1, 1))


def row(*ids: int, prompt: int, sounds: tuple[SoundSegment, ...] = ()) -> TokenSequence:
    roles = [int(Role.PROMPT)] * prompt + [int(Role.TEXT)] * (len(ids) - prompt)
    return TokenSequence(torch.tensor([ids]), torch.tensor([roles], dtype=torch.int8), sounds=sounds)


def rows() -> tuple[list[TokenSequence], list[str]]:
    """Answers to two prompts, a pair of equal ones among them, and a row alone."""
    first = [row(1, 2, 3, 4, 5, *rest, prompt=5) for rest in ((6, 7), (6, 7), (6, 8, 9), (10,))]
    second = [row(11, 12, 13, 14, *rest, prompt=4) for rest in ((6,), (7, 7, 7, 7))]
    return [*first, *second, row(3, 4, 5, prompt=1)], ["a"] * 4 + ["b"] * 2 + ["c"]


def batches(vita: VitaAudio) -> tuple[TokenBatch, TokenBatch, Tensor]:
    given, groups = rows()
    dense = collate(given, vita.tokens)
    close = packed(dense, groups, replace(BOTH, ahead=1))
    assert close.packing is not None
    return dense, close, dense.roles == int(Role.TEXT)


def lengths_of(vita: VitaAudio, options: PackingOptions) -> list[tuple[int, tuple[tuple[int, ...], ...]]]:
    given, groups = rows()
    return [(each.prefix, each.members) for each in find_units(collate(given, vita.tokens), groups, options)]


def test_what_rows_begin_with_is_found(vita: VitaAudio) -> None:
    assert lengths_of(vita, BOTH) == [(5, ((0, 1), (2,), (3,))), (4, ((4,), (5,))), (0, ((6,),))]
    assert lengths_of(vita, replace(BOTH, ahead=2))[:2] == [(3, ((0, 1), (2,), (3,))), (2, ((4,), (5,)))]
    assert [prefix for prefix, _ in lengths_of(vita, replace(BOTH, ahead=9))] == [0] * 6
    assert lengths_of(vita, replace(BOTH, share=False)) == [(0, ((number,),)) for number in range(7)]


def test_rows_of_other_groups_share_nothing(vita: VitaAudio) -> None:
    dense = collate(rows()[0], vita.tokens)
    assert all(unit.prefix == 0 for unit in find_units(dense, list(range(7)), BOTH))


def test_other_sounds_are_another_beginning_and_none_is_cut(vita: VitaAudio) -> None:
    one, other = SoundSegment(1, 2, torch.ones(2, 3)), SoundSegment(1, 2, torch.ones(2, 3))
    same = collate(
        [row(1, 2, 3, 4, 5, prompt=4, sounds=(one,)), row(1, 2, 3, 4, 6, prompt=4, sounds=(one,))], vita.tokens
    )
    apart = collate(
        [row(1, 2, 3, 4, 5, prompt=4, sounds=(one,)), row(1, 2, 3, 4, 6, prompt=4, sounds=(other,))], vita.tokens
    )
    assert [unit.prefix for unit in find_units(same, "aa", BOTH)] == [4]
    assert [unit.prefix for unit in find_units(apart, "aa", BOTH)] == [1]
    (cut,) = find_units(same, "aa", replace(BOTH, ahead=2))
    assert cut.prefix == 1  # 2 would end within the sound
    batch = packed(same, "aa", BOTH)
    assert batch.packing is not None
    (sounds,) = laid_out(batch, batch.packing).sounds
    assert [(each.start, each.values is one.values) for each in sounds] == [(1, True)]


def test_tokens_are_counted_as_they_are_packed(vita: VitaAudio) -> None:
    given, groups = rows()
    dense = collate(given, vita.tokens)
    lengths, units = dense.lengths.tolist(), find_units(dense, groups, BOTH)
    for some in ([0, 1, 2, 3], [0, 6], [4, 5, 6], list(range(7))):
        again = packed(collate([given[each] for each in some], vita.tokens), [groups[each] for each in some], BOTH)
        tokens = again.ids[:, 0].numel() if again.packing is None else again.packing.tokens
        assert forward_tokens(units, lengths, some, BOTH) == tokens


def learned(policy: Policy, vita: VitaAudio, batch: TokenBatch, select: Tensor, **options: Any) -> dict[str, Tensor]:
    """Log-probs, scalars and every gradient."""
    module = ScoredPolicy(policy, vita.tokens, **options)
    for number, layer in enumerate(module.scalar_heads.layers()):
        torch.nn.init.constant_(layer.weight, 0.1 + number)
    module.to(next(policy.parameters()).dtype).zero_grad()
    logprobs, scalars = module(batch, select, temperature=0.9)
    found = {"logprobs": logprobs, **scalars}
    torch.autograd.backward(
        torch.stack([(each * torch.linspace(-1, 2, each.numel()).view_as(each)).sum() for each in found.values()]).sum()
    )
    gradients = {name: each.grad for name, each in module.named_parameters() if each.grad is not None}
    return {name: each.detach().clone() for name, each in (found | gradients).items()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Each to 1e-6 of its size: norms compute in float32 whatever the policy does."""
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        assert (found[name] - each).norm() <= 1e-6 * each.norm() + 1e-12, name


HEADS = (ScalarHead("values", "token"), ScalarHead("row_values", "sequence"))


@pytest.mark.parametrize("critic", [False, True])
def test_scalar_heads_read_packed_rows(vita: VitaAudio, critic: bool) -> None:
    dense, close, select = batches(vita)
    policy = vita.build_policy(seed=0).double()
    second = vita.build_policy(seed=1).double() if critic else None
    found = [
        learned(policy, vita, each, select, scalars=HEADS, hidden_size=32, critic=second) for each in (dense, close)
    ]
    assert_same(found[1], found[0])
    assert found[0].keys() >= {"values", "row_values", "scalar_heads.values_head.weight"}
    assert any(name.startswith("critic.") for name in found[0]) == critic


def test_layers_may_be_computed_again(vita: VitaAudio) -> None:
    dense, close, select = batches(vita)
    policy = vita.build_policy(seed=0).double().train()
    plain = learned(policy, vita, dense, select)
    recompute_layers(policy)
    assert_same(learned(policy, vita, close, select), plain)


def test_half_precision_masks_what_single_does(vita: VitaAudio) -> None:
    dense, close, select = batches(vita)
    policy = vita.build_policy(seed=0)
    exact = score_batch(policy, dense, select, vita.tokens, temperature=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = score_batch(policy, close, select, vita.tokens, temperature=1.0)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.02)
    whole = score_batch(policy.bfloat16(), close, select, vita.tokens, temperature=1.0)
    torch.testing.assert_close(whole, exact, rtol=0, atol=0.05)


class Watched(Policy):
    """Notes which batches a network is given."""

    def __init__(self, inner: Policy) -> None:
        super().__init__()
        self.inner, self.given = inner, list[TokenBatch]()

    def hidden(self, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        self.given.append(batch)
        return self.inner.hidden(batch, heads)

    def head_weight(self, head: int) -> torch.nn.Parameter:
        return self.inner.head_weight(head)

    def decode(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


class Packing(Watched):
    """Heeds layouts."""

    packs = True


def test_a_network_that_heeds_no_layout_is_given_rows_as_they_are(vita: VitaAudio) -> None:
    _, close, select = batches(vita)
    inner = vita.build_policy(seed=0)
    for kind in (Watched, Packing):
        policy = kind(inner)
        score_batch(policy, close, select, vita.tokens, temperature=1.0)
        assert [each.layout is not None for each in policy.given] == [kind is Packing]
        options = packing_options(policy, vita.dimensions(), share=True, pack=False)
        assert (options is not None) == (kind is Packing)
    assert packing_options(inner, vita.dimensions(), share=False, pack=False) is None


def test_heads_that_look_further_than_was_shared_for_get_rows_as_they_are(vita: VitaAudio) -> None:
    given, groups = rows()
    close = packed(collate(given, vita.tokens), groups, BOTH)  # for the main head alone
    policy = Packing(vita.build_policy(seed=0))
    select = close.roles == int(Role.TEXT)
    ScoredPolicy(policy, vita.tokens)(close, select, temperature=1.0)
    ScoredPolicy(policy, vita.tokens)(close, select, temperature=1.0, heads=frozenset({1}))
    assert [each.layout is not None for each in policy.given] == [True, False]


def test_some_rows_are_scored_packed(vita: VitaAudio) -> None:
    """Rows that nobody asks about do not reach the network, and the others do as they are packed."""
    dense, close, select = batches(vita)
    select = select & (torch.arange(7) != 2).view(-1, 1, 1) & (torch.arange(7) < 4).view(-1, 1, 1)
    policy = Packing(vita.build_policy(seed=0).double())
    found = score_batch(policy, close, select, vita.tokens, temperature=0.7)
    torch.testing.assert_close(
        found, score_batch(policy, dense, select, vita.tokens, temperature=0.7), rtol=1e-6, atol=1e-7
    )
    assert policy.given[0].layout is not None
    assert policy.given[0].ids[:, 0].numel() == 4 + (1 + 2) + (1 + 1)  # the last prompt token stands before each answer
