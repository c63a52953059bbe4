"""Prompts and answers that are too long: met before training, or left out and counted; never cut."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed import run_ranks
from tests.e2e.runs import comparable
from tests.engine.feeding.test_feeds import Numbers
from tests.engine.feeding.test_record_check import both_say, planned, spoiled
from tests.engine.feeding.test_streams import Counted, Source
from tests.toy.compiled import Change, put
from tests.toy.live import silent
from wavalign.engine import api
from wavalign.engine.compile.plan import Plan
from wavalign.engine.feeding.feeds import Feed, Leaving
from wavalign.engine.feeding.lengths import Kept
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.data_check import check_recipe
from wavalign.engine.run.observers import Silent
from wavalign.engine.state.distributed import World
from wavalign.errors import DataError
from wavalign.plugins.batch import Dialogue

ENDLESS = [{"role": "user", "text": " ".join(["one plus two"] * 7_000)}] * 2
LONG = {"text": " ".join(["it is three"] * 300)}
DROP = put("data.too_long", "drop")
MOST: Change = put("data.max_target_tokens", 100)


def long_answers(number: int, found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "target": LONG} if number % 5 == 0 else found


def steps(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(each) for each in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [each for each in lines if each["split"] == "train"]


@pytest.mark.parametrize("heading", ["prompts", "demonstrations", "evaluation"])
def test_no_prompt_is_longer_than_the_model(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, spoiled(40, messages=ENDLESS), heading=heading)
    both_say(plan, tmp_path, "data.jsonl:40: dialogue line-40", "tokens long, and the model has 32768 positions")


def test_a_bound_refuses_and_names_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spoil = spoiled(37, target=LONG)
    plan = planned(tmp_path, spoil, put("data.max_target_tokens", 100), heading="demonstrations")
    both_say(plan, tmp_path, "data.jsonl:37", "tokens long, and data.max_target_tokens is 100")
    bound = put("data.max_prompt_tokens", 5)
    shutil.rmtree(tmp_path / "run")
    both_say(planned(tmp_path, spoiled(0), bound), tmp_path, "data.jsonl:1:", "data.max_prompt_tokens is 5")
    targets_of_prompts = planned(tmp_path, spoil, MOST)  # nobody imitates those
    assert not api.preflight(targets_of_prompts).errors


def test_what_is_dropped_is_counted_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, long_answers, MOST, DROP, heading="demonstrations")
    found = api.preflight(plan)
    assert not found.errors
    assert any("40 looked at; 8 left out as too long" in each.message for each in found.findings)
    (look,) = check_recipe(plan, only=["demonstrations"], limit=None, sounds=False, tokens=False).headings
    assert "8 records are too long and are left out (data.max_target_tokens 100," in " ".join(look.notes)
    said: list[str] = []
    monkeypatch.setattr(Silent, "message", lambda _self, text: said.append(text))
    api.run(plan)
    assert any(each.startswith("data.demonstrations: 8 records are left out as too long") for each in said)
    assert {each["dropped/demonstrations"] for each in steps(tmp_path)} == {8}


def test_data_check_names_what_a_bound_refuses(tmp_path: Path) -> None:
    plan = planned(tmp_path, long_answers, MOST, heading="demonstrations")
    problems = check_recipe(plan, only=["demonstrations"], limit=None, sounds=False, tokens=False).problems
    assert len(problems) == 8 and "data.jsonl:5" in problems[0].message


def test_nothing_left_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, spoiled(0), put("data.max_prompt_tokens", 5), DROP)
    both_say(plan, tmp_path, "all 40 records of a source are too long (data.max_prompt_tokens 5")


def streamed(folder: Path, *changes: Change) -> Plan:
    source = {"type": "jsonl", "path": str(folder / "data.jsonl"), "streaming": True, "shuffle_buffer": 3}
    return planned(folder, long_answers, MOST, put("data.demonstrations", source), *changes, heading="demonstrations")


def indexed(folder: Path, *changes: Change) -> Plan:
    return planned(folder, long_answers, MOST, *changes, heading="demonstrations")


def test_a_stream_meets_them_when_it_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data\.jsonl:\d+: dialogue line-\d+: its target is .* tokens long"):
        api.run(streamed(tmp_path))


class Stop(BaseException):
    """As sudden as a kill."""


def stop_at_4(_self: Silent, _metrics: Any, step: int) -> None:
    if step == 4:
        raise Stop


@pytest.mark.parametrize("make", [streamed, indexed])
def test_a_resume_leaves_out_the_same(
    make: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    whole = api.run(make(tmp_path / "whole", DROP))
    cut_plan = make(tmp_path / "cut", DROP)
    with monkeypatch.context() as patched:
        patched.setattr(Silent, "step", stop_at_4)
        with pytest.raises(Stop):
            api.run(cut_plan)
    cut = api.run(make(tmp_path / "cut", DROP), resume=True)
    assert comparable(cut / "metrics.jsonl") == comparable(whole / "metrics.jsonl")
    assert steps(tmp_path / "whole")[-1]["dropped/demonstrations"] > 0


def drawn_by_rank(world: World, folder: str) -> list[str]:
    plan = planned(Path(folder) / str(world.rank), long_answers, MOST, DROP, heading="demonstrations")
    live = Builder(plan, world, silent).stage(plan.stages[0], None)
    assert live.feeds["demonstrations"].dropped == 8
    return [each.id for each in live.feeds["demonstrations"].next(64)]


def test_every_rank_leaves_out_the_same(tmp_path: Path) -> None:
    for rank in "01":
        (tmp_path / rank).mkdir()
    one, other = run_ranks(drawn_by_rank, 2, str(tmp_path))
    assert one == other and len(set(one)) == 32 and "line-5" not in one


def test_a_stream_of_nothing_else_ends() -> None:
    def too_long(dialogue: Dialogue) -> DataError:
        return DataError(f"{dialogue.id} is too long")

    feed = Feed([(Source(stream=Counted(7)), 1.0)], seed=0, leaving=Leaving(too_long, drop=True))
    with pytest.raises(DataError, match="10,000 records in a row of a stream are too long, the last of them: 0-"):
        feed.next(1)


def test_what_is_kept_stays_in_order() -> None:
    kept = Kept(Numbers("a", 9), [1, 4, 8])
    assert [kept.record(index).id for index in range(len(kept))] == ["a-1", "a-4", "a-8"]
