"""Streams with distributions of their own: what a recipe says, what is sampled, and that scoring agrees."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.plugins.architectures.kimi_helpers import lively_policy, small_kimi, spoken_prompts
from tests.toy.compiled import Change, compiled, put
from tests.toy.live import evaluated_stage, live_stage, train
from wavalign.engine.models.scored_policy import score_batch
from wavalign.engine.step.batches import CompletionColumn, collate_rows, cut_rows, with_columns
from wavalign.engine.step.rows import answer_rows
from wavalign.engine.step.sampling import distributions
from wavalign.errors import RecipeError
from wavalign.plugins.api import Distribution, SamplingOptions
from wavalign.plugins.architectures.kimi import KimiAudio
from wavalign.plugins.architectures.kimi_audio.policy import KimiPolicy
from wavalign.plugins.batch import SCORED_ROLES, Rollout, RolloutGroup
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams
from wavalign.schema.evaluation import EvaluationSection
from wavalign.schema.rollout import RolloutSection

LENGTHS = (3, 9, 1)
TEXT, AUDIO = 0, 1
DELAY = 2


@pytest.fixture(scope="module")
def kimi(tmp_path_factory: pytest.TempPathFactory) -> KimiAudio:
    return small_kimi(tmp_path_factory.mktemp("kimi"), audio_delay=DELAY)


@pytest.fixture(scope="module")
def policy(kimi: KimiAudio) -> KimiPolicy:
    return lively_policy(kimi, scale=4.0).eval()


def sample(
    kimi: KimiAudio,
    policy: KimiPolicy,
    *,
    order: int = 1,
    max_rows: int = 1024,
    text: Distribution | None = None,
    audio: Distribution | None = None,
) -> list[RolloutGroup]:
    """Answers at temperature 1 unless a stream has a distribution of its own."""
    streams = {name: each for name, each in (("text", text), ("audio", audio)) if each is not None}
    options = SamplingOptions(8, 1.0, 0, 1.0, 24, "all", streams)
    prompts, generator = spoken_prompts(kimi, LENGTHS)[::order], torch.Generator().manual_seed(5)
    sampler = KvCache(KvCacheParams(max_rows=max_rows))
    return sampler.sample(policy, kimi, prompts, options, generator)[::order]


def rollouts(groups: list[RolloutGroup]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group.rollouts]


PAIRS = {
    "uncut beside top-k": (Distribution(1.3, 0, 1.0), Distribution(0.6, 5, 1.0)),
    "top-p beside uncut": (Distribution(0.7, 0, 0.8), Distribution(1.4, 0, 1.0)),
    "top-k of two widths": (Distribution(0.8, 3, 1.0), Distribution(1.2, 12, 0.9)),
    "neither cut": (Distribution(0.5, 0, 1.0), Distribution(2.0, 0, 1.0)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("size", [99, 5])
def test_scoring_gives_what_sampling_recorded(
    kimi: KimiAudio, policy: KimiPolicy, pair: tuple[Distribution, Distribution], size: int
) -> None:
    groups = sample(kimi, policy, text=pair[TEXT], audio=pair[AUDIO])
    for rollout in rollouts(groups):
        chosen = torch.isin(rollout.completion.roles, torch.tensor(SCORED_ROLES, dtype=torch.int8))
        for stream, distribution in enumerate(pair):
            cut = distribution.top_k > 0 or distribution.top_p < 1
            kept = torch.zeros_like(chosen[0])
            if rollout.support is not None:
                kept = (rollout.support[stream] >= 0).any(dim=1)
            assert torch.equal(kept, chosen[stream] & cut)
    temperatures = [each.temperature for each in pair]
    space, scored = kimi.tokens, 0
    rows = answer_rows(groups, space, family="rollouts", temperatures=temperatures)
    old = CompletionColumn("rollouts", [[each.logprobs for each in group.rollouts] for group in groups])
    for part in cut_rows(rows, size):
        batch = with_columns(collate_rows(part, space, number=0), {"old_logprobs": old})
        select = torch.isin(batch.tokens.roles, torch.tensor(SCORED_ROLES, dtype=torch.int8))
        with torch.no_grad():
            found = score_batch(
                policy, batch.tokens, select, space, temperature=batch.temperature, support=batch.support
            )
        torch.testing.assert_close(found, batch.columns["old_logprobs"], atol=2e-5, rtol=0)
        scored += int(select[:, TEXT].any(dim=1).sum() + select[:, AUDIO].any(dim=1).sum())
    assert scored == 2 * len(rows)


def test_a_stream_draws_alike_whatever_the_other_is_drawn_from(kimi: KimiAudio, policy: KimiPolicy) -> None:
    """The first sound comes at step DELAY: until then text hears nothing of it, and it nothing of itself."""
    one = rollouts(sample(kimi, policy, audio=Distribution(0.5, 3, 1.0)))
    other = rollouts(sample(kimi, policy, audio=Distribution(3.0, 0, 1.0)))
    differs = 0
    for left, right in zip(one, other, strict=True):
        shared = min(left.completion.length, right.completion.length, DELAY + 1)
        assert torch.equal(left.completion.ids[TEXT, :shared], right.completion.ids[TEXT, :shared])
        torch.testing.assert_close(left.logprobs[TEXT, :shared], right.logprobs[TEXT, :shared])
        differs += not torch.equal(left.completion.ids[AUDIO, DELAY:shared], right.completion.ids[AUDIO, DELAY:shared])
    assert differs > 5


def test_the_order_of_the_batch_changes_no_answer(kimi: KimiAudio, policy: KimiPolicy) -> None:
    text, audio = Distribution(1.2, 0, 0.9, 1.3, 3), Distribution(0.8, 4, 1.0)
    expected = rollouts(sample(kimi, policy, text=text, audio=audio))
    backwards = sample(kimi, policy, order=-1, text=text, audio=audio)
    for groups in (backwards, sample(kimi, policy, max_rows=8, text=text, audio=audio)):
        for one, other in zip(expected, rollouts(groups), strict=True):
            assert torch.equal(one.completion.ids, other.completion.ids)
            torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=0)
            assert one.support is not None and other.support is not None
            assert torch.equal(one.support.sort(dim=-1).values, other.support.sort(dim=-1).values)


def test_greedy_text_beside_sampled_sound(kimi: KimiAudio, policy: KimiPolicy) -> None:
    """Kimi-Audio's own setting: text is certain, sound differs within a group."""
    for group in sample(kimi, policy, text=Distribution(0.0, 5, 1.0), audio=Distribution(0.8, 10, 1.0)):
        long = [x.completion.ids for x in group.rollouts if x.completion.length > DELAY]
        firsts = {tuple(ids[TEXT, : DELAY + 1].tolist()) for ids in long}
        assert len(firsts) == 1
        assert len({tuple(x.completion.ids[AUDIO].tolist()) for x in group.rollouts}) > 1
        for rollout in group.rollouts:
            assert bool((rollout.logprobs[TEXT] == 0).all()) and bool((rollout.logprobs[AUDIO, DELAY:] <= 0).all())
            assert rollout.support is not None and not (rollout.support[TEXT] >= 0).any()


def replayed(kimi: KimiAudio, policy: KimiPolicy, group: RolloutGroup, rollout: Rollout) -> Tensor:
    """Logits [2, T, V] of an answer's steps, from one pass over the whole row."""
    alone = [RolloutGroup(group.dialogue, group.prompt, (rollout,))]
    rows = answer_rows(alone, kimi.tokens, family="rollouts", temperatures=[1.0, 1.0])
    batch = collate_rows(rows, kimi.tokens, number=0)
    with torch.no_grad():
        states = policy.hidden(batch.tokens, frozenset({TEXT, AUDIO}))
        steps = slice(group.prompt.length - 1, -1)
        return torch.stack([states[head][0, steps] @ policy.head_weight(head).t() for head in (TEXT, AUDIO)])


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_repetition_is_penalised_behind_a_full_window(
    kimi: KimiAudio, policy: KimiPolicy, window: int, temperature: float
) -> None:
    """Token by token: ids of the last `window` steps, blanks too and the prompt not, once there are more of them."""
    penalty, moved = 1.8, 0
    own = Distribution(temperature, 0, 1.0, penalty, window)
    for group in sample(kimi, policy, text=own, audio=own):
        for rollout in group.rollouts[:2]:
            ids, logits = rollout.completion.ids, replayed(kimi, policy, group, rollout)
            chosen = torch.isin(rollout.completion.roles, torch.tensor(SCORED_ROLES, dtype=torch.int8))
            for stream, step in chosen.nonzero().tolist():
                raw = logits[stream, step]
                expected = raw.clone()
                if step > window:
                    for said in set(ids[stream, step - window : step].tolist()):
                        expected[said] = raw[said] / penalty if raw[said] > 0 else raw[said] * penalty
                moved += not torch.equal(raw.argmax(), expected.argmax())
                token, logprob = int(ids[stream, step]), float(rollout.logprobs[stream, step])
                if temperature == 0:
                    assert (token, logprob) == (int(expected.argmax()), 0.0)
                else:
                    again = (expected / temperature).log_softmax(0)[token]
                    assert logprob == pytest.approx(float(again), abs=2e-5)
    assert moved > 1


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_a_stream_takes_what_it_leaves_out_from_beside_it() -> None:
    section = RolloutSection.model_validate(
        {"temperature": 0.9, "top_p": 0.95, "streams": {"text": {"temperature": 1.0}, "audio": {"top_k": 10}}}
    )
    assert distributions(section) == {
        "text": Distribution(1.0, 0, 0.95, 1.0, 64),
        "audio": Distribution(0.9, 10, 0.95, 1.0, 64),
    }
    options = SamplingOptions(1, 0.9, 0, 0.95, 8, "all", {"audio": Distribution(0.5, 3, 1.0)})
    assert options.distribution("audio") == Distribution(0.5, 3, 1.0)
    assert options.distribution("text") == Distribution(0.9, 0, 0.95)


def test_evaluation_is_greedy_unless_told_otherwise() -> None:
    plain = EvaluationSection().sampling
    assert (plain.temperature, plain.top_k, plain.top_p, distributions(plain)) == (0.0, 0, 1.0, {})
    told = {"sampling": {"streams": {"audio": {"temperature": 0.8, "top_k": 10, "repetition_penalty": 1.1}}}}
    assert distributions(EvaluationSection.model_validate(told).sampling) == {
        "audio": Distribution(0.8, 10, 1.0, 1.1, 64)
    }


def test_a_sampled_evaluation_draws_alike_every_time(tmp_path: Path) -> None:
    drawn = evaluated_stage(compiled(tmp_path, put("evaluation.sampling", {"temperature": 1.0})))
    greedy = evaluated_stage(compiled(tmp_path))
    found: list[Any] = []
    for each, evaluator in (drawn, drawn, greedy):
        (result,) = evaluator.run(each.backend.policy, lambda what, done, total: None)
        found.append([item.group.rollouts[0].completion.ids.tolist() for item in result.samples])
    assert found[0] == found[1] != found[2]
    drawn[0].close()
    greedy[0].close()


def test_the_first_ratio_is_one_under_a_streams_own_distribution(tmp_path: Path) -> None:
    own = put("rollout.streams", {"mix": {"temperature": 0.6, "top_k": 7}})
    (line, *_), _ = train(compiled(tmp_path, own), steps=1)
    assert line["rl/ratio"] == pytest.approx(1, abs=1e-5)
    assert line["rl/clip_low"] == line["rl/clip_high"] == 0


@pytest.mark.parametrize("section", ["rollout", "evaluation.sampling"])
def test_a_stream_that_is_not_there_stops_the_stage(tmp_path: Path, section: str) -> None:
    change: Change = put(f"{section}.streams", {"mxi": {"temperature": 1.0}})
    with pytest.raises(RecipeError) as caught:
        live_stage(compiled(tmp_path, change))
    (problem,) = caught.value.problems
    assert problem.path == f"{section}.streams.mxi"
    assert "vita has no stream named 'mxi'" in problem.message
    assert "`mix`" in problem.hint
