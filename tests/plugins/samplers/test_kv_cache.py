"""The loop: what it records can be scored again, and a row's answer is its own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.plugins.architectures.vita_helpers import NUM_CODES, codes_of, lively_policy, small_vita, spoken_prompts
from wavalign.plugins.api import SamplingOptions
from wavalign.plugins.architectures.vita import VitaAudio
from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy
from wavalign.plugins.batch import AudioClip, Dialogue, Message, Role, Rollout, RolloutGroup, collate, concatenate
from wavalign.plugins.samplers import kv_cache
from wavalign.plugins.samplers.heads import HeadProjections
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams
from wavalign.plugins.samplers.recorded import NO_BUCKETS

LENGTHS = (3, 9, 1, 6)


def options(**changes: Any) -> SamplingOptions:
    settings = {"group_size": 3, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 24, **changes}
    return SamplingOptions(**settings)


def sample(
    vita: VitaAudio, policy: VitaPolicy, settings: SamplingOptions, *, seed: int = 5, order: int = 1, **params: Any
) -> list[RolloutGroup]:
    prompts = spoken_prompts(vita, LENGTHS)[::order]
    generator = torch.Generator().manual_seed(seed)
    return KvCache(KvCacheParams(**params)).sample(policy, vita, prompts, settings, generator)


def rollouts(groups: list[RolloutGroup]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


def rescored(
    vita: VitaAudio, policy: VitaPolicy, group: RolloutGroup, rollout: Rollout, temperature: float
) -> list[float]:
    """Log-probs of a rollout from one pass over the whole row, by head and shift, over the recorded support."""
    row = concatenate(group.prompt, rollout.completion, vita.tokens)
    heads = vita.tokens.heads
    with torch.no_grad():
        states = policy.hidden(collate([row], vita.tokens), frozenset(range(len(heads))))
    assert row.sources is not None
    found = []
    for step in range(rollout.completion.length):
        position = group.prompt.length + step
        source = int(row.sources[0, position])
        hidden = states[source][0, position - heads[source].shift]
        logits = policy.head_weight(source).detach() @ hidden / temperature
        if rollout.support is not None:
            kept = rollout.support[0, step]
            cut = torch.full_like(logits, -torch.inf)
            cut[kept[kept >= 0].long()] = 0
            logits = logits + cut
        found.append(float(functional.log_softmax(logits, dim=0)[row.ids[0, position]]))
    return found


@pytest.mark.parametrize("decoding", [(8192, 0), (1, 2, 3, 4)])
@pytest.mark.parametrize(
    "cut", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 9}, {"temperature": 1.4, "top_p": 0.8}]
)
def test_recorded_logprobs_are_those_of_scoring_again(
    tmp_path: Path, decoding: tuple[int, ...], cut: dict[str, Any]
) -> None:
    vita = small_vita(tmp_path, num_mtp_layers=3, decoding=decoding)
    policy = lively_policy(vita).eval()
    groups = sample(vita, policy, options(**cut))
    sources = set()
    for group in groups:
        for rollout in group.rollouts:
            expected = rescored(vita, policy, group, rollout, cut["temperature"])
            assert rollout.logprobs[0].tolist() == pytest.approx(expected, abs=1e-5)
            assert (rollout.support is None) == (len(cut) == 1)
            assert rollout.completion.sources is not None
            sources |= set(rollout.completion.sources.flatten().tolist())
    assert sources == ({0} if decoding == (8192, 0) else {0, 1, 2, 3})


def test_answers_belong_to_their_row_whatever_the_batch(tmp_path: Path) -> None:
    """Reversed order, one group at a time, and never or always dropping finished rows: the same answers."""
    vita = small_vita(tmp_path, num_mtp_layers=2, decoding=(1, 2))
    policy = lively_policy(vita, scale=4.0)
    expected = rollouts(sample(vita, policy, options()))
    ways: list[dict[str, Any]] = [{"order": -1}, {"max_rows": 1}, {"compact_below": 0.0}, {"compact_below": 1.0}]
    for way in ways:
        groups = sample(vita, policy, options(), **way)[:: way.get("order", 1)]
        for one, other in zip(expected, rollouts(groups), strict=True):
            assert torch.equal(one.completion.ids, other.completion.ids), way
            torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
            assert one.answer == other.answer
    assert len({tuple(x.completion.ids[0].tolist()) for x in expected}) == len(expected)
    assert len({x.completion.length for x in expected}) > 1


def test_looking_seldom_which_rows_are_finished_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an accelerator does: rows go on for some steps after their end, and nothing of that is kept."""
    vita = small_vita(tmp_path)
    policy = lively_policy(vita, scale=4.0)
    settings = options(top_k=20)
    expected = rollouts(sample(vita, policy, settings))
    seldom = replace(NO_BUCKETS, every=7)
    monkeypatch.setattr(kv_cache, "buckets_for", lambda device, record: seldom)
    for one, other in zip(expected, rollouts(sample(vita, policy, settings)), strict=True):
        assert torch.equal(one.completion.ids, other.completion.ids)
        assert torch.equal(one.completion.roles, other.completion.roles)
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
        assert one.answer == other.answer
        assert one.support is not None and other.support is not None
        assert one.support.shape == other.support.shape
    assert len({x.completion.length for x in expected}) > 3


def test_logits_are_single_precision_under_autocast(tmp_path: Path) -> None:
    """Scoring multiplies by the head in float32 whatever surrounds it; sampling from rounded logits would be another
    distribution."""
    vita = small_vita(tmp_path)
    policy = lively_policy(vita)
    hidden = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = HeadProjections(policy, 1).logits(0, hidden)
    torch.testing.assert_close(found, hidden @ policy.head_weight(0).detach().t())


def test_the_generator_decides_and_moves_on(tmp_path: Path) -> None:
    vita = small_vita(tmp_path)
    policy = lively_policy(vita, scale=4.0)
    prompts, sampler = spoken_prompts(vita, LENGTHS), KvCache(KvCacheParams())
    generator = torch.Generator().manual_seed(5)
    calls = [sampler.sample(policy, vita, prompts, options(), generator) for _ in range(2)]
    again = sample(vita, policy, options(), seed=5)
    ids = [[r.completion.ids.tolist() for r in rollouts(groups)] for groups in (*calls, again)]
    assert ids[0] == ids[2] != ids[1]


def test_one_dialogue_twice_gets_two_groups(tmp_path: Path) -> None:
    vita = small_vita(tmp_path)
    policy = lively_policy(vita, scale=4.0)
    twice = spoken_prompts(vita, (4, 4))
    groups = KvCache(KvCacheParams()).sample(policy, vita, twice, options(), torch.Generator().manual_seed(0))
    ids = [[r.completion.ids.tolist() for r in group.rollouts] for group in groups]
    assert ids[0] != ids[1]


def test_roles_and_answers_cover_the_completion_and_nothing_of_the_user(tmp_path: Path) -> None:
    vita = small_vita(tmp_path)
    policy = lively_policy(vita, scale=4.0)
    seen = set()
    for rollout in rollouts(sample(vita, policy, options())):
        ids, roles = rollout.completion.ids[0], rollout.completion.roles[0]
        first = vita.vocabulary.layout.first_code
        codes = [int(x) - first for x in ids if first <= x < first + NUM_CODES]
        assert rollout.answer.codes == tuple(codes)
        assert int((roles == int(Role.AUDIO)).sum()) == len(codes)
        layout = vita.vocabulary.layout
        ends = torch.isin(ids, torch.tensor([layout.end_turn, layout.end_text]))
        assert not ends[:-1].any()
        before = int(roles[-2]) if len(roles) > 1 else int(Role.TEXT)
        if ends[-1]:
            assert int(roles[-1]) == int(Role.TEXT_END if before == int(Role.TEXT) else Role.AUDIO_MARK)
        assert rollout.answer.finished == bool(ends[-1])
        assert rollout.answer.finished or len(ids) == 24
        seen |= set(roles.tolist())
    assert seen == {int(Role.TEXT), int(Role.TEXT_END), int(Role.AUDIO), int(Role.AUDIO_MARK)}


def test_greedy_answers_are_all_alike_and_certain(tmp_path: Path) -> None:
    vita = small_vita(tmp_path)
    policy = lively_policy(vita, scale=4.0)
    for group in sample(vita, policy, options(temperature=0.0)):
        assert len({tuple(r.completion.ids[0].tolist()) for r in group.rollouts}) == 1
        assert all(float(r.logprobs.abs().max()) == 0 and r.support is None for r in group.rollouts)


def test_the_mode_of_every_module_and_the_weights_are_left_as_found(tmp_path: Path) -> None:
    vita = small_vita(tmp_path)
    policy = lively_policy(vita).train()
    policy.model.layers[0].eval()
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    modes = {name: module.training for name, module in policy.named_modules()}
    groups = sample(vita, policy, options(max_new_tokens=4))
    assert {name: module.training for name, module in policy.named_modules()} == modes
    assert all(torch.equal(x, before[name]) for name, x in policy.state_dict().items())
    # What comes back takes part in a backward pass.
    batch = collate([concatenate(g.prompt, r.completion, vita.tokens) for g in groups for r in g.rollouts], vita.tokens)
    torch.autograd.backward(policy.hidden(batch, frozenset({0}))[0].square().mean())


def answers_to_learn() -> list[Dialogue]:
    """Eight questions with one answer each, of one to seven words and two to eleven codes."""
    found = []
    for index in range(8):
        clip = AudioClip(",".join(str((index + i) % 4) for i in range(2 + 3 * (index % 4))))
        said = Message("assistant", " ".join(f"w{(index + i) % 5}" for i in range(1 + index % 7)), clip)
        found.append(Dialogue(str(index), (Message("user", "", AudioClip(str(index))),), said))
    return found


def train(vita: VitaAudio, policy: VitaPolicy) -> None:
    """Teach `policy` the answers, until it makes few mistakes in the layout."""
    rows = [
        concatenate(vita.encode_prompt(dialogue, codes_of), vita.encode_target(dialogue, codes_of), vita.tokens)
        for dialogue in answers_to_learn()
    ]
    batch = collate(rows, vita.tokens)
    scored = batch.roles[:, 0, 1:] > int(Role.PROMPT)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(80):
        logits = policy.hidden(batch, frozenset({0}))[0][:, :-1] @ policy.head_weight(0).T
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(logits[scored], batch.ids[:, 0, 1:][scored]))
        optimizer.step()


def is_well_formed(vita: VitaAudio, rollout: Rollout) -> bool:
    """Whether a completion is laid out as the ratio says."""
    layout, ids = vita.vocabulary.layout, rollout.completion.ids[0].tolist()
    parts = layout.deinterleave(ids, rollout.completion.roles[0].tolist())
    return ids == [*layout.interleave(*parts), layout.end_turn]


def test_stopping_where_no_text_follows_gives_the_texts_of_whole_answers(tmp_path: Path) -> None:
    vita = small_vita(tmp_path, ratio=(1, 4, 2, 4))
    policy = vita.build_policy(seed=0)
    assert isinstance(policy, VitaPolicy)
    train(vita, policy)
    prompts = [(dialogue, vita.encode_prompt(dialogue, codes_of)) for dialogue in answers_to_learn()]
    made = {}
    for need in ("all", "text"):
        settings = options(max_new_tokens=40, temperature=0.7, need=need)
        generator = torch.Generator().manual_seed(1)
        made[need] = rollouts(KvCache(KvCacheParams()).sample(policy, vita, prompts, settings, generator))
    well_formed, texts, saved = 0, set(), 0
    for whole, short in zip(made["all"], made["text"], strict=True):
        length = short.completion.length
        assert torch.equal(whole.completion.ids[:, :length], short.completion.ids)
        torch.testing.assert_close(whole.logprobs[:, :length], short.logprobs, atol=1e-5, rtol=0)
        if is_well_formed(vita, whole):
            assert short.answer.finished
            assert short.answer.text == whole.answer.text
            assert not (whole.completion.roles[:, length:] == int(Role.TEXT)).any()
            well_formed, saved = well_formed + 1, saved + whole.completion.length - length
            texts.add(whole.answer.text)
    assert well_formed >= 12  # how well it learns depends on the machine
    assert len(texts) >= 5
    assert saved > 20
