"""The walk over operators, on made-up ones: what each scope sees, what runs beside what, and whose error is whose."""

import gc
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch

from wavalign.engine.compile.plan import Operator, Scope
from wavalign.engine.step.executor import Executor, LiveOperator, Run
from wavalign.engine.step.values import Values
from wavalign.engine.step.waiting import Waiting, nobody

CPU = torch.device("cpu")
SECONDS = 20.0
"""Longer than any thread here needs; who waits this long would wait for ever."""


def operator(
    name: str, run: Run, *, needs: Sequence[str] = (), scope: Scope = "collect", gives: Sequence[str] | None = None,
    place: Literal["host", "threads"] = "host", busy: str = "", counts_as: Literal["rollout", "learn"] = "learn",
    progress: Callable[[], tuple[str, int, int]] | None = None,
) -> LiveOperator:  # fmt: skip
    """An operator that gives a value of its own name, unless told otherwise."""
    given = dict.fromkeys((name,) if gives is None else gives, "")
    plan = Operator(
        name=name, function=name, needs=tuple(needs), gives=given, scope=scope, place=place, counts_as=counts_as
    )
    return LiveOperator(plan, run, busy, progress)


def step(*operators: LiveOperator, waiting: Waiting = nobody, **first: Any) -> Values:
    return Executor(operators, device=CPU, waiting=waiting).run(first)


def test_values_go_from_giver_to_taker() -> None:
    made = step(
        operator("two", lambda _: {"two": 2}),
        operator("sum", lambda x: {"sum": x["two"] + x["three"]}, needs=("two",)),
        three=3,
    )
    assert (made["two"], made["sum"], made["three"]) == (2, 5, 3)


def test_only_what_the_plan_says_is_given() -> None:
    """A value that nobody asked for is not kept; one that was promised and is not made is an error."""
    made = step(operator("one", lambda _: {"one": 1, "more": 2}))
    assert "more" not in made
    with pytest.raises(KeyError, match="missing"):
        step(operator("one", lambda _: {"one": 1}, gives=("one", "missing")))


def nested(seen: list[str]) -> list[LiveOperator]:
    """An operator in every place that a step has: before, inside and after each scope."""

    def note(name: str, value: Callable[[Mapping[str, Any]], object]) -> Run:
        def run(x: Mapping[str, Any]) -> dict[str, object]:
            seen.append(name)
            return {name: value(x)}

        return run

    return [
        operator("updates", note("updates", lambda _: [[1, 2], [3]])),
        operator("micro_batches", note("micro_batches", lambda x: x["updates"]), needs=("updates",), scope="update"),
        operator("ten", note("ten", lambda x: 10 * x["micro_batches"]), needs=("micro_batches",), scope="micro_batch"),
        operator("more", note("more", lambda x: x["ten"] + 1), needs=("ten",), scope="micro_batch"),
        operator("total", note("total", lambda x: sum(x["more"])), needs=("more",), scope="update"),
        operator("result", note("result", lambda x: (x["total"], x["ten"])), needs=("total", "ten")),
    ]


def test_scopes_are_nested_and_what_they_give_is_a_list_outside() -> None:
    """Inside a scope the value that it runs for is one item; what came of the items is a list for who stands around."""
    seen: list[str] = []
    made = step(*nested(seen))
    assert made["result"] == ([11 + 21, 31], [[10, 20], [30]])
    assert seen == [
        "updates",
        *("micro_batches", "ten", "more", "ten", "more", "total"),
        *("micro_batches", "ten", "more", "total"),
        "result",
    ]


def test_what_nobody_outside_needs_stays_inside() -> None:
    made = step(*nested([]))
    assert "more" not in made
    assert "micro_batches" not in made
    assert made["updates"] == [[1, 2], [3]]


def test_an_inner_scope_of_no_items_gives_empty_lists() -> None:
    made = step(
        operator("updates", lambda _: {"updates": []}),
        operator("loss", lambda x: {"loss": x["updates"]}, needs=("updates",), scope="update"),
        operator("count", lambda x: {"count": len(x["loss"])}, needs=("loss",)),
    )
    assert made["count"] == 0


class Held:
    """Something as large as the tensors of a micro-batch."""


def test_what_one_item_made_is_freed_before_the_next_is_made() -> None:
    """Of each scope, with no help of the collector of garbage: only what is asked for outside stays."""
    alive: weakref.WeakSet[Held] = weakref.WeakSet()
    counts: list[int] = []

    def hold(name: str) -> Run:
        def run(_: Mapping[str, Any]) -> dict[str, object]:
            counts.append(len(alive))
            alive.add(held := Held())
            return {name: held}

        return run

    def moved() -> Held:
        """A micro-batch that goes to the device when its turn comes."""
        counts.append(len(alive))
        alive.add(held := Held())
        return held

    gc.disable()
    try:
        step(
            operator("updates", lambda _: {"updates": range(2)}),
            operator("large", hold("large"), scope="update"),
            operator("micro_batches", lambda _: {"micro_batches": (moved() for _ in range(3))}, scope="update"),
            operator("larger", hold("larger"), needs=("micro_batches",), scope="micro_batch"),
            operator("largest", hold("largest"), needs=("larger",), scope="micro_batch"),
            operator("loss", lambda _: {"loss": 1}, needs=("largest",), scope="micro_batch"),
            operator("sum", lambda x: {"sum": len(x["loss"])}, needs=("loss",), scope="update"),
            operator("result", lambda x: {"result": sum(x["sum"])}, needs=("sum",)),
        )
        assert len(alive) == 0
    finally:
        gc.enable()
    a_micro_batch = [1, 2, 3]  # beside what the update made
    an_update = [0, *3 * a_micro_batch]
    assert counts == 2 * an_update


def test_an_operator_in_a_thread_runs_beside_those_that_do_not_need_it() -> None:
    """Each waits for the other to have begun, which only two at once can do."""
    begun, went_on = threading.Event(), threading.Event()

    def listen(_: Mapping[str, Any]) -> dict[str, object]:
        begun.set()
        return {"sound": went_on.wait(SECONDS)}

    def go_on(_: Mapping[str, Any]) -> dict[str, object]:
        went_on.set()
        return {"rows": begun.wait(SECONDS)}

    made = step(
        operator("sound", listen, place="threads"),
        operator("rows", go_on),
        operator("both", lambda x: {"both": (x["sound"], x["rows"])}, needs=("sound", "rows")),
    )
    assert made["both"] == (True, True)


def test_an_operator_in_a_thread_waits_for_another_one_there() -> None:
    """The main thread goes on meanwhile: it sets off the first only after both have started."""
    let_go = threading.Event()

    def go_on(_: Mapping[str, Any]) -> dict[str, object]:
        let_go.set()
        return {"rows": 1}

    made = step(
        operator("sound", lambda _: {"sound": let_go.wait(SECONDS)}, place="threads"),
        operator("score", lambda x: {"score": [x["sound"]]}, needs=("sound",), place="threads"),
        operator("rows", go_on),
        operator("table", lambda x: {"table": x["score"]}, needs=("score",)),
    )
    assert made["table"] == [True]


def fail(_: Mapping[str, Any]) -> dict[str, object]:
    raise LookupError("no vocoder")


def test_an_error_in_a_thread_is_raised_where_the_value_is_needed() -> None:
    """Not before: what stands between still runs; and through a second thread it is the same error."""
    ran: list[str] = []

    def note(name: str, needs: Sequence[str] = ()) -> LiveOperator:
        def run(x: Mapping[str, Any]) -> dict[str, object]:
            ran.append(name)
            return {name: [x[need] for need in needs]}

        return operator(name, run, needs=needs)

    operators = [
        operator("sound", fail, place="threads"),
        operator("score", lambda x: {"score": x["sound"]}, needs=("sound",), place="threads"),
        note("rows"),
        note("table", ("score",)),
        note("after"),
    ]
    with pytest.raises(LookupError, match="no vocoder"):
        step(*operators)
    assert ran == ["rows", "table"]


def test_what_fails_in_a_thread_and_is_needed_by_nobody_stops_nothing() -> None:
    made = step(operator("sound", fail, place="threads"), operator("rows", lambda _: {"rows": 1}))
    assert made["rows"] == 1
    with pytest.raises(LookupError, match="no vocoder"):
        made["sound"]


def test_a_value_of_an_inner_thread_is_waited_for_by_who_collects_it() -> None:
    made = step(
        operator("updates", lambda _: {"updates": [1, 2]}),
        operator(
            "square", lambda x: {"square": x["updates"] ** 2}, needs=("updates",), scope="update", place="threads"
        ),
        operator("all", lambda x: {"all": x["square"]}, needs=("square",)),
    )
    assert made["all"] == [1, 4]


def test_a_person_is_told_what_the_step_does_and_what_it_waits_for() -> None:
    told: list[tuple[str, int, int]] = []
    heard = threading.Event()

    def listen(what: str, done: int, total: int) -> None:
        told.append((what, done, total))
        if what == "reward style":
            heard.set()

    step(
        operator(
            "score",
            lambda _: {"score": heard.wait(SECONDS)},
            place="threads",
            busy="scoring",
            progress=lambda: ("reward style", 3, 8),
        ),
        operator("rows", lambda _: {"rows": 1}, busy="reading"),
        operator("quiet", lambda _: {"quiet": 1}),
        operator("table", lambda x: {"table": x["score"]}, needs=("score",)),
        waiting=listen,
    )
    assert told[:2] == [("scoring", 0, 0), ("reading", 0, 0)]
    assert set(told[2:]) == {("reward style", 3, 8)}


def test_time_counts_as_what_its_operator_says() -> None:
    """What the main thread waits for a value counts as the work of who needs it."""
    let_go, clocks = threading.Event(), []

    def rest(name: str) -> Run:
        def run(_: Mapping[str, Any]) -> dict[str, object]:
            let_go.wait(0.05)
            return {name: 1}

        return run

    def read(x: Mapping[str, Any]) -> dict[str, object]:
        clocks.append(x["clock"])
        return {"result": 1}

    step(
        operator("rollouts", rest("rollouts"), counts_as="rollout"),
        operator("loss", rest("loss")),
        operator("again", rest("again"), counts_as="rollout"),
        operator("result", read),
    )
    (clock,) = clocks
    assert set(clock.seconds) == {"rollout", "learn"}
    assert clock.seconds["rollout"] >= 0.09
    assert 0.04 <= clock.seconds["learn"] < clock.seconds["rollout"]


def test_every_step_begins_with_nothing_of_the_last() -> None:
    executor = Executor([operator("next", lambda x: {"next": x["step"] + 1, "had": 0})], device=CPU, waiting=nobody)
    assert [executor.run({"step": index})["next"] for index in (1, 2)] == [2, 3]
