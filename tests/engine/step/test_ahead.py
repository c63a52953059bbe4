"""The next step's prompts are answered while rewards score: by which weights, in which order; and where not."""

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.step.test_invariance import CHECKSUM, assert_equal
from tests.engine.step.test_openings import OPENINGS
from tests.toy.compiled import Change, compiled, drop, only_stage, problems, put
from tests.toy.live import live_stage, train, train_rank
from wavalign.engine.compile import graph as graphs
from wavalign.engine.compile.plan import Plan
from wavalign.engine.step import reward_pool as reward_threads
from wavalign.engine.step.answers_as_bytes import packed, unpacked
from wavalign.engine.step.metrics import StepResult
from wavalign.engine.step.operators import FUNCTIONS
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import ResumeError
from wavalign.plugins.batch import (
    Answer,
    Dialogue,
    Message,
    Rollout,
    RolloutGroup,
    SoundSegment,
    TokenSequence,
    Waveform,
)

AHEAD = put("rollout.ahead", 1)
BRISK = put("optim.learning_rate", 0.05)


def stepped(plan: Plan, steps: int) -> list[StepResult]:
    """The first steps of a plan."""
    live = live_stage(plan)
    executor = StepExecutor(live)
    found = [executor.step(index) for index in range(steps)]
    live.close()
    return found


def versions(result: StepResult) -> set[int | None]:
    return {rollout.version for group in result.groups for rollout in group.rollouts}


def questions(result: StepResult) -> list[str]:
    return [group.dialogue.id for group in result.groups]


def test_answers_are_one_step_old_and_weighed(tmp_path: Path) -> None:
    """The first two steps are answered by the first weights, and old log-probs are always the learner's own."""
    found = stepped(compiled(tmp_path, AHEAD, BRISK), 4)
    assert [versions(each) for each in found] == [{0}, {0}, {1}, {2}]
    assert all(each.metrics["ratio/first"] == pytest.approx(1, abs=1e-5) for each in found)
    gaps = [(each.metrics["mismatch/mean"], each.metrics["mismatch/max"]) for each in found]
    assert gaps[0][1] == pytest.approx(0, abs=1e-5)
    assert all(largest > mean > 1e-4 for mean, largest in gaps[1:])


def test_a_step_of_several_updates_counts_versions_in_updates(tmp_path: Path) -> None:
    found = stepped(compiled(tmp_path, AHEAD, put("batch.mini_batches", 2)), 3)
    assert [versions(each) for each in found] == [{0}, {0}, {2}]


def test_prompts_and_draws_are_those_of_a_run_that_waits(tmp_path: Path) -> None:
    """Only the weights' age differs: with a learning rate too small to move them, nothing does."""
    still = put("optim.learning_rate", 1e-30)
    waits, ahead = (stepped(compiled(tmp_path, still, *more), 6) for more in ((), (AHEAD,)))
    for one, other in zip(waits, ahead, strict=True):
        assert questions(one) == questions(other)
        for mine, theirs in zip(one.groups, other.groups, strict=True):
            for a, b in zip(mine.rollouts, theirs.rollouts, strict=True):
                assert torch.equal(a.completion.ids, b.completion.ids)
                assert torch.equal(a.logprobs, b.logprobs)
        for key in ("loss", "reward", "grad_norm", "gate"):
            assert other.metrics[key] == pytest.approx(one.metrics[key], rel=1e-4, abs=1e-6)


def test_the_next_answers_are_sampled_before_the_rewards_of_these_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every reward waits until sampling ahead is done: a step that waited for rewards first would never end.

    The last step samples nothing, and its rewards wait for nobody.
    """
    told, sampled = list[str](), threading.Event()
    bind = FUNCTIONS["rollout_ahead"].bind

    def watched(live: Any, plan: Any) -> Callable[..., Any]:
        run = bind(live, plan)

        def call(values: Any) -> Any:
            made = run(values)
            told.append("sampled")
            sampled.set()
            return made

        return call

    asked = reward_threads._asked

    def slow(calls: Any) -> Any:
        assert sampled.wait(60), "rewards waited for answers of the next step, which never came"
        told.append("scored")
        return asked(calls)

    original = FUNCTIONS["update"].bind

    def updating(live: Any, plan: Any) -> Callable[..., Any]:
        run = original(live, plan)

        def call(values: Any) -> Any:
            told.append("learned")
            sampled.clear()
            return run(values)

        return call

    monkeypatch.setitem(FUNCTIONS, "rollout_ahead", replace(FUNCTIONS["rollout_ahead"], bind=watched))
    monkeypatch.setitem(FUNCTIONS, "update", replace(FUNCTIONS["update"], bind=updating))
    monkeypatch.setattr(reward_threads, "_asked", slow)
    stepped(compiled(tmp_path, AHEAD, put("steps", 3)), 3)
    order = [told[0], *(now for before, now in pairwise(told) if now != before)]
    assert order == ["sampled", "scored", "learned"] * 3


def test_the_last_step_samples_nothing_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_stage(compiled(tmp_path, AHEAD, put("steps", 3)))
    submitted = list[int]()
    submit = live.provider.submit

    def counted(*given: Any) -> None:
        submitted.append(1)
        submit(*given)

    monkeypatch.setattr(live.provider, "submit", counted)
    executor = StepExecutor(live)
    for index in range(3):
        executor.step(index)
        assert len(submitted) == min(index + 2, 3)
    assert live.in_flight is not None and live.in_flight.prompts is None
    assert live.feeds["prompts"].state_dict()["drawn"] == 3 * 4
    live.close()


def test_what_is_remembered_of_the_data_is_what_a_run_that_waits_remembers(tmp_path: Path) -> None:
    states = []
    for more in ((), (AHEAD,)):
        live = live_stage(compiled(tmp_path, *more))
        executor = StepExecutor(live)
        executor.step(0)
        executor.step(1)
        states.append(live.remembered.state_dict()["feed.prompts"])
        live.close()
    assert states[0] == states[1]
    assert states[0]["drawn"] == 2 * 4


CAPPED: tuple[Change, ...] = (AHEAD, BRISK, put("rollout.importance_cap", 1.02), put("optim.epsilon", 1e-3))


@pytest.mark.parametrize("kl", [{"coefficient": 0.05}, {"coefficient": 0.05, "unbiased": True}])
def test_old_log_probs_off_the_pass_that_learns_are_those_of_a_pass_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kl: dict[str, object]
) -> None:
    """Weights that are cut off among them; with a pass of their own as for a provider elsewhere."""
    changes = (*CAPPED, put("objective.terms.rl.loss", {"type": "grpo", "kl": kl}), CHECKSUM)
    changes = (*changes, put("batch.skip_without_signal", False))  # what is not run is in no mismatch
    plan = compiled(tmp_path, *changes)
    one = train(plan, steps=4)
    monkeypatch.setattr(graphs, "in_one_pass", lambda known, parts: known)
    before = compiled(tmp_path, *changes)
    assert only_stage(before).graph.made_for("recompute") and not only_stage(before).graph.gives("weighed")
    assert only_stage(plan).graph.gives("weighed")
    assert_equal(one, train(before, steps=4))
    assert one[0][3]["mismatch/max"] > 0.02  # or nothing would have been cut off


@pytest.mark.parametrize(
    "change",
    [
        put("batch.epochs", 2),
        put("batch.mini_batches", 2),
        put("model.adapter", {"type": "lora", "rank": 2, "dropout": 0.1}),
        put("objective.advantage", {"type": "return_to_go", "kl": {"coefficient": 0.1}}),
    ],
    ids=["epochs", "mini-batches", "dropout", "asked before"],
)
def test_where_the_pass_that_learns_comes_too_late_they_have_one_of_their_own(tmp_path: Path, change: Change) -> None:
    graph = only_stage(compiled(tmp_path, AHEAD, change)).graph
    assert graph.made_for("recompute") and graph.gives("importance") and not graph.gives("weighed")


def test_it_does_not_depend_on_ranks_and_micro_batches(tmp_path: Path) -> None:
    steady = (AHEAD, CHECKSUM, put("optim.epsilon", 1e-3))
    whole = train(compiled(tmp_path, *steady))
    assert_equal(train(compiled(tmp_path, *steady, put("batch.micro_batch", 3))), whole)
    for found in run_ranks(train_rank, 2, compiled(tmp_path, *steady, put("runtime.processes", 2)).to_json()):
        assert_equal(found, whole)


def test_a_provider_of_ones_own_is_asked_a_step_earlier(tmp_path: Path) -> None:
    """It samples with the weights before those that it was given last; with sampling ahead that makes two steps."""
    behind = (OPENINGS, put("rollout.provider", {"type": "toy_one_behind"}))
    found = stepped(compiled(tmp_path, AHEAD, BRISK, *behind), 5)
    assert [versions(each) for each in found] == [{0}, {0}, {0}, {1}, {2}]


# --- what the plan says -----------------------------------------------------------------------------------------------


def test_the_plan_shows_it(tmp_path: Path) -> None:
    graph = only_stage(compiled(tmp_path, AHEAD)).graph
    names = [each.name for each in graph.operators]
    (operator,) = (each for each in graph.operators if each.function == "rollout_ahead")
    assert names.index("reward.exact") < names.index("rollout_ahead") < names.index("aggregate")
    assert "while rewards score" in operator.detail
    assert graph.gives("weighed") and graph.gives("mismatch") and not graph.made_for("recompute")
    plain = only_stage(compiled(tmp_path)).graph
    assert not plain.made_for("rollout_ahead") and not plain.gives("mismatch")


def test_a_plan_without_it_is_the_plan_from_before_there_was_such_a_key(tmp_path: Path) -> None:
    assert '"ahead"' not in compiled(tmp_path).to_json()
    assert compiled(tmp_path, put("rollout.ahead", 0)).fingerprint == compiled(tmp_path).fingerprint
    assert compiled(tmp_path, AHEAD).fingerprint != compiled(tmp_path).fingerprint


def test_groups_cannot_be_replaced_by_prompts_that_are_drawn_already(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, AHEAD, put("rollout.resample", {"limit": 2}))
    assert (problem.code, problem.path) == ("conflict", "rollout.ahead")
    assert problem.where is not None


def test_more_than_one_step_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, put("rollout.ahead", 2))
    assert problem.path == "rollout.ahead"


INSTANT: Change = put(
    "rewards", {"exact": {"type": "answer_match"}, "long": {"type": "overlong", "limit": 9, "buffer": 2}}
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ((INSTANT,), "saves no time here: rewards `exact`, `long` compare texts"),
        ((), ""),  # of a reward of one's own nobody knows how long it takes
        ((OPENINGS, put("objective.terms.rl", {"loss": "online_dpo"})), "term `rl` reads no old log-probs"),
        (
            (put("objective.terms", {"sft": {"loss": "cross_entropy"}}), drop("objective.gate")),
            "nobody looks at rollouts, so nothing is sampled ahead",
        ),
    ],
    ids=["instant", "slow", "unweighed", "no rollouts"],
)
def test_where_it_does_little_the_plan_says_so(tmp_path: Path, changes: tuple[Change, ...], said: str) -> None:
    found = [each for each in only_stage(compiled(tmp_path, AHEAD, *changes)).warnings if "ahead" in each.path]
    assert [said in each.message for each in found] == ([True] if said else [])
    assert all(each.where and each.hint for each in found)
    without = only_stage(compiled(tmp_path, *changes)).warnings
    assert not [each for each in without if "ahead" in each.path]


# --- answers as bytes -------------------------------------------------------------------------------------------------


def written(dialogue: Dialogue) -> TokenSequence:
    """A prompt that hears something."""
    sounds = (SoundSegment(1, 2, torch.full((2, 3), 0.25)),)
    return TokenSequence(torch.tensor([[len(dialogue.id), 5, 6]]), torch.ones(1, 3, dtype=torch.int8), sounds=sounds)


def group(name: str) -> RolloutGroup:
    dialogue = Dialogue(name, (Message("user", "how?"),))
    ids, roles = torch.tensor([[7, 8]]), torch.tensor([[2, 4]], dtype=torch.int8)
    completion = TokenSequence(ids, roles, sources=torch.tensor([[0, 1]], dtype=torch.int8))
    support = torch.tensor([[[7, -1], [8, 9]]], dtype=torch.int32)
    logprobs = torch.tensor([[-0.1, -1e-38]])
    whole = Rollout(
        completion, logprobs, Answer("so \u00e9", (1, 2), True, False), support, version=3, pieces=("so", " \u00e9"),
        waveform=Waveform(torch.linspace(-1, 1, 5).numpy(), 16000),
    )  # fmt: skip
    bare = Rollout(replace(completion, sources=None), logprobs[:, :0], Answer("", (), False))
    return RolloutGroup(dialogue, written(dialogue), (whole, bare))


def test_answers_come_back_to_the_last_bit() -> None:
    groups = [group("a"), group("bc")]
    found = unpacked(packed(groups), [each.dialogue for each in groups], written)
    for one, other in zip(groups, found, strict=True):
        assert other.dialogue is one.dialogue
        assert torch.equal(other.prompt.ids, one.prompt.ids) and torch.equal(other.prompt.roles, one.prompt.roles)
        assert torch.equal(other.prompt.sounds[0].values, one.prompt.sounds[0].values)
        for mine, theirs in zip(one.rollouts, other.rollouts, strict=True):
            assert (theirs.answer, theirs.version, theirs.pieces) == (mine.answer, mine.version, mine.pieces)
            for name in ("ids", "roles", "sources"):
                a, b = getattr(mine.completion, name), getattr(theirs.completion, name)
                assert a is b is None or (a is not None and b is not None and torch.equal(a, b) and a.dtype == b.dtype)
            assert torch.equal(mine.logprobs, theirs.logprobs) and mine.logprobs.shape == theirs.logprobs.shape
            assert (mine.support is None) == (theirs.support is None)
            if mine.support is not None and theirs.support is not None:
                assert torch.equal(mine.support, theirs.support)
            assert (mine.waveform is None) == (theirs.waveform is None)
            if mine.waveform is not None and theirs.waveform is not None:
                assert (mine.waveform.samples == theirs.waveform.samples).all()
                assert mine.waveform.sample_rate == theirs.waveform.sample_rate


def test_answers_to_other_prompts_are_refused() -> None:
    data = packed([group("a")])
    with pytest.raises(ResumeError, match="to other prompts than the data gives"):
        unpacked(data, [group("b").dialogue], written)
    with pytest.raises(ResumeError, match="cannot be read"):
        unpacked(data[:-3], [group("a").dialogue], written)
