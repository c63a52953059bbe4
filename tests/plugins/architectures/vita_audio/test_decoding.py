"""Hidden states and cached decoding: rows do not see one another, caching changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.plugins.architectures.vita_helpers import lively_policy, small_vita, spoken_prompts
from wavalign.plugins.architectures.vita_audio.layout import head_schedule
from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy
from wavalign.plugins.batch import TokenSequence, collate

LENGTHS = (3, 9, 1)


def run(policy: VitaPolicy, prompts: list[TokenSequence], ids: Tensor, *, group_size: int = 1) -> Tensor:
    """Hidden states [B, T, H] while the answers `ids` [B, T] are dictated."""
    found = []
    with torch.inference_mode():
        state = policy.decode(prompts, group_size=group_size, need="all")
        for step in range(ids.shape[1]):
            found.append(state.hidden()[:, 0])
            state.append(ids[:, step : step + 1])
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("decoding", [(8192, 0), (1, 2, 3, 4), (2, 5)])
def test_a_row_among_others_is_the_row_alone(tmp_path: Path, decoding: tuple[int, ...]) -> None:
    vita = small_vita(tmp_path, num_mtp_layers=3, decoding=decoding)
    policy = lively_policy(vita).eval()
    prompts = [prompt for _, prompt in spoken_prompts(vita, LENGTHS)]
    prompts.append(TokenSequence(prompts[0].ids[:, :1], prompts[0].roles[:, :1]))
    ids = torch.randint(40, (len(prompts), 70), generator=torch.Generator().manual_seed(0))
    together = run(policy, prompts, ids)
    for index, prompt in enumerate(prompts):
        torch.testing.assert_close(
            together[index : index + 1], run(policy, [prompt], ids[index : index + 1]), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("decoding", [(8192, 0), (1, 2, 3, 4), (1, 5)])
def test_cached_states_are_those_of_the_whole_row_whatever_the_head(tmp_path: Path, decoding: tuple[int, ...]) -> None:
    vita = small_vita(tmp_path, num_mtp_layers=3, decoding=decoding)
    policy = lively_policy(vita).eval()
    prompts = [prompt for _, prompt in spoken_prompts(vita, LENGTHS)]
    ids = torch.randint(40, (2 * len(prompts), 24), generator=torch.Generator().manual_seed(0))
    cached = run(policy, prompts, ids, group_size=2)
    from_heads = set()
    for index in range(len(ids)):
        prompt = prompts[index // 2].ids
        whole = torch.cat([prompt, ids[index : index + 1]], dim=1)
        batch = collate([TokenSequence(whole, whole)], vita.tokens)
        with torch.no_grad():
            states = policy.hidden(batch, frozenset(range(4)))
        heads = head_schedule(decoding, 3)
        for step, head in zip(range(ids.shape[1]), heads, strict=False):
            position = prompt.shape[1] + step - vita.tokens.heads[head].shift
            torch.testing.assert_close(cached[index, step], states[head][0, position], atol=1e-5, rtol=0)
            from_heads.add(head)
    assert from_heads == ({0} if decoding == (8192, 0) else {0, 1, 2, 3})


def test_rows_left_behind_change_nothing_for_the_rest(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, num_mtp_layers=2, decoding=(1, 2))
    policy = lively_policy(vita).eval()
    prompts = [prompt for _, prompt in spoken_prompts(vita, LENGTHS)]
    ids = torch.randint(40, (3, 20), generator=torch.Generator().manual_seed(0))
    expected = run(policy, prompts, ids)[[2, 1]]
    found = []
    with torch.inference_mode():
        state, rows = policy.decode(prompts, group_size=1, need="text"), torch.arange(3)
        for step in range(20):
            if step == 7:
                rows = torch.tensor([2, 1])
                state.keep(rows)
            found.append(state.hidden()[-2:, 0] if step >= 7 else state.hidden()[[2, 1], 0])
            state.append(ids[rows, step : step + 1])
    torch.testing.assert_close(torch.stack(found, dim=1), expected, atol=1e-5, rtol=0)


def test_padding_and_other_rows_do_not_reach_a_row(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, num_mtp_layers=3)
    policy = lively_policy(vita).eval()
    rows = [prompt for _, prompt in spoken_prompts(vita, LENGTHS)]
    heads = frozenset(range(4))
    with torch.no_grad():
        together = policy.hidden(collate(rows, vita.tokens), heads)
        for index, row in enumerate(rows):
            alone = policy.hidden(collate([row], vita.tokens), heads)
            for head in heads:
                seen = row.length - head
                torch.testing.assert_close(together[head][index, :seen], alone[head][0, :seen], atol=1e-5, rtol=0)


def test_asking_for_one_head_gives_that_head(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, num_mtp_layers=3)
    policy = lively_policy(vita).eval()
    batch = collate([prompt for _, prompt in spoken_prompts(vita, LENGTHS)], vita.tokens)
    every = policy.hidden(batch, frozenset(range(4)))
    assert set(policy.hidden(batch, frozenset({2}))) == {2}
    assert torch.equal(policy.hidden(batch, frozenset({2}))[2], every[2])
    short = collate([TokenSequence(batch.ids[0, :, :2], batch.roles[0, :, :2])], vita.tokens)
    assert policy.hidden(short, frozenset({3}))[3].shape == (1, 2, 32)


def test_mtp_gets_no_gradient_from_the_main_head(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, num_mtp_layers=2)
    policy = lively_policy(vita)
    batch = collate([prompt for _, prompt in spoken_prompts(vita, LENGTHS)], vita.tokens)
    torch.autograd.backward(policy.hidden(batch, frozenset({0}))[0].square().sum())
    with_gradient = {vita.parameter_group(n) for n, p in policy.named_parameters() if p.grad is not None}
    assert with_gradient == {"embed", "trunk"}
