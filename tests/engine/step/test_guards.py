"""Guards: what trips them, what becomes of the total, of the parts and of the errors, and who takes no notice."""

import math
from dataclasses import replace
from typing import Any, ClassVar, final

import numpy as np
import pytest
import torch

from tests.engine.step.test_rewards import Scripted, groups
from wavalign.engine.step.guards import guarded, tripped_by
from wavalign.engine.step.reward_pool import Call, LiveReward
from wavalign.engine.step.rewards import Scores, collect_scores, counted, judge_truncated
from wavalign.engine.step.token_level import rewards_of_tokens
from wavalign.errors import PluginError
from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Dialogue, Role, Rollout, Scored, TokenSequence
from wavalign.schema.base import Params
from wavalign.schema.reward import RewardSection

NAN = math.nan
NOTHING = Scored.absent("no sound")
FAILED = Scored(None, "down")


@final
class Bottomless(Reward):
    """Has no lowest value."""

    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    range: ClassVar[tuple[float, float]] = (-math.inf, 2.0)

    def score(self, rollout: Rollout, dialogue: Dialogue) -> Scored:
        return Scored(0.0)


def live(name: str, *, bottomless: bool = False, **section: Any) -> LiveReward:
    made = RewardSection.model_validate({"type": "scripted", **section})
    return LiveReward(name, (Bottomless if bottomless else Scripted)(Params()), made)


def scored(rewards: list[LiveReward], said: dict[str, list[list[Any]]]) -> Scores:
    """What is made of values that the rewards gave, [P][G] each; 0 to 2 is the range of each."""
    shape = (len(said[rewards[0].name]), len(said[rewards[0].name][0]))
    answers = groups(*[["0"] * shape[1]] * shape[0])
    calls = {}
    for each in rewards:
        calls[each.name] = [
            Call(
                each,
                answers[p].rollouts[g],
                answers[p].dialogue,
                (p, g),
                result=value if isinstance(value, Scored) else Scored(float(value)),
            )
            for p, row in enumerate(said[each.name])
            for g, value in enumerate(row)
        ]
    return guarded(collect_scores(rewards, calls, shape), rewards)


def rows(table: torch.Tensor) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in table.tolist()]


ANSWER = live("answer", weight=3.0, scale=[1, 5])
STYLE = live("style", weight=1.0)


def test_a_guard_takes_no_part_in_the_total() -> None:
    rewards = [ANSWER, live("loops", guard="lowest")]
    found = scored(rewards, {"answer": [[0, 1, 2]], "loops": [[1, 1.5, 2]]})
    assert rows(found.total) == [[1.0, 3.0, 5.0]]
    assert set(found.parts) == set(found.judged_parts) == set(found.errors) == {"answer"}
    assert found.guards["loops"].tolist() == [[1.0, 1.5, 2.0]]
    assert not found.tripped["loops"].any()
    assert [each.name for each in counted(rewards)] == ["answer"]


@pytest.mark.parametrize(("below", "trips"), [(None, [True, False, False]), (1.5, [True, True, False])])
def test_what_is_under_the_threshold_counts_as_the_lowest(below: float | None, trips: list[bool]) -> None:
    rewards = [ANSWER, STYLE, live("loops", guard="lowest", below=below)]
    found = scored(rewards, {"answer": [[2, 2, 2]], "style": [[2, 2, 2]], "loops": [[0.99, 1.0, 1.5]]})
    whole, least = (3 * 5 + 2) / 4, (3 * 1 + 0) / 4
    assert rows(found.total) == [[least if each else whole for each in trips]]
    assert found.judged_parts["answer"].tolist() == [[1.0 if each else 5.0 for each in trips]]
    assert found.judged_parts["style"].tolist() == [[0.0 if each else 2.0 for each in trips]]
    assert found.tripped["loops"].tolist() == [trips]
    assert tripped_by(found, (0, 0)) == ["loops"] and tripped_by(found, (0, 2)) == []


def test_what_it_drops() -> None:
    said = {"answer": [[0, 1, 2], [0, 1, 2]], "loops": [[0, 2, 2], [2, 2, 2]]}
    assert rows(scored([ANSWER, live("loops", guard="drop_sample")], said).total) == [[None, 3, 5], [1, 3, 5]]
    dropped = scored([ANSWER, live("loops", guard="drop_group")], said)
    assert rows(dropped.total) == [[None, None, None], [1, 3, 5]]
    assert dropped.tripped["loops"].tolist() == [[True, False, False], [False, False, False]]


def test_a_factor_multiplies_what_is_above_the_lowest() -> None:
    """Against the formula in NumPy, two guards of which each takes its share."""
    generator = np.random.default_rng(0)
    answer, style, first, second = generator.uniform(0, 2, (4, 5, 4))
    rewards = [ANSWER, STYLE, live("first", guard="multiply"), live("second", guard="multiply")]
    tables = {"answer": answer, "style": style, "first": first, "second": second}
    found = scored(rewards, {name: table.tolist() for name, table in tables.items()})
    factor = (first / 2) * (second / 2)
    total, least = (3 * (1 + 2 * answer) + style) / 4, 3 / 4
    np.testing.assert_allclose(found.total.numpy(), least + factor * (total - least), rtol=1e-12)
    np.testing.assert_allclose(found.judged_parts["answer"].numpy(), 1 + factor * 2 * answer, rtol=1e-12)
    np.testing.assert_allclose(found.judged_parts["style"].numpy(), factor * style, rtol=1e-12)
    assert found.tripped["first"].all()


def test_a_full_value_takes_nothing_off_to_the_last_bit() -> None:
    said: dict[str, list[list[Any]]] = {"answer": [[0.1, 1.3, 1.7]], "style": [[0.3, 0.7, 1.1]], "loops": [[2, 2, 2]]}
    plain = scored([ANSWER, STYLE], {name: said[name] for name in ("answer", "style")})
    for rule in ("lowest", "multiply", "drop_sample", "drop_group"):
        found = scored([ANSWER, STYLE, live("loops", guard=rule)], said)
        assert torch.equal(found.total, plain.total)
        assert all(torch.equal(found.judged_parts[name], plain.judged_parts[name]) for name in plain.parts)
        assert not found.tripped["loops"].any()


@pytest.mark.parametrize(
    ("section", "said", "total", "trips"),
    [
        ({}, NOTHING, 1.0, True),
        ({"on_absent": "drop_sample"}, NOTHING, None, False),
        ({"guard": "multiply"}, NOTHING, 1.0, True),
        ({"guard": "drop_sample"}, NOTHING, None, True),
        ({}, FAILED, None, False),
        ({"on_failure": "renormalize"}, FAILED, 5.0, False),
        ({"on_failure": "renormalize", "guard": "multiply"}, FAILED, 5.0, False),
    ],
)
def test_a_guard_without_a_value(section: dict[str, Any], said: Scored, total: float | None, trips: bool) -> None:
    """Nothing to score is what it looks for; its own failure is nobody's fault."""
    found = scored([ANSWER, live("loops", **{"guard": "lowest", **section})], {"answer": [[2]], "loops": [[said]]})
    assert rows(found.total) == [[total]]
    assert bool(found.tripped["loops"][0, 0]) == trips
    assert found.failed["loops"] == int(said is FAILED)


def test_a_missing_total_stays_so() -> None:
    rewards = [ANSWER, live("loops", guard="lowest")]
    assert rows(scored(rewards, {"answer": [[FAILED, 2]], "loops": [[0, 0]]}).total) == [[None, 1.0]]


def test_errors_go_down_with_what_they_are_of() -> None:
    rewards = [ANSWER, live("first", guard="multiply"), live("second", guard="lowest")]
    said = [[Scored(2.0, variance=0.25)] * 3]
    found = scored(rewards, {"answer": said, "first": [[2, 1, 2]], "second": [[2, 2, 0]]})
    assert found.noise.tolist() == [[0.25 * 4, 0.25 * 4 / 4, 0.0]]


def test_a_guard_meets_answers_that_were_cut_off() -> None:
    rewards = [ANSWER, live("loops", guard="multiply")]
    found = scored(rewards, {"answer": [[2, 2]], "loops": [[1, 1]]})
    answers = groups(["a", "b"])
    cut = answers[0].rollouts[1].answer
    object.__setattr__(cut, "text_finished", False)
    judged = judge_truncated(found, rewards, answers, "lowest")
    assert judged.total.tolist() == [[3.0, 1.0]]
    assert judged.judged_parts["answer"].tolist() == [[3.0, 1.0]]


def test_what_has_no_lowest_value_cannot_be_brought_down() -> None:
    rewards = [live("answer", bottomless=True), live("loops", guard="lowest")]
    with pytest.raises(PluginError, match="has no lowest value") as caught:
        scored(rewards, {"answer": [[2]], "loops": [[0]]})
    assert "guard: drop_sample" in str(caught.value.hint)
    rewards[1] = live("loops", guard="drop_sample")
    assert rows(scored(rewards, {"answer": [[2, 2]], "loops": [[0, 2]]}).total) == [[None, 2.0]]


def test_rewards_of_tokens_are_what_the_guard_leaves() -> None:
    rewards = [ANSWER, live("loops", guard="lowest")]
    (group,) = groups(["a", "b", "c"])
    two = TokenSequence(torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), int(Role.TEXT), dtype=torch.int8))
    group = replace(group, rollouts=tuple(replace(each, completion=two) for each in group.rollouts))
    found = scored(rewards, {"answer": [[2, 2, 1]], "loops": [[2, 0, 2]]})
    assert [each.tolist() for each in rewards_of_tokens(found, rewards, [group])[0]] == [[[0, 5]], [[0, 1]], [[0, 3]]]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"below": 0.5}, "`below` is for a guard"),
        ({"guard": "lowest", "weight": 2}, "neither `weight` nor `scale`"),
        ({"guard": "lowest", "scale": [1, 5]}, "neither `weight` nor `scale`"),
        ({"guard": "multiply", "below": 0.5}, "leave out `below`"),
        ({"guard": "smallest"}, "lowest"),
    ],
)
def test_what_a_section_may_not_say(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardSection.model_validate({"type": "scripted", **section})


def test_a_section_without_a_guard_reads_as_before() -> None:
    assert {"guard", "below"} & set(RewardSection.model_validate({"type": "scripted"}).model_dump()) == set()


def test_a_guard_that_is_asked_alone_gives_its_values_and_no_total() -> None:
    found = scored([live("loops", guard="lowest")], {"loops": [[0, 2]]})
    assert found.guards["loops"].tolist() == [[0, 2]]
    assert found.tripped["loops"].tolist() == [[True, False]]
    assert found.total.isnan().all()
