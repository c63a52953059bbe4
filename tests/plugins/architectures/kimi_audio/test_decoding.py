"""Cached decoding on two streams: the layout's blanks, the ends, and that caching changes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.plugins.architectures.kimi_helpers import NUM_CODES, lively_policy, small_kimi, spoken_prompts, target
from tests.plugins.architectures.vita_helpers import codes_of
from wavalign.engine.models.scored_policy import score_batch
from wavalign.plugins.api import DecodingState, SamplingOptions
from wavalign.plugins.architectures.kimi import KimiAudio
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, TEXT
from wavalign.plugins.architectures.kimi_audio.policy import KimiPolicy
from wavalign.plugins.batch import Role, Rollout, RolloutGroup, SoundSegment, TokenSequence, collate
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams

LENGTHS = (3, 9, 1)
BOTH = frozenset({TEXT, AUDIO})


def dictate(state: DecodingState, ids: Tensor) -> Tensor:
    """Hidden states [B, 2, T, H] while the answers `ids` [B, 2, T] are dictated."""
    found = []
    with torch.inference_mode():
        for step in range(ids.shape[2]):
            found.append(state.hidden())
            state.append(ids[:, :, step])
    return torch.stack(found, dim=2)


@pytest.mark.parametrize("feature_size", [0, 5])
def test_cached_states_are_those_of_the_whole_row(tmp_path: Path, feature_size: int) -> None:
    """Prompts of several lengths, two answers each, with and without features of what the user says."""
    kimi = small_kimi(tmp_path, feature_size=feature_size, codes_only=True)
    policy, generator = lively_policy(kimi).eval(), torch.Generator().manual_seed(0)
    prompts = [prompt for _, prompt in spoken_prompts(kimi, LENGTHS)]
    ids = torch.randint(20, kimi.tokens.vocabulary_size, (2 * len(prompts), 2, 70), generator=generator)
    if feature_size:
        values = [torch.randn(length, feature_size, generator=generator) for length in LENGTHS]
        heard = [[SoundSegment(2, len(own), own)] for own in values]
        heard[1] = [SoundSegment(2, 4, values[1][:4]), SoundSegment(7, 3, values[1][4:7])]
        prompts = [replace(prompt, sounds=tuple(own)) for prompt, own in zip(prompts, heard, strict=True)]
    with torch.inference_mode():
        cached = dictate(policy.decode(prompts, group_size=2, need="all"), ids)
    for index in range(len(ids)):
        prompt = prompts[index // 2]
        whole = torch.cat([prompt.ids, ids[index]], dim=1)
        with torch.no_grad():
            batch = collate([TokenSequence(whole, whole, sounds=prompt.sounds)], kimi.tokens)
            states = policy.hidden(batch, BOTH)
        for head in BOTH:
            expected = states[head][0, prompt.length - 1 : -1]
            torch.testing.assert_close(cached[index, head], expected, atol=1e-5, rtol=0)


def test_rows_left_behind_change_nothing_for_the_rest(tmp_path: Path) -> None:
    kimi = small_kimi(tmp_path)
    policy = lively_policy(kimi).eval()
    prompts = [prompt for _, prompt in spoken_prompts(kimi, LENGTHS)]
    ids = torch.randint(20, 40, (3, 2, 9), generator=torch.Generator().manual_seed(0))
    whole = dictate(policy.decode(prompts, group_size=1, need="all"), ids)
    state, rows = policy.decode(prompts, group_size=1, need="all"), torch.tensor([2, 0])
    dictate(state, ids[:, :, :4])
    state.keep(rows)
    torch.testing.assert_close(dictate(state, ids[rows][:, :, 4:]), whole[rows][:, :, 4:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("delay", [0, 2, 6])
def test_dictating_a_target_gives_its_roles_and_blanks_and_ends_with_it(tmp_path: Path, delay: int) -> None:
    """What training takes for FORCED is what sampling forces, and the answer ends where the target does."""
    kimi = small_kimi(tmp_path, audio_delay=delay)
    policy, prompt = kimi.build_policy(seed=0), spoken_prompts(kimi, (3,))[0][1]
    row = kimi.encode_target(target("w1 w2", [3, 1, 4]), codes_of)
    with torch.inference_mode():
        state = policy.decode([prompt], group_size=1, need="all")
        for step in range(row.length):
            assert not bool(state.finished())
            assert state.heads() == (TEXT, AUDIO)
            forced = row.roles[:, step] == int(Role.FORCED)
            assert torch.equal(state.forced()[0], row.ids[:, step].where(forced, -1))
            assert torch.equal(state.append(row.ids[None, :, step])[0], row.roles[:, step])
    assert bool(state.finished())


def test_text_is_enough_where_only_text_is_needed_or_wanted(tmp_path: Path) -> None:
    kimi = small_kimi(tmp_path)
    policy, prompt = kimi.build_policy(seed=0), spoken_prompts(kimi, (3,))[0][1]
    silent = kimi.encode_prompt(target("w1", []), codes_of)
    end, word, code = kimi.vocabulary.layout.text_end, 8, kimi.vocabulary.layout.first_code
    with torch.inference_mode():
        needed = policy.decode([prompt], group_size=1, need="text")
        wanted = policy.decode([prompt, silent], group_size=1, need="all")
        for ids in ([word, code], [end, code]):
            assert not needed.finished().any() and not wanted.finished().any()
            assert (wanted.forced()[1] >= 0).tolist() == [False, True]
            needed.append(torch.tensor([ids]))
            wanted.append(torch.tensor([ids, [ids[0], kimi.vocabulary.layout.blank]]))
    assert needed.finished().tolist() == [True]
    assert wanted.finished().tolist() == [False, True]


@pytest.mark.parametrize("field", ["message_end", "media_end"])
def test_either_end_of_sound_ends_an_answer_and_no_other_id_does(tmp_path: Path, field: str) -> None:
    kimi = small_kimi(tmp_path, audio_delay=0)
    layout = kimi.vocabulary.layout
    state = kimi.build_policy(seed=0).decode([spoken_prompts(kimi, (3,))[0][1]], group_size=3, need="all")
    ends = {"message_end": layout.message_end, "media_end": layout.media_end}
    ids = torch.tensor([[8, ends[field]], [ends[field], layout.first_code], [8, layout.user_start]])
    roles = state.append(ids)
    assert state.finished().tolist() == [True, False, False]
    mark, said = int(Role.AUDIO_MARK), int(Role.AUDIO)
    assert roles[:, AUDIO].tolist() == [mark, said, mark]
    assert roles[:, TEXT].tolist() == [int(Role.TEXT)] * 3


def calls(policy: KimiPolicy) -> dict[str, int]:
    """How often each layer and each head is called from now on."""
    counts: dict[str, int] = {}

    def counting(name: str) -> Callable[..., None]:
        def count(*_: object) -> None:
            counts[name] = counts.get(name, 0) + 1

        return count

    for name, module in policy.named_modules():
        if name.endswith(("self_attn", "mimo_norm", "lm_head", "mimo_output")):
            counts[name] = 0
            for part in [module.q_proj] if name.endswith("self_attn") else [module]:  # cached decoding calls the parts
                part.register_forward_hook(counting(name))
    return counts


def test_scoring_text_runs_no_layer_of_the_audio_branch(tmp_path: Path) -> None:
    kimi = small_kimi(tmp_path)
    policy, prompts = lively_policy(kimi).eval(), [prompt for _, prompt in spoken_prompts(kimi, LENGTHS)]
    counts, batch = calls(policy), collate(prompts, kimi.tokens)
    used: list[Tensor] = []
    weight = policy.mimo_output.weight
    weight.register_hook(used.append)
    select = batch.roles == int(Role.PROMPT)
    select[:, AUDIO] = False
    select[:, :, 0] = False
    torch.autograd.backward(score_batch(policy, batch, select, kimi.tokens, temperature=1.0).sum())
    trunk, branch = (
        {name: n for name, n in counts.items() if name.startswith(f"model.{part}")} for part in ("layers", "mimo")
    )
    assert set(trunk.values()) == {1} and len(trunk) == 3
    assert set(branch.values()) == {0} and len(branch) == 2
    assert not used and weight.grad is None
    policy.hidden(batch, frozenset({AUDIO}))
    assert [counts[f"model.layers.{index}.self_attn"] for index in range(3)] == [2, 2, 1]  # branch_layer is 1
    assert {counts[name] for name in branch} == {1}


@pytest.mark.parametrize("need", ["text", "all"])
def test_decoding_text_alone_runs_no_layer_of_the_audio_branch(tmp_path: Path, need: Literal["text", "all"]) -> None:
    kimi = small_kimi(tmp_path, output="text")
    policy, prompts = lively_policy(kimi).eval(), [prompt for _, prompt in spoken_prompts(kimi, LENGTHS)]
    counts = calls(policy)
    with torch.inference_mode():
        state = policy.decode(prompts, group_size=1, need=need)
        state.append(torch.full((3, 2), kimi.vocabulary.layout.blank))
        assert state.hidden().shape == (3, 2, 32)
    assert {n for name, n in counts.items() if name.startswith("model.layers")} == {2}
    assert {n for name, n in counts.items() if name.startswith("model.mimo_layers")} == {0}


def sample(kimi: KimiAudio, policy: KimiPolicy, **changes: Any) -> list[RolloutGroup]:
    settings = {"group_size": 8, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 40, **changes}
    prompts, generator = spoken_prompts(kimi, LENGTHS), torch.Generator().manual_seed(5)
    return KvCache(KvCacheParams()).sample(policy, kimi, prompts, SamplingOptions(**settings), generator)


def rollouts(groups: list[RolloutGroup]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


def test_sampled_answers_keep_to_the_layout(tmp_path: Path) -> None:
    kimi = small_kimi(tmp_path)
    policy, layout = lively_policy(kimi, scale=4.0), kimi.vocabulary.layout
    finished, texts_over = 0, 0
    for rollout in rollouts(sample(kimi, policy)):
        (text, audio), (text_roles, audio_roles) = rollout.completion.ids.tolist(), rollout.completion.roles.tolist()
        assert audio[: layout.delay] == [layout.blank] * layout.delay
        assert set(audio_roles[: layout.delay]) == {int(Role.FORCED)}
        assert set(audio_roles[layout.delay :]) <= {int(Role.AUDIO), int(Role.AUDIO_MARK)}
        if layout.text_end in text:
            end = text.index(layout.text_end)
            assert text_roles[end] == int(Role.TEXT_END)
            assert set(text[end + 1 :]) <= {layout.blank} and set(text_roles[end + 1 :]) <= {int(Role.FORCED)}
            texts_over += len(text) > end + 1
        ends = [x in layout.audio_ends for x in audio[layout.delay :]]
        assert not any(ends[:-1])
        assert rollout.answer.finished == ends[-1]
        assert len(rollout.answer.codes) == audio_roles.count(int(Role.AUDIO))
        assert bool((rollout.logprobs[rollout.completion.roles == int(Role.FORCED)] == 0).all())
        finished += rollout.answer.finished
    assert finished > 3 and texts_over > 3


def test_needing_text_alone_gives_the_beginnings_of_the_same_answers(tmp_path: Path) -> None:
    kimi = small_kimi(tmp_path)
    policy = lively_policy(kimi, scale=4.0)
    shorter = 0
    for whole, short in zip(rollouts(sample(kimi, policy)), rollouts(sample(kimi, policy, need="text")), strict=True):
        length = short.completion.length
        assert torch.equal(whole.completion.ids[:, :length], short.completion.ids)
        assert whole.answer.text == short.answer.text
        shorter += length < whole.completion.length
    assert shorter > 3


def test_a_code_of_the_user_reaches_no_mask(tmp_path: Path) -> None:
    kimi = small_kimi(tmp_path)
    for _, prompt in spoken_prompts(kimi, LENGTHS):
        assert bool((prompt.ids[AUDIO] >= kimi.vocabulary.layout.first_code).any())
        assert set(prompt.roles.flatten().tolist()) <= {int(Role.PROMPT), int(Role.FORCED)}
    assert kimi.tokens.num_codes == NUM_CODES
