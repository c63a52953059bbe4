"""A family of pairs, a regressed reward, an operator and a provider of one's own: plugins alone, no engine change."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import run_ranks
from tests.engine.step.test_invariance import CHECKSUM, assert_equal
from tests.toy.compiled import Change, compiled, drop, only_stage, problems, put
from tests.toy.live import live_stage, train, train_rank
from tests.toy.world import PLUGINS
from wavalign.engine.compile import operators as table
from wavalign.engine.compile.operators import Candidate, StageParts
from wavalign.engine.compile.plan import Operator
from wavalign.engine.step import operators
from wavalign.engine.step.batches import AnswerColumn
from wavalign.engine.step.executor import Run
from wavalign.engine.step.stage import LiveStage
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import PluginError

OPENINGS = put("plugins", [str(PLUGINS), str(Path(__file__).parents[2] / "toy" / "openings.py")])
PAIRS: tuple[Change, ...] = (
    OPENINGS,
    put("data.families", {"pairs": {"type": "toy_pairs"}}),
    put("batch.families", {"pairs": 6}),
    put("objective.terms", {"preference": {"loss": "toy_pairwise"}}),
    drop("objective.gate"),
    put("optim.epsilon", 1e-3),
    put("optim.learning_rate", 0.05),
)


def test_pairs_are_learned_from(tmp_path: Path) -> None:
    """At the start policy and reference agree: margin 0, loss log 2. Then the right answers gain on the wrong ones."""
    plan = compiled(tmp_path, *PAIRS)
    graph = only_stage(plan).graph
    assert graph.made_for("data_rows") == ("pairs",)
    assert not graph.gives("rollouts")
    lines, _ = train(plan, steps=3)
    assert lines[0]["loss/preference"] == pytest.approx(0.693147, abs=1e-5)
    assert lines[0]["tokens/preference"] == 6  # what counts is the pair
    assert lines[0]["preference/margin"] == pytest.approx(0, abs=1e-5)
    assert lines[2]["preference/margin"] > 0.1
    assert lines[2]["loss/preference"] < 0.65


def test_a_pair_is_whole_however_the_step_is_cut(tmp_path: Path) -> None:
    whole = train(compiled(tmp_path, *PAIRS))
    for size in (1, 2, 5):
        assert_equal(train(compiled(tmp_path, *PAIRS, put("batch.micro_batch", size))), whole)
    two = compiled(tmp_path, *PAIRS, put("batch.micro_batch", 3), put("runtime.processes", 2))
    for found in run_ranks(train_rank, 2, two.to_json()):
        assert_equal(found, whole)


def test_pairs_beside_rollouts_and_demonstrations(tmp_path: Path) -> None:
    """All families share the forward pass; each term counts its own rows alone."""
    mixed = (OPENINGS, PAIRS[1], PAIRS[2], put("objective.terms.preference", {"loss": "toy_pairwise", "share": 0.5}))
    line = train(compiled(tmp_path, *mixed), steps=1)[0][0]
    without = train(compiled(tmp_path, OPENINGS), steps=1)[0][0]
    assert line["tokens/preference"] == 6
    assert line["loss/preference"] == pytest.approx(0.693147, abs=1e-5)
    for name in ("rl", "sft"):
        assert line[f"tokens/{name}"] == without[f"tokens/{name}"]
        assert line[f"loss/{name}"] == pytest.approx(without[f"loss/{name}"], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    "advantage",
    [
        {"type": "toy_baseline"},
        {"type": "moving_baseline", "whiten": True},
        {"type": "group_normalized", "per_reward": True, "whiten": True},
    ],
    ids=lambda advantage: str(advantage["type"]),
)
def test_an_advantage_sees_the_answers_of_all_ranks(tmp_path: Path, advantage: dict[str, object]) -> None:
    """Over the whole step it is the same on one process and on two; each rank learns from its own answers."""
    exact = put("rewards.exact", {"type": "toy_exact", "on_failure": "renormalize", "misbehave": "sometimes"})
    baseline = (exact, CHECKSUM, OPENINGS, put("objective.advantage", advantage))
    whole = train(compiled(tmp_path, *baseline))
    assert whole[0][1]["loss/rl"] != 0
    for found in run_ranks(train_rank, 2, compiled(tmp_path, *baseline, put("runtime.processes", 2)).to_json()):
        assert_equal(found, whole)


def test_a_term_may_learn_from_another_family_than_its_losses_own(tmp_path: Path) -> None:
    """Cross entropy on both answers of every pair."""
    terms = {"imitate": {"loss": "cross_entropy", "family": "pairs"}}
    line = train(compiled(tmp_path, *PAIRS, put("objective.terms", terms)), steps=1)[0][0]
    assert line["tokens/imitate"] == 6 * (4 + 2)  # "it is WORD" and "WORD", each with its end


def test_a_family_that_is_not_there_is_named(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, *PAIRS, drop("data.families"), put("batch.families", {}))
    assert "learns from pairs, and data.families.pairs is not there" in problem.message
    assert problem.path == "objective.terms.preference"


def test_a_size_of_a_family_that_is_not_there_is_named(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, *PAIRS, put("batch.families", {"pairs": 6, "pears": 4}))
    assert (problem.path, problem.message) == ("batch.families.pears", "there is no data.families.pears")
    assert "pairs" in problem.hint


REGRESS: tuple[Change, ...] = (
    OPENINGS,
    put("objective.terms.value", {"loss": "toy_regress", "share": 1}),
    put("optim.learning_rate", 0.01),
)


def test_a_scalar_head_regresses_the_reward(tmp_path: Path) -> None:
    """It is there because the loss needs it, starts from its first values, and comes nearer to the rewards' mean."""
    plan = compiled(tmp_path, *REGRESS)
    assert [head.name for head in only_stage(plan).scalars] == ["row_values"]
    assert only_stage(compiled(tmp_path)).scalars == ()
    lines, _ = train(plan, steps=12)
    assert lines[0]["value/value"] == 0  # as a new head starts
    assert lines[0]["value/reward"] == pytest.approx(lines[0]["reward"], rel=1e-5)
    gaps = [abs(line["value/value"] - line["value/reward"]) for line in lines]
    assert sum(gaps[-6:]) / 6 < gaps[0] / 2


def test_a_scalar_head_does_not_depend_on_how_the_step_is_cut(tmp_path: Path) -> None:
    steady = (*REGRESS, put("optim.epsilon", 1e-3))
    whole = train(compiled(tmp_path, *steady))
    assert_equal(train(compiled(tmp_path, *steady, put("batch.micro_batch", 3))), whole)


def _toy_returns(_: StageParts) -> Iterator[Candidate]:
    operator = Operator(
        name="toy_returns", function="toy_returns", needs=("rewards",), gives={"toy_returns": "[P, G]"},
        scope="collect", place="host",
    )  # fmt: skip
    yield Candidate(operator, columns={"toy_returns": "rollouts"})


def _bind_toy_returns(_live: LiveStage, _plan: Operator) -> Run:
    def run(values: object) -> dict[str, object]:
        total = values["rewards"].table  # type: ignore[index]
        return {"toy_returns": AnswerColumn("rollouts", 2 * total.nan_to_num(), ~total.isnan())}

    return run


def test_an_operator_is_a_line_in_the_table_and_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "GIVERS", [*table.GIVERS, _toy_returns])
    monkeypatch.setitem(operators.FUNCTIONS, "toy_returns", operators.Function(_bind_toy_returns))
    with_it = (OPENINGS, put("objective.terms.value", {"loss": "toy_regress_return", "tokens": "text"}))
    plan = compiled(tmp_path, *with_it)
    names = [each.name for each in only_stage(plan).graph.operators]
    assert names.index("aggregate") < names.index("toy_returns") < names.index("micro_batches")
    assert [head.name for head in only_stage(plan).scalars] == ["values"]
    line = train(plan, steps=1)[0][0]
    live = live_stage(plan)
    result = StepExecutor(live).step(0)
    live.close()
    assert result.scores is not None
    # A value head starts at 0: half the squared return, averaged over the answers' text tokens.
    expected, count = 0.0, 0
    for p, group in enumerate(result.groups):
        for g, rollout in enumerate(group.rollouts):
            tokens = int(torch.isin(rollout.completion.roles, torch.tensor([2, 3], dtype=torch.int8)).sum())
            expected, count = expected + tokens * (2 * float(result.scores.total[p, g])) ** 2 / 2, count + tokens
    assert line["loss/value"] == pytest.approx(expected / count, rel=1e-4)
    assert "toy_returns" not in [each.name for each in only_stage(compiled(tmp_path)).graph.operators]


BEHIND: tuple[Change, ...] = (OPENINGS, put("rollout.provider", {"type": "toy_one_behind"}))
BRISK = put("optim.learning_rate", 0.05)


def test_a_provider_one_step_behind_is_corrected_for(tmp_path: Path) -> None:
    """The first step has no earlier weights and equals the run in process; from then on the mismatch is measured."""
    plan = compiled(tmp_path, *BEHIND, BRISK)
    assert {"recompute", "scored_batches"} <= {each.name for each in only_stage(plan).graph.operators}
    live = live_stage(plan)
    executor = StepExecutor(live)
    steps = [executor.step(index) for index in range(4)]
    live.close()
    versions = [{rollout.version for group in step.groups for rollout in group.rollouts} for step in steps]
    assert versions == [{0}, {0}, {1}, {2}]
    mismatch = [(step.metrics["mismatch/mean"], step.metrics["mismatch/max"]) for step in steps]
    assert mismatch[0][0] == pytest.approx(0, abs=1e-6)
    assert mismatch[0][1] == pytest.approx(0, abs=1e-5)
    assert all(largest > mean > 1e-4 for mean, largest in mismatch[1:])
    assert all(step.metrics["ratio/first"] == pytest.approx(1, abs=1e-5) for step in steps)  # old ones are recomputed
    own = train(compiled(tmp_path, BRISK), steps=1)[0][0]
    for key in ("loss", "reward", "grad_norm"):
        assert steps[0].metrics[key] == pytest.approx(own[key], rel=1e-4)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda groups: groups[1:], "3 groups for 4 prompts"),
        (lambda groups: [replace(groups[0], rollouts=groups[0].rollouts[:2]), *groups[1:]], "2 answers to dialogue"),
        (
            lambda groups: [
                replace(groups[0], rollouts=tuple(replace(each, version=None) for each in groups[0].rollouts)),
                *groups[1:],
            ],
            "do not say which version",
        ),
    ],
    ids=["fewer", "a short group", "no version"],
)
def test_a_provider_that_answers_otherwise_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, said: str
) -> None:
    live = live_stage(compiled(tmp_path, *BEHIND))
    collect = live.provider.collect
    monkeypatch.setattr(live.provider, "collect", lambda: spoil(collect()))
    with pytest.raises(PluginError, match=said) as caught:
        StepExecutor(live).step(0)
    live.close()
    assert "provider 'toy_one_behind'" in caught.value.message


def test_importance_weights_are_cut_off(tmp_path: Path) -> None:
    """The policy term by hand: -A times min(pi_now / pi_sampler, cap) at every token, as the ratio to the old is 1."""
    cap = 1.05
    only = put("objective.terms", {"rl": {"loss": "grpo", "tokens": "text"}})
    capped = put("rollout.importance_cap", cap)
    plan = compiled(tmp_path, *BEHIND, BRISK, CHECKSUM, only, drop("objective.gate"), capped)
    live = live_stage(plan)
    executor = StepExecutor(live)
    executor.step(0)
    live.provider.publish(live.backend.policy, version=1)  # what the next step learns from, kept before it moves
    kept = live.provider._kept[-1][0]  # type: ignore[attr-defined]
    live.provider._kept.pop()  # type: ignore[attr-defined]
    result = executor.step(1)
    live.close()
    assert result.advantages is not None
    assert result.scores is not None
    total, count, cut = 0.0, 0, 0
    for p, group in enumerate(result.groups):
        for g, rollout in enumerate(group.rollouts):
            if result.scores.total[p, g].isnan():
                continue
            text = torch.isin(rollout.completion.roles, torch.tensor([2, 3], dtype=torch.int8))
            now = scored(live, kept, group.prompt, rollout)
            weights = (now - rollout.logprobs).exp()[text]
            cut += int((weights > cap).sum())
            total += float((-result.advantages[p, g] * weights.clamp(max=cap)).sum())
            count += int(text.sum())
    assert cut > 0
    assert result.metrics["loss/rl"] == pytest.approx(total / count, rel=1e-3, abs=1e-5)


def scored(live: LiveStage, policy: object, prompt: object, rollout: object) -> torch.Tensor:
    """Log-probs [S, Tc] of an answer under other weights."""
    from wavalign.engine.models.scored_policy import score_batch  # beside the test that wants it
    from wavalign.plugins.batch import collate, concatenate

    space = live.architecture.tokens
    row = concatenate(prompt, rollout.completion, space)  # type: ignore[arg-type, attr-defined]
    tokens = collate([row], space)
    select = torch.zeros_like(tokens.ids, dtype=torch.bool)
    select[:, :, prompt.length :] = tokens.roles[:, :, prompt.length :] > 1  # type: ignore[attr-defined]
    select &= tokens.roles != 6
    with torch.no_grad():
        found = score_batch(policy, tokens, select, space, temperature=1.0)  # type: ignore[arg-type]
    return found[0, :, prompt.length :]  # type: ignore[attr-defined]
