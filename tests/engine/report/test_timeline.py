"""A timeline: what a run writes, what a trace viewer is given, and who is called slow."""

import json
from pathlib import Path

import pytest

from wavalign.engine.report.timeline import TimedStep, operator_times, read_timeline, trace, what_is_slow
from wavalign.engine.state.timeline import FOLDER, Spans, Timeline
from wavalign.errors import DataError


def step(number: int, rank: int = 0, **took: float) -> TimedStep:
    """A step of operators, one after the other; `reward_x` is the reward `x`."""
    spans, after = list[tuple[str, int, float, float]](), 0.0
    for name, each in took.items():
        spans.append((name.replace("_", ".", 1), 0, after, each))
        after += each
    return TimedStep("train", number, rank, 100.0 + number, spans)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path, rank=1, every=2)
    assert [timeline.wants(number) for number in (1, 2, 3, 4)] == [True, True, False, True]
    for number in (1, 2, 4):
        spans = Spans()
        with spans.of("rollout"):
            pass
        timeline.write(spans, stage="train", step=number)
    found = read_timeline(tmp_path)
    assert [(each.stage, each.step, each.rank) for each in found] == [("train", n, 1) for n in (1, 2, 4)]
    (operator, lane, after, took) = found[0].spans[0]
    assert (operator, lane) == ("rollout", 0) and 0 <= after < 1000 and 0 <= took < 1000


def test_times_of_an_operator_add_up() -> None:
    """Of several micro-batches, as numbers of a step; what has not ended is not there yet."""
    spans = Spans()
    spans.found = [("forward", 0, 0.0, 250.0), ("reward.judge", 1, 0.0, 500.0), ("forward", 0, 300.0, 150.0)]
    assert spans.seconds() == {"forward": 0.4, "reward.judge": 0.5}
    with spans.of("metrics"):
        assert "metrics" not in spans.seconds()


def test_none_are_kept(tmp_path: Path) -> None:
    assert not Timeline(tmp_path, rank=0, every=0).wants(1)
    with pytest.raises(DataError, match="kept no times"):
        read_timeline(tmp_path)


def test_a_disk_that_refuses_ends_it_and_no_run(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where a folder should be")
    timeline = Timeline(tmp_path, rank=0, every=1)
    timeline.write(Spans(), stage="train", step=1)
    assert not timeline.wants(2)


def test_a_torn_end_is_left_out_and_damage_is_named(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path, rank=0, every=1)
    timeline.write(Spans(), stage="train", step=1)
    path = tmp_path / FOLDER / "rank-0.jsonl"
    path.write_text(path.read_text() + '{"stage": "tra')
    assert len(read_timeline(tmp_path)) == 1
    path.write_text("nothing\n" + path.read_text())
    with pytest.raises(DataError, match=r"rank-0.jsonl:1 is no step"):
        read_timeline(tmp_path)


def test_a_step_that_was_done_again_counts_once(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path, rank=0, every=1)
    for _ in range(2):
        timeline.write(Spans(), stage="train", step=1)
    assert len(read_timeline(tmp_path)) == 1


def test_trace_events_by_hand() -> None:
    """Microseconds from the first step; the second starts a second later."""
    events = trace([step(1, rollout=5.0, reward_judge=2.0), step(2, rank=1, rollout=4.0)])["traceEvents"]
    assert [each["args"]["name"] for each in events if each["ph"] == "M"] == ["rank 0", "rank 1"]
    timed = {(each["pid"], each["name"]): (each["ts"], each["dur"]) for each in events if each["ph"] == "X"}
    assert timed == {
        (0, "step 1"): (0, 7000), (0, "rollout"): (0, 5000), (0, "reward.judge"): (5000, 2000),
        (1, "step 2"): (1e6, 4000), (1, "rollout"): (1e6, 4000),
    }  # fmt: skip
    json.dumps(events)


def test_times_are_medians_without_the_first_step() -> None:
    steps = [step(number, rollout=took) for number, took in ((1, 900.0), (2, 10.0), (3, 20.0), (4, 60.0))]
    assert operator_times(steps) == {"rollout": {0: 20.0}}
    assert operator_times(steps[:1]) == {"rollout": {0: 900.0}}


def test_a_slow_rank_and_a_slow_reward_are_named() -> None:
    """Rank 2 samples for 200 ms where the others take 100; in `update` all of them wait."""
    steps = [
        step(number, rank, rollout=200.0 if rank == 2 else 100.0, update=300.0)
        for number in range(1, 6)
        for rank in range(3)
    ]
    assert what_is_slow(steps) == ["rank 2 takes 2.0 times the median of all ranks, most of it in rollout"]
    judged = [step(number, rollout=100.0, reward_judge=500.0) for number in range(1, 6)]
    assert what_is_slow(judged) == ["reward.judge takes 0.50 s of a step of 0.60 s"]


def test_nobody_is_called_slow_by_few_steps_or_little() -> None:
    assert what_is_slow([step(number, rank, rollout=100.0 * (1 + rank)) for number in (1, 2) for rank in (0, 1)]) == []
    even = [step(number, rank, rollout=100.0 + 10 * rank) for number in range(1, 9) for rank in (0, 1)]
    assert what_is_slow(even) == []
