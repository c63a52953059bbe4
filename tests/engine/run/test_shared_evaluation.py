"""An evaluation shared between ranks measures what one rank measures: every value, item, sample and sound."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed import run_ranks
from tests.e2e.runs import comparable, lines
from tests.engine.run.test_several_processes import ENGINES, part
from tests.toy import one_sided
from tests.toy.compiled import HERE, Change, compiled, put
from tests.toy.live import evaluated_stage, silent
from wavalign.engine import api
from wavalign.engine.compile.plan import Plan
from wavalign.engine.run.evaluation import SplitResult
from wavalign.engine.run.shares import Alone, Share, joined, own_places, to_first
from wavalign.engine.state.distributed import World
from wavalign.plugins.batch import Answer, Dialogue, Rollout, RolloutGroup, TokenSequence, Waveform
from wavalign.schema.loading import load_recipe

ROOT = Path(__file__).parents[3]
LIMITS = ("heldout", "unseen_voices", "unseen_facts")


def measured(world: World, plan: str) -> list[SplitResult]:
    """Two evaluations of a plan's first stage on one rank of several."""
    live, evaluator = evaluated_stage(Plan.from_json(plan), world)
    found = [each for _ in range(2) for each in evaluator.run(live.backend.policy, silent, ranks=world)]
    live.close()
    return found


def assert_equal(found: Sequence[SplitResult], wanted: Sequence[SplitResult]) -> None:
    assert [each.split for each in found] == [each.split for each in wanted] != []
    for ours, theirs in zip(found, wanted, strict=True):
        timeless = [{k: v for k, v in each.values.items() if k != "evaluation_seconds"} for each in (ours, theirs)]
        assert list(timeless[0]) == list(timeless[1])
        np.testing.assert_equal(timeless[0], timeless[1])
        assert (ours.measures, len(ours.items)) == (theirs.measures, len(theirs.items))
        assert [each.index for each in ours.samples] == [each.index for each in theirs.samples]
        for mine, other in zip(ours.items, theirs.items, strict=True):
            assert (mine.index, mine.verdict, mine.gold) == (other.index, other.verdict, other.gold)
            assert_equal_group(mine.group, other.group)


def assert_equal_group(mine: RolloutGroup, other: RolloutGroup) -> None:
    assert mine.dialogue == other.dialogue
    assert torch.equal(mine.prompt.ids, other.prompt.ids)
    (ours,), (theirs,) = mine.rollouts, other.rollouts
    assert ours.answer == theirs.answer
    assert torch.equal(ours.completion.ids, theirs.completion.ids)
    # Batches of other sizes are multiplied by other kernels: rounding, and nothing else, may differ.
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, rtol=1e-4, atol=1e-5)
    assert (ours.waveform is None) == (theirs.waveform is None)
    if ours.waveform is not None and theirs.waveform is not None:
        assert ours.waveform.sample_rate == theirs.waveform.sample_rate
        assert np.array_equal(ours.waveform.samples, theirs.waveform.samples)


def warm(*changes: Change) -> tuple[Change, ...]:
    """Answers drawn at random, and a metric of which each rank observes its share."""
    own = put("evaluation.metrics.length", {"type": "sided_observer", "after": 1000})
    return (
        lambda recipe: recipe["plugins"].append(one_sided.__file__),
        put("evaluation.sampling", {"temperature": 1.0}),
        own,
        *changes,
    )


@pytest.mark.parametrize(("ranks", "limit"), [(2, 36), (2, 5), (2, 1), (3, 4)])
def test_ranks_of_the_toy_world(tmp_path: Path, ranks: int, limit: int) -> None:
    """Shares of unequal size, and ranks without any dialogue."""
    plan = compiled(tmp_path, *warm(put("data.evaluation", {"type": "toy_sums", "limit": limit})))
    first, *others = run_ranks(measured, ranks, plan.to_json())
    assert others == [[]] * (ranks - 1)
    assert_equal(first, measured(World.single(), plan.to_json()))
    texts = {item.group.rollouts[0].answer.text for item in first[0].items}
    assert limit < 5 or len(texts) > 2, "nothing was drawn"


def test_dialogues_that_come_twice_are_answered_as_on_one_rank(tmp_path: Path) -> None:
    twice = put("data.evaluation", [{"type": "toy_sums", "limit": 7}, {"type": "toy_sums", "limit": 5}])
    plan = compiled(tmp_path, *warm(twice))
    first, _ = run_ranks(measured, 2, plan.to_json())
    (alone, _) = found = measured(World.single(), plan.to_json())
    ids = [item.group.dialogue.id for item in alone.items]
    assert len(set(ids)) < len(ids)
    assert_equal(first, found)


def test_spoken_answers_of_the_quickstart_on_two_ranks() -> None:
    """Its base model, its metrics that listen, and its sound; drawn at the temperature of its rollouts."""
    limits = tuple(f"data.evaluation.{split}.limit={limit}" for split, limit in zip(LIMITS, (11, 3, 1), strict=True))
    warmth = "evaluation.sampling.temperature=0.9"
    plan = api.compile_recipe(load_recipe(str(ROOT / "recipes/quickstart.yaml"), (*limits, warmth)), HERE)
    first, others = run_ranks(measured, 2, plan.to_json())
    assert others == []
    wanted = measured(World.single(), plan.to_json())
    assert_equal(first, wanted)
    heard = [item.verdict.details["heard"] for item in wanted[0].items]
    assert len(set(heard)) > 3
    assert all(item.group.rollouts[0].waveform is not None for item in wanted[0].items)


@pytest.mark.parametrize("engine", ["plain", pytest.param("zero2", marks=pytest.mark.slow), "zero3"])
def test_what_is_written(tmp_path: Path, engine: str) -> None:
    """The first rank of two leaves the files that a single process leaves."""
    kept = put("runtime.engine", ENGINES[engine])
    changes = warm(put("steps", 0), put("evaluation.samples", 5), kept)
    (tmp_path / "two" / "run").mkdir(parents=True)
    plan = compiled(tmp_path / "two", *changes, put("runtime.processes", 2))
    ends = run_ranks(part, 2, plan.to_json(), str(tmp_path / "two" / "run"), False)
    assert [end["type"] for end in ends] == ["", ""], ends
    (tmp_path / "one").mkdir()
    api.run(compiled(tmp_path / "one", *warm(put("steps", 0), put("evaluation.samples", 5))))
    for name in ("metrics.jsonl", "evaluation.jsonl", "rollouts.jsonl"):
        found, wanted = (comparable(tmp_path / each / "run" / name) for each in ("two", "one"))
        assert found == wanted != []
    (line,) = lines(tmp_path / "two" / "run" / "metrics.jsonl")
    assert (line["accuracy/count"], line["length/count"], line["accuracy/ceiling"]) == (36, 36, 1.0)


# --- the parts by themselves ------------------------------------------------------------------------------------------


def test_dialogues_of_one_id_stay_on_one_rank_in_their_order() -> None:
    dialogues = [Dialogue(name, ()) for name in ("a", "b", "a", "c", "b", "a", "d")]
    found = [own_places(dialogues, Alone(rank, 2)) for rank in range(2)]
    assert found == [[0, 2, 3, 5], [1, 4, 6]]


def test_a_metric_that_observes_nothing_on_some_rank_measures_by_itself() -> None:
    groups: Any = ["p", "q", "r"]
    shares = [
        Share([1], groups[1:2], {"m": [10], "n": [1]}),
        Share([0, 2], [groups[0], groups[2]], {"m": None, "n": [0, 2]}),
    ]
    found = joined([*shares, Share([], [], {"m": [], "n": []})])
    assert (found.places, found.groups, found.observed) == ([0, 1, 2], groups, {"m": None, "n": [0, 1, 2]})


def test_dialogues_and_what_lies_behind_a_tensor_do_not_travel() -> None:
    """A row of a large tensor is sent as a row; a dialogue is the first rank's own, whatever its source put in it."""
    dialogue = Dialogue("d", (), metadata={"open": lambda: None})
    large = torch.arange(200_000).view(2, -1)
    tokens = TokenSequence(large[:, :3], large[:, 3:6].to(torch.int8))
    sound = Waveform(np.linspace(-1, 1, 5, dtype=np.float32), 16_000)
    answer = Rollout(tokens, large[:, :3].to(torch.bfloat16), Answer("yes", (1, 2), finished=True), waveform=sound)
    sent: list[bytes] = []

    class Two:
        rank, size = 1, 2

        def to_first(self, data: bytes) -> list[bytes] | None:
            sent.append(data)
            return [b"", sent[0]] if self.rank == 0 else None

    ranks = Two()
    share = Share([0], [RolloutGroup(dialogue, tokens, (answer,))], {"m": [1]})
    assert to_first(ranks, share, [dialogue]) is None
    assert len(sent[0]) < 10_000
    ranks.rank = 0
    found = to_first(ranks, Share([], [], {"m": []}), [dialogue])
    assert found is not None
    (group,) = found.groups
    assert group.dialogue is dialogue
    assert_equal_group(group, share.groups[0])
    assert group.rollouts[0].logprobs.dtype is torch.bfloat16
