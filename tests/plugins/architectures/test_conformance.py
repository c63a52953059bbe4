"""What every architecture owes the rest: one suite over small instances of all of them.

A new architecture joins by a line in `MAKERS`. What only one family has is tested beside that family.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.plugins.architectures.codec_lm_helpers import small_codec_lm
from tests.plugins.architectures.kimi_helpers import hearing_kimi, small_kimi, write_clip
from tests.plugins.architectures.vita_helpers import NUM_CODES, codes_of, hearing_vita, small_vita, spoken
from wavalign.engine.models.packed_rows import packed
from wavalign.engine.models.scored_policy import ScoredPolicy, score_batch
from wavalign.errors import DataError
from wavalign.plugins.api import Architecture, ModelSource, Policy, SamplingOptions
from wavalign.plugins.batch import (
    SCORED_ROLES,
    TEXT_ROLES,
    AudioClip,
    Dialogue,
    Message,
    Role,
    Rollout,
    RolloutGroup,
    SoundSegment,
    TokenBatch,
    TokenSequence,
    collate,
    concatenate,
)
from wavalign.plugins.catalog import CATALOG
from wavalign.plugins.packing import PackingOptions
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams
from wavalign.storage.tensors import load_into, read_checkpoint, save_weights

MAKERS: dict[str, Callable[[Path], Architecture]] = {
    "vita": small_vita,
    "vita, multi-token": lambda folder: small_vita(
        folder, num_mtp_layers=2, decoding=(1, 2, 3, 4), tie_embeddings=False, ratio=(2, 5)
    ),
    "vita, hears features": hearing_vita,
    "vita, hears features, multi-token": lambda folder: hearing_vita(
        folder, num_mtp_layers=2, decoding=(1, 2, 3, 4), tie_embeddings=False, ratio=(2, 5)
    ),
    "kimi": small_kimi,
    "kimi, no delay": lambda folder: small_kimi(folder, audio_delay=0),
    "kimi, long delay": lambda folder: small_kimi(
        folder, audio_delay=6, branch_layer=2, num_audio_layers=2, feature_size=5, codes_only=True
    ),
    "kimi, features": hearing_kimi,
    "codec_lm": small_codec_lm,
    "codec_lm, qwen2 trunk": lambda folder: small_codec_lm(
        folder, trunk="qwen2", template="anygpt", tie_embeddings=False, codes_per_frame=2
    ),
    "codec_lm, two codebooks": lambda folder: small_codec_lm(folder, delays=(0, 1)),
    "codec_lm, late codebook": lambda folder: small_codec_lm(folder, delays=(0, 3), tie_embeddings=False),
}
LENGTHS = (4, 10, 2, 6)  # even: some write two codes a frame


@dataclass(frozen=True, slots=True)
class Specimen:
    """A small instance and a policy whose distributions are far from uniform."""

    architecture: Architecture
    policy: Policy

    @property
    def heads(self) -> frozenset[int]:
        return frozenset(range(len(self.architecture.tokens.heads)))

    def prompts(self) -> list[tuple[Dialogue, TokenSequence]]:
        """Prompts of several lengths, the user speaking."""
        dialogues = [spoken(f"d{n}", [(3 * n + i) % NUM_CODES for i in range(n)]) for n in LENGTHS]
        return [(dialogue, self.architecture.encode_prompt(dialogue, codes_of)) for dialogue in dialogues]

    def demonstrations(self) -> list[tuple[TokenSequence, TokenSequence]]:
        """Prompts with targets of several lengths."""
        found = []
        for index, (dialogue, prompt) in enumerate(self.prompts()):
            said = answer_of(words=index, codes=4 + 2 * index)
            found.append((prompt, self.architecture.encode_target(replace(dialogue, target=said), codes_of)))
        return found

    def batch(self) -> TokenBatch:
        """The demonstrations as rows."""
        space = self.architecture.tokens
        return collate([concatenate(prompt, answer, space) for prompt, answer in self.demonstrations()], space)

    def sample(self, *, order: int = 1, **changes: Any) -> list[RolloutGroup]:
        settings = {"group_size": 3, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 20, **changes}
        options, generator = SamplingOptions(**settings), torch.Generator().manual_seed(5)
        prompts = self.prompts()[::order]
        return KvCache(KvCacheParams()).sample(self.policy, self.architecture, prompts, options, generator)[::order]


def lively(policy: Policy, scale: float = 6.0) -> Policy:
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return policy.eval()


def answer_of(*, words: int, codes: int) -> Message:
    clip = AudioClip(",".join(str(5 * i % NUM_CODES) for i in range(codes))) if codes else None
    return Message("assistant", " ".join(f"w{i}" for i in range(words)), clip)


@pytest.fixture(scope="module", autouse=True)
def clips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What users say as files, for architectures that listen to the sound itself; the suite runs beside them."""
    folder = tmp_path_factory.mktemp("clips")
    for codes in ([1, 2], *([(3 * n + i) % NUM_CODES for i in range(n)] for n in LENGTHS)):
        write_clip(codes, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.fixture(scope="module", params=sorted(MAKERS))
def specimen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    """One instance for all tests, which leave it as it was; those that cannot take a `fresh` one."""
    architecture = MAKERS[request.param](tmp_path_factory.mktemp("tokenizer"))
    return Specimen(architecture, lively(architecture.build_policy(seed=0)))


@pytest.fixture
def fresh(specimen: Specimen) -> Specimen:
    return replace(specimen, policy=deepcopy(specimen.policy))


@pytest.fixture(scope="module")
def groups(specimen: Specimen) -> list[RolloutGroup]:
    """Sampled answers."""
    return specimen.sample()


def rollouts(groups: Sequence[RolloutGroup]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


def among(roles: Tensor, wanted: Sequence[Role]) -> Tensor:
    return torch.isin(roles, torch.tensor([int(role) for role in wanted], dtype=roles.dtype))


def test_every_built_in_architecture_is_here() -> None:
    assert {kind.split(",")[0] for kind in MAKERS} == {type_ for kind, type_ in CATALOG if kind == "architecture"}


def test_heads_and_streams_fit_one_another(specimen: Specimen) -> None:
    space = specimen.architecture.tokens
    assert {head.stream for head in space.heads} == set(range(len(space.streams)))
    assert len({head.name for head in space.heads}) == len(space.heads)
    assert all(head.shift >= 1 for head in space.heads)
    assert [space.heads[index].shift for index in space.main_heads] == [1] * len(space.streams)
    assert space.num_codes == NUM_CODES
    for head in specimen.heads:
        weight = specimen.policy.head_weight(head)
        assert weight.shape == (space.vocabulary_size, specimen.architecture.dimensions().hidden)
        assert any(weight is parameter for parameter in specimen.policy.parameters())


def test_every_position_has_one_role_and_nothing_of_the_user_is_scored(specimen: Specimen) -> None:
    space = specimen.architecture.tokens
    for prompt, answer in specimen.demonstrations():
        for row in (prompt, answer):
            assert row.ids.shape == row.roles.shape == (len(space.streams), row.length)
            assert (row.ids.dtype, row.roles.dtype) == (torch.int64, torch.int8)
            assert 0 <= int(row.ids.min()) <= int(row.ids.max()) < space.vocabulary_size
        assert bool(among(prompt.roles, (Role.PROMPT, Role.FORCED)).all())
        assert bool(among(answer.roles, (*SCORED_ROLES, Role.FORCED)).all())
    batch = specimen.batch()
    positions = torch.arange(batch.ids.shape[2]) < batch.lengths[:, None]
    assert torch.equal(batch.roles != int(Role.PAD), positions[:, None].expand_as(batch.roles))


def test_roles_count_what_the_target_says(specimen: Specimen) -> None:
    apart = set()
    for words, codes in ((1, 4), (3, 10), (0, 6)):
        dialogue = replace(spoken("d", [1, 2]), target=answer_of(words=words, codes=codes))
        roles = specimen.architecture.encode_target(dialogue, codes_of).roles
        assert int((roles == int(Role.AUDIO)).sum()) == codes
        # Behind sound on the same stream what closes the answer is a mark of sound.
        apart_from_sound = not bool((roles[0] == int(Role.AUDIO)).any())
        assert int((roles == int(Role.TEXT_END)).sum()) == apart_from_sound
        assert int(roles[-1 if apart_from_sound else 0, -1]) == int(Role.AUDIO_MARK)
        if words:
            apart.add(int((roles == int(Role.TEXT)).sum()) - words)
    assert len(apart) == 1 and 0 <= apart.pop() <= 3  # a few may set text and sound apart, always the same ones


def test_decoding_a_completion_undoes_the_target(specimen: Specimen) -> None:
    for words in (0, 1, 4):
        for codes in (0, 4, 10, 30):
            said = answer_of(words=words, codes=codes)
            dialogue = replace(spoken("d", [1, 2]), target=said)
            answer = specimen.architecture.decode_completion(specimen.architecture.encode_target(dialogue, codes_of))
            heard = tuple(codes_of(said.audio)) if said.audio else ()
            assert (answer.text, answer.codes, answer.finished) == (said.text, heard, True)


def test_recorded_logprobs_are_those_of_scoring_again(specimen: Specimen, groups: list[RolloutGroup]) -> None:
    space, seen = specimen.architecture.tokens, set()
    for group in groups:
        rows = [concatenate(group.prompt, rollout.completion, space) for rollout in group.rollouts]
        batch = collate(rows, space)
        select = among(batch.roles, SCORED_ROLES)
        assert not select[:, :, : group.prompt.length].any()
        with torch.no_grad():
            again = score_batch(specimen.policy, batch, select, space, temperature=1.0)
        for index, rollout in enumerate(group.rollouts):
            end = group.prompt.length + rollout.completion.length
            torch.testing.assert_close(again[index, :, group.prompt.length : end], rollout.logprobs, atol=1e-5, rtol=0)
            chosen = among(rollout.completion.roles, SCORED_ROLES)
            assert bool((rollout.logprobs[~chosen] == 0).all()) and bool((rollout.logprobs[chosen] < 0).all())
        seen |= set(batch.sources[select].tolist())
    assert seen == specimen.heads


def test_sampled_roles_are_those_of_targets(specimen: Specimen) -> None:
    """Forcing a target through the decoding state gives the roles it was written with."""
    for prompt, answer in specimen.demonstrations():
        with torch.inference_mode():
            state = specimen.policy.decode([prompt], group_size=1, need="all")
            for step in range(answer.length):
                assert not bool(state.finished())
                forced, ids, roles = state.forced()[0], answer.ids[:, step], answer.roles[:, step]
                assert torch.equal(forced >= 0, roles == int(Role.FORCED))
                assert torch.equal(ids.where(forced < 0, forced), ids)
                assert torch.equal(state.append(ids[None])[0], roles)
        assert bool(state.finished())


def test_answers_belong_to_their_row_whatever_the_batch(specimen: Specimen, groups: list[RolloutGroup]) -> None:
    for one, other in zip(rollouts(groups), rollouts(specimen.sample(order=-1)), strict=True):
        assert torch.equal(one.completion.ids, other.completion.ids)
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
        assert one.answer == other.answer


def test_greedy_answers_of_a_group_are_alike(specimen: Specimen) -> None:
    for group in specimen.sample(temperature=0.0, max_new_tokens=6):
        assert len({str(rollout.completion.ids.tolist()) for rollout in group.rollouts}) == 1


def test_needing_text_gives_beginnings_of_the_same_answers(specimen: Specimen, groups: list[RolloutGroup]) -> None:
    for whole, short in zip(rollouts(groups), rollouts(specimen.sample(need="text")), strict=True):
        assert short.completion.length <= whole.completion.length
        assert torch.equal(whole.completion.ids[:, : short.completion.length], short.completion.ids)


def test_padding_and_other_rows_do_not_reach_a_row(specimen: Specimen) -> None:
    batch = specimen.batch()
    with torch.no_grad():
        together = specimen.policy.hidden(batch, specimen.heads)
        for index, length in enumerate(batch.lengths.tolist()):
            row = TokenSequence(
                batch.ids[index, :, :length], batch.roles[index, :, :length], sounds=heard_in(batch, index)
            )
            alone = specimen.policy.hidden(collate([row], specimen.architecture.tokens), specimen.heads)
            for head in specimen.heads:
                seen = length - specimen.architecture.tokens.heads[head].shift
                torch.testing.assert_close(together[head][index, :seen], alone[head][0, :seen], atol=1e-5, rtol=0)


def heard_in(batch: TokenBatch, row: int) -> tuple[SoundSegment, ...]:
    return batch.sounds[row] if batch.sounds else ()


def test_features_reach_their_own_row_from_where_they_stand(specimen: Specimen) -> None:
    batch, row = specimen.batch(), 2
    if not batch.sounds:
        return  # heard as tokens: the test below
    first = min(each.start for each in batch.sounds[row])
    other = tuple(replace(each, values=each.values.flip(1)) for each in batch.sounds[row])
    changed = replace(batch, sounds=(*batch.sounds[:row], other, *batch.sounds[row + 1 :]))
    others = [index for index in range(len(batch.ids)) if index != row]
    with torch.no_grad():
        before, after = (specimen.policy.hidden(each, specimen.heads) for each in (batch, changed))
    for head in specimen.heads:
        torch.testing.assert_close(before[head][others], after[head][others], atol=1e-5, rtol=0)
        torch.testing.assert_close(before[head][row, :first], after[head][row, :first], atol=1e-5, rtol=0)
        assert not torch.allclose(before[head][row, first], after[head][row, first], atol=1e-3)


def test_no_head_sees_what_it_predicts(specimen: Specimen) -> None:
    batch = specimen.batch()
    ends = [each.start + each.length for row in batch.sounds for each in row]
    place = max([8, *ends])  # ids below features stand for nothing
    changed = replace(batch, ids=torch.cat([batch.ids[:, :, :place], (batch.ids[:, :, place:] + 1) % 20], dim=2))
    with torch.no_grad():
        before, after = (specimen.policy.hidden(each, specimen.heads) for each in (batch, changed))
    for head in specimen.heads:
        blind = place - specimen.architecture.tokens.heads[head].shift + 1
        torch.testing.assert_close(before[head][:, :blind], after[head][:, :blind], atol=1e-5, rtol=0)
        assert not torch.allclose(before[head][:, blind], after[head][:, blind], atol=1e-3)


def test_asking_for_one_head_gives_that_head_in_either_mode(fresh: Specimen) -> None:
    batch = fresh.batch()
    with torch.no_grad():
        every = fresh.policy.hidden(batch, fresh.heads)
        fresh.policy.train()
        for head in fresh.heads:
            found = fresh.policy.hidden(batch, frozenset({head}))
            assert set(found) == {head}
            torch.testing.assert_close(found[head], every[head], atol=1e-6, rtol=0)


def reached(specimen: Specimen, roles: Sequence[Role]) -> set[str]:
    """Groups of the parameters that a loss on targets' positions with `roles` moves."""
    batch = specimen.batch()
    specimen.policy.zero_grad()
    scored = score_batch(
        specimen.policy, batch, among(batch.roles, roles), specimen.architecture.tokens, temperature=1.0
    )
    torch.autograd.backward(-scored.sum())
    return {
        specimen.architecture.parameter_group(name)
        for name, parameter in specimen.policy.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
    }


def shares_a_stream(specimen: Specimen) -> bool:
    """Whether text and sound stand in one stream, and so come from one head."""
    roles = specimen.batch().roles.transpose(0, 1).flatten(1)
    both = among(roles, TEXT_ROLES).any(dim=1) & among(roles, (Role.AUDIO,)).any(dim=1)
    return bool(both.any())


def test_text_moves_no_part_that_only_sound_needs(fresh: Specimen) -> None:
    text, audio = reached(fresh, TEXT_ROLES), reached(fresh, (Role.AUDIO, Role.AUDIO_MARK))
    hearing = {"encoder", "projector"} if fresh.batch().sounds else set()
    assert {"embed", "trunk"} <= text
    assert not text & ({"audio_branch", "audio_head", "mtp", "encoder", "projector"} - hearing)
    assert {"embed", "trunk"} <= audio
    own = {fresh.architecture.parameter_group(name) for name, _ in fresh.policy.named_parameters()}
    assert own & {"audio_branch", "audio_head"} <= audio
    assert ("audio_head" in own) == (len(fresh.architecture.tokens.streams) > 1)
    assert ("text_head" in audio) <= shares_a_stream(fresh)


def test_loss_gradients_are_those_of_finite_differences(fresh: Specimen) -> None:
    """Over all scored positions, along the gradient with as much of a random direction beside it."""
    policy, batch, space = fresh.policy.double(), fresh.batch(), fresh.architecture.tokens
    select, parameters = among(batch.roles, SCORED_ROLES), list(fresh.policy.parameters())

    def value() -> Tensor:
        return score_batch(policy, batch, select, space, temperature=1.0).sum()

    torch.autograd.backward(value())
    gradient = nn.utils.parameters_to_vector([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
    start = nn.utils.parameters_to_vector(parameters).detach()
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction = gradient / gradient.norm() + noise / noise.norm()
    values, step = [], 1e-4  # norms compute in float32, so that a smaller step would drown
    with torch.no_grad():
        for sign in (1, -1):
            nn.utils.vector_to_parameters(start + sign * step * direction, parameters)
            values.append(float(value()))
    slope = float(gradient @ direction)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=2e-3)


def test_sizes_and_shapes_are_known_without_building(specimen: Specimen) -> None:
    architecture, state = specimen.architecture, specimen.policy.state_dict()
    assert architecture.parameter_shapes() == {name: tuple(x.shape) for name, x in state.items()}
    assert architecture.dimensions().parameters == sum(p.numel() for p in specimen.policy.parameters())
    assert set(state) == {name for name, _ in specimen.policy.named_parameters()}
    groups = {architecture.parameter_group(name) for name in state}
    assert groups <= {"embed", "trunk", "text_head", "audio_head", "audio_branch", "mtp", "encoder", "projector"}


def test_building_depends_on_the_seed_and_leaves_the_random_state(specimen: Specimen) -> None:
    before = torch.get_rng_state()
    one, same, other = (specimen.architecture.build_policy(seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_network_with_random_weights(specimen: Specimen) -> None:
    """Matrices as normal(0, 0.02), vectors 1 for norms and 0 for biases, in float32 on the CPU."""
    state = specimen.architecture.build_policy(seed=3).state_dict()
    assert {(each.dtype, each.device.type) for each in state.values()} == {(torch.float32, "cpu")}
    for name, tensor in state.items():
        if tensor.dim() == 1:
            assert tensor.unique().tolist() == [0.0 if name.endswith(".bias") else 1.0], name
    drawn = torch.cat([each.flatten() for each in state.values() if each.dim() > 1])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.02)
    assert drawn.mean().item() == pytest.approx(0, abs=5 * 0.02 / len(drawn) ** 0.5)


def test_a_dialogue_without_a_target_is_no_demonstration(specimen: Specimen) -> None:
    dialogue = Dialogue("lone", (Message("user", "w1", None),))
    with pytest.raises(ValueError, match="dialogue lone has no target to encode"):
        specimen.architecture.encode_target(dialogue, codes_of)
    answer = answer_of(words=3, codes=12)
    row = specimen.architecture.encode_answer(dialogue, answer, codes_of)
    same = specimen.architecture.encode_target(replace(dialogue, target=answer), codes_of)
    assert torch.equal(row.ids, same.ids)
    assert torch.equal(row.roles, same.roles)


def test_saving_and_loading_is_the_identity(specimen: Specimen, tmp_path: Path) -> None:
    """Weights under their public names, beside buffers of the public code, and layout files give the same model."""
    architecture, folder = specimen.architecture, str(tmp_path / "saved")
    architecture.save_layout(folder)
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_weights({**specimen.policy.state_dict(), **extra}, folder)
    kept = architecture.params.model_copy(update=dict.fromkeys(architecture.params.sizes()))
    again = type(architecture)(kept, source=ModelSource(folder, None, None))
    fresh = again.build_policy(seed=9)
    load_into(fresh, folder, again.ignored_keys)
    assert set(read_checkpoint(folder)) - set(extra) == set(again.parameter_shapes())
    assert again.tokens == architecture.tokens
    assert again.dimensions() == architecture.dimensions()
    batch = specimen.batch()
    for head, states in fresh.eval().hidden(batch, specimen.heads).items():
        assert torch.equal(states, specimen.policy.hidden(batch, specimen.heads)[head])
    dialogue = replace(spoken("d", [1, 2]), target=answer_of(words=3, codes=10))
    for write in ("encode_prompt", "encode_target"):
        ours, theirs = (getattr(each, write)(dialogue, codes_of) for each in (architecture, again))
        assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.roles, theirs.roles)
        assert len(ours.sounds) == len(theirs.sounds)
        for one, other in zip(ours.sounds, theirs.sounds, strict=True):
            assert (one.start, one.length) == (other.start, other.length) and torch.equal(one.values, other.values)


def test_codes_are_learned_as_they_stand(specimen: Specimen) -> None:
    """What an answer decodes to, given as a record, is that answer: no file is read and nothing is merged."""

    def stated(clip: AudioClip) -> Sequence[int]:
        assert clip.codes is not None
        return clip.codes

    for _, completion in specimen.demonstrations():
        answer = specimen.architecture.decode_completion(completion)
        said = Message("assistant", answer.text, AudioClip.of_codes(answer.codes, "gone.wav"))
        again = specimen.architecture.encode_answer(Dialogue("d", (Message("user", "w1"),), said), said, stated)
        assert torch.equal(again.ids, completion.ids) and torch.equal(again.roles, completion.roles)


def test_codes_without_place_are_refused(specimen: Specimen) -> None:
    asked, spoken_of = (Message("user", "w1"),), AudioClip.of_codes((0, NUM_CODES))
    known = rf"codes\[1\] is {NUM_CODES}, and the model has the ids 0\.\.{NUM_CODES - 1}"
    with pytest.raises(DataError, match=f"dialogue d: the answer: {known}"):
        specimen.architecture.check_words(Dialogue("d", asked, Message("assistant", "", spoken_of)))
    turns = (*asked, Message("assistant", "", spoken_of), *asked)
    with pytest.raises(DataError, match=rf"dialogue d: messages\.1: {known}"):
        specimen.architecture.check_words(Dialogue("d", turns))


def test_a_part_of_a_frame_is_refused_and_repeats_stay(tmp_path: Path) -> None:
    said, asked = Message("assistant", "", AudioClip.of_codes((1, 1, 2))), (Message("user", "w1"),)
    with pytest.raises(DataError, match="dialogue d: the answer: 3 codes are no whole frames of 2"):
        small_codec_lm(tmp_path, delays=(0, 1)).check_words(Dialogue("d", asked, said))
    merging = small_codec_lm(tmp_path, merge_repeats=True)
    answer = merging.decode_completion(merging.encode_answer(Dialogue("d", asked, said), said, lambda clip: (1, 1, 2)))
    assert answer.codes == (1, 1, 2)


# --- packed rows ------------------------------------------------------------------------------------------------------


def mixed(specimen: Specimen) -> tuple[list[TokenSequence], list[tuple[str, int]]]:
    """Sampled answers, two of them the same, and demonstrations, with the groups they are of."""
    space = specimen.architecture.tokens
    rows: list[TokenSequence] = []
    groups: list[tuple[str, int]] = []
    for number, group in enumerate(specimen.sample()):
        answers = [concatenate(group.prompt, each.completion, space) for each in group.rollouts]
        rows += [*answers, answers[0]] if number == 1 else answers
        groups += [("rollouts", number)] * (len(rows) - len(groups))
    for number, (prompt, answer) in enumerate(specimen.demonstrations()):
        rows.append(concatenate(prompt, answer, space))
        groups.append(("demonstrations", number))
    return rows, groups


@pytest.mark.parametrize(("share", "pack"), [(True, True), (True, False), (False, True)])
def test_packed_rows_score_and_learn_as_rows_as_they_are(fresh: Specimen, share: bool, pack: bool) -> None:
    """Also of every head at once, so that those that look ahead do."""
    policy, space = fresh.policy.double().train(), fresh.architecture.tokens
    rows, groups = mixed(fresh)
    dense = collate(rows, space)
    select = among(dense.roles, SCORED_ROLES)
    furthest = max(head.shift for head in space.heads)
    options = PackingOptions(share, pack, pairs=1e9, ahead=furthest - 1)
    close = packed(dense, groups, options)
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for batch in (dense, close):
        policy.zero_grad()
        scored, _ = ScoredPolicy(policy, space)(batch, select, temperature=0.8, heads=fresh.heads)
        torch.autograd.backward((scored * torch.linspace(-1, 2, scored.numel()).view_as(scored)).sum())
        found.append(
            (scored.detach(), {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None})
        )
    if share and pack:
        assert close.packing is not None and close.packing.tokens < 0.8 * dense.ids[:, 0].numel()
    (logprobs, gradients), (again, others) = found
    torch.testing.assert_close(again, logprobs, rtol=1e-6, atol=1e-6)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():  # norms compute in float32
        assert (others[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-12, name


def test_a_packed_row_does_not_look_at_its_neighbours(specimen: Specimen) -> None:
    """Where one answer is another one, nothing but its own log-probs moves."""
    space, (rows, groups) = specimen.architecture.tokens, mixed(specimen)
    other = list(rows)
    last = rows[0].ids.clone()
    last[:, -1] = (last[:, -1] + 1) % space.vocabulary_size
    other[0] = replace(rows[0], ids=last)
    ahead = max(head.shift for head in space.heads) - 1
    scored = []
    for each in (rows, other):
        batch = packed(collate(each, space), groups, PackingOptions(share=True, pack=True, pairs=1e9, ahead=ahead))
        assert batch.packing is not None
        with torch.no_grad():
            scored.append(score_batch(specimen.policy, batch, among(batch.roles, SCORED_ROLES), space, temperature=1.0))
    torch.testing.assert_close(scored[0][1:], scored[1][1:], rtol=0, atol=1e-5)
    assert not torch.allclose(scored[0][0], scored[1][0], rtol=0, atol=1e-3)
