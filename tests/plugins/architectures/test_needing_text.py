"""Sampling for text alone changes neither what is learned from text nor what is read as text.

Every family and layout, over rows of random weights and over rows dictated at random, the malformed ones among them:
what `tokens: text` selects, with ids, log-probs and heads, and the answer's text are those of whole answers.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.plugins.architectures.codec_lm_helpers import small_codec_lm
from tests.plugins.architectures.kimi_helpers import small_kimi
from tests.plugins.architectures.test_conformance import MAKERS, among, answer_of, lively, rollouts
from tests.plugins.architectures.vita_helpers import codes_of, small_vita
from wavalign.plugins.api import Architecture, SamplingOptions
from wavalign.plugins.architectures.codec_lm import CodecLm
from wavalign.plugins.architectures.vita import VitaAudio
from wavalign.plugins.batch import TEXT_ROLES, Dialogue, Message, Role, Rollout, TokenSequence
from wavalign.plugins.masks.roles import Roles, RolesParams
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams

LAYOUTS: dict[str, Callable[[Path], Architecture]] = {
    **MAKERS,
    "vita, long text first": lambda folder: small_vita(folder, ratio=(8, 10)),
    "vita, changing quotas": lambda folder: small_vita(folder, ratio=(1, 4, 3, 8, 4, 10)),
    "kimi, text alone": lambda folder: small_kimi(folder, output="text"),
    "codec_lm, speechalign": lambda folder: small_codec_lm(folder, template="speechalign"),
    "codec_lm, anygpt, two codebooks": lambda folder: small_codec_lm(folder, template="anygpt", delays=(0, 2)),
}
TARGETS = ((0, 0), (0, 6), (1, 0), (1, 2), (1, 30), (2, 4), (5, 16), (8, 8), (9, 40), (4, 10))
"""Words and codes."""
SAMPLES, LENGTH = 400, 24


class Case:
    """An architecture over a written question, and a policy far from uniform."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture, self.policy = architecture, lively(architecture.build_policy(seed=0))
        self.dialogues = [Dialogue(f"d{n}", (Message("user", f"w{n}"),)) for n in range(4)]
        self.prompts = [(each, architecture.encode_prompt(each, codes_of)) for each in self.dialogues]

    def sample(self, need: str, *, limit: int, top_p: float) -> list[Rollout]:
        options = SamplingOptions(
            group_size=24, temperature=1.0, top_k=0, top_p=top_p, max_new_tokens=limit, need=need,  # type: ignore[arg-type]
        )  # fmt: skip
        generator = torch.Generator().manual_seed(5)
        sampler = KvCache(KvCacheParams())
        return rollouts(sampler.sample(self.policy, self.architecture, self.prompts, options, generator))

    def targets(self) -> list[tuple[TokenSequence, TokenSequence]]:
        """Prompts and well-formed answers."""
        found = []
        for words, codes in TARGETS:
            if words > codes + 2 and codes and len(self.architecture.tokens.streams) == 2:
                continue  # two streams: sound must not end before the text
            dialogue = replace(self.dialogues[0], target=answer_of(words=words, codes=codes))
            prompt = self.architecture.encode_prompt(dialogue, codes_of)
            found.append((prompt, self.architecture.encode_target(dialogue, codes_of)))
        return found

    @property
    def one_stream(self) -> bool:
        """Whether text and sound share a stream, so that there is text which sound may cut off."""
        return self.architecture.tokens.streams[0] == "mix"


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(LAYOUTS[request.param](tmp_path_factory.mktemp("tokenizer")))


def text_weights(completion: TokenSequence) -> Tensor:
    return Roles(RolesParams(text=1.0)).weights(completion.roles[None])[0]


def same_text(case: Case, whole: Rollout, short: Rollout) -> None:
    """Whatever `tokens: text` reads of the two is the same."""
    length = short.completion.length
    assert torch.equal(whole.completion.ids[:, :length], short.completion.ids)
    assert torch.equal(whole.completion.roles[:, :length], short.completion.roles)
    wanted, had = text_weights(whole.completion), text_weights(short.completion)
    assert torch.equal(wanted.nonzero(), had.nonzero())
    assert wanted.sum() == had.sum() == among(whole.completion.roles, TEXT_ROLES).sum()
    at, cut = wanted > 0, had > 0
    torch.testing.assert_close(whole.logprobs[at], short.logprobs[cut], atol=1e-5, rtol=0)
    heads, same = whole.completion.sources, short.completion.sources
    assert heads is not None and same is not None and torch.equal(heads[at], same[cut])
    assert whole.answer.text == short.answer.text
    assert short.answer.finished or not whole.answer.finished
    assert whole.answer.text_finished == short.answer.text_finished == short.answer.finished
    if length < whole.completion.length:
        assert short.answer.finished


@pytest.mark.parametrize(("limit", "top_p"), [(3, 1.0), (9, 0.95), (32, 1.0)])
def test_sampled_answers_hold_the_same_text(case: Case, limit: int, top_p: float) -> None:
    whole, short = (case.sample(need, limit=limit, top_p=top_p) for need in ("all", "text"))
    for one, other in zip(whole, short, strict=True):
        same_text(case, one, other)
        if one.support is not None:
            at = text_weights(one.completion) > 0
            assert other.support is not None
            kept, had = one.support[at], other.support[at[:, : other.completion.length]]
            for full, part in zip(kept.tolist(), had.tolist(), strict=True):
                assert {x for x in full if x >= 0} == {x for x in part if x >= 0}
    if limit == 32:
        assert any(other.answer.finished for other in short)


def alphabet(case: Case) -> list[dict[int, list[int]]]:
    """Per stream, ids by role, so that rare marks can be drawn as often as words."""
    found: list[dict[int, set[int]]] = [{} for _ in case.architecture.tokens.streams]
    for _, row in case.targets():
        for stream, (ids, roles) in enumerate(zip(row.ids.tolist(), row.roles.tolist(), strict=True)):
            for x, role in zip(ids, roles, strict=True):
                if role != Role.FORCED:
                    found[stream].setdefault(role if role != Role.AUDIO_MARK else -x, set()).add(x)
    silent = {int(Role.PAD): [case.architecture.tokens.pad]}  # a stream on which the layout puts everything
    return [{kind: sorted(ids) for kind, ids in stream.items()} or silent for stream in found]


def dictated(case: Case, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Ids [N, S, T] at random, the roles [N, S, T] that both ways of sampling see, and the lengths [2, N] they have."""
    kinds, rows = alphabet(case), SAMPLES
    _, prompt = case.prompts[0]
    ids = torch.zeros((rows, len(kinds), LENGTH), dtype=torch.int64)
    roles, lengths = {}, torch.full((2, rows), LENGTH)
    choice = torch.rand((2, rows, len(kinds), LENGTH), generator=generator)
    for index, need in enumerate(("all", "text")):
        state = case.policy.decode([prompt], group_size=rows, need=need)  # type: ignore[arg-type]
        roles[need] = torch.zeros(ids.shape, dtype=torch.int8)
        for step in range(LENGTH):
            for stream, known in enumerate(kinds):
                names = sorted(known)
                for row in range(rows):
                    first, second = choice[:, row, stream, step].tolist()
                    here = known[names[int(first * len(names))]]
                    ids[row, stream, step] = here[int(second * len(here))]
            forced = state.forced()
            ids[:, :, step] = torch.where(forced < 0, ids[:, :, step], forced)
            roles[need][:, :, step] = state.append(ids[:, :, step])
            done = state.finished() & (lengths[index] == LENGTH)
            lengths[index][done] = step + 1
    return ids, roles, lengths


def written_roles(architecture: Architecture, ids: Tensor) -> Tensor:
    """Roles [S, T] that a target of `ids` [S, T] would have."""
    if isinstance(architecture, VitaAudio):
        layout = architecture.vocabulary.layout
        return layout.roles(ids[0], layout.role_table(architecture.tokens.vocabulary_size))[None]
    assert isinstance(architecture, CodecLm)
    return architecture.vocabulary.layout.roles(ids, architecture.vocabulary.layout.role_table())


def test_dictated_answers_hold_the_same_text_however_malformed(case: Case) -> None:
    with torch.inference_mode():
        ids, roles, lengths = dictated(case, torch.Generator().manual_seed(3))
    shorter = strays = 0
    for row in range(SAMPLES):
        whole, short = (
            TokenSequence(ids[row, :, :length], roles[need][row, :, :length])
            for need, length in zip(("all", "text"), lengths[:, row].tolist(), strict=True)
        )
        assert short.length <= whole.length
        wanted, had = text_weights(whole), text_weights(short)
        assert torch.equal(wanted.nonzero(), had.nonzero())
        assert torch.equal(whole.roles[:, : short.length], short.roles)
        answers = [case.architecture.decode_completion(each) for each in (whole, short)]
        assert answers[0].text == answers[1].text
        shorter += short.length < whole.length
        strays += bool((whole.roles[:, short.length :] == int(Role.AUDIO_MARK)).any())
    if case.one_stream:
        assert shorter > 20 and strays > 20
        for row in range(SAMPLES):
            assert torch.equal(written_roles(case.architecture, ids[row]), roles["all"][row])


def test_targets_hold_all_their_text_within_what_is_sampled_for_text(case: Case) -> None:
    """A gold answer has the roles that sampling it gives, and no text behind the place where text is over."""
    for prompt, row in case.targets():
        with torch.inference_mode():
            state = case.policy.decode([prompt], group_size=1, need="text")
            over = False
            for step in range(row.length):
                if over:
                    assert not among(row.roles[:, step], TEXT_ROLES).any()
                    continue
                if not (state.forced()[0] < 0).any():
                    break
                assert torch.equal(state.append(row.ids[:, step][None])[0], row.roles[:, step])
                over = bool(state.finished())
