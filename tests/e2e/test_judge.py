"""A run whose judge lies, breaks off, repeats the key and wants money: no number is made, no run, coin or key lost."""

import hashlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runs import ROOT, command, comparable, environment, here, lines
from tests.e2e.test_secrets import found_in
from tests.engine.run.test_several_processes import joined, newest
from tests.plugins.judging import server as fake
from tests.plugins.judging.made import KEY
from tests.plugins.judging.server import Asked, Server, serving
from tests.toy.compiled import put
from tests.toy.world import toy_recipe, write_recipe

PRICES = {"input": 10.0, "output": 100.0}
COUNTED = ("requests", "cached", "cost", "unreadable")
LIES: tuple[fake.Answer, ...] = (
    fake.scores(90),
    fake.says("I would rather not."),
    fake.says(None, finish="length"),
    fake.gives(200, b"<html><score>5</score></html>", kind="text/html"),
    fake.breaks,
    fake.hangs_up,
    fake.refuses(500),
    fake.echoes_key(503),
    fake.echoes_key(400),
    fake.scores(4, usage={"prompt_tokens": -5, "completion_tokens": "many"}),
    fake.gives(200, {"choices": [{"message": {"content": f"{KEY} <score>5</score>"}, "finish_reason": "stop"}]}),
)


def by_content(asked: Asked, sock: socket.socket) -> None:
    """2 or 4, the same for the same question."""
    even = hashlib.sha256(asked.user.encode()).digest()[0] % 2
    fake.scores(4 if even else 2)(asked, sock)


def lying(asked: Asked, sock: socket.socket) -> None:
    """A lie every other time."""
    answer = LIES[asked.number // 2 % len(LIES)] if asked.number % 2 else by_content
    answer(asked, sock)


def recipe(folder: Path, server: Server, **judge: Any) -> str:
    """The toy recipe, judged."""
    folder.mkdir(exist_ok=True)
    made = toy_recipe(folder, report=True, reward_failure_budget=1.0, log_rollouts_every=1)
    made["rewards"] = {"judge": section(server, **judge)}
    return write_recipe(folder, made)


def section(server: Server, **more: Any) -> dict[str, Any]:
    """The judge's."""
    service = {"url": server.url, "model": "fake", "api_key": "${env:JUDGE_CANARY}", "prices": PRICES, "max_tokens": 50}
    retries = {"attempts": 2, "seconds": 0.01}
    given = {"type": "judge", "judges": {"one": service}, "rubric": "semantic", "retries": retries, "timeout": 20}
    return {**given, "request_seconds": 2.0, "concurrency": 4, **more}


@pytest.fixture(autouse=True)
def of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, a cache, and no way out."""
    monkeypatch.setenv("JUDGE_CANARY", KEY)
    monkeypatch.setenv("WAVALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def steps(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines(folder / "run" / "metrics.jsonl") if line["split"] == "train"]


def learned(folder: Path) -> list[dict[str, Any]]:
    """Metrics without what was asked and what it cost: that depends on what was kept."""
    counts = {f"reward/judge/{name}" for name in COUNTED}
    found = comparable(folder / "run" / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in counts} for line in found]


def test_a_hostile_server_makes_no_number_and_learns_no_key(tmp_path: Path) -> None:
    with serving(lying) as server:
        ended = here("run", recipe(tmp_path, server))
    assert ended.code == 0, ended.output
    found = steps(tmp_path)
    assert len(found) == 6 and sum(line["reward/judge/failed"] for line in found) > 6
    assert sum(line["reward/judge/requests"] for line in found) == len(server.asked)
    judged = sum(line["reward/judge/judged"] for line in found)
    assert judged > 10 and all(line["reward/judge/cost"] > 0 for line in found)
    answers = [line for line in lines(tmp_path / "run" / "rollouts.jsonl") if "reward/judge" in line]
    said = {line["reward/judge"] for line in answers if "reason/judge" not in line}
    unsaid = {(line["reward/judge"], line["reason/judge"][:18]) for line in answers if "reason/judge" in line}
    assert said == {2.0, 4.0}
    assert unsaid <= {(None, "0 valid replies of"), (1.0, "the answer has no ")} and len(unsaid) > 0
    assert found_in(tmp_path, KEY) == [] and KEY not in ended.output


def test_a_run_that_had_to_stop_ends_as_one_that_had_not(tmp_path: Path) -> None:
    """402 in the middle: exit 6 with the cost; resumed, nothing is paid twice and all numbers are the same."""
    with serving(by_content) as server:
        assert here("run", recipe(tmp_path / "whole", server)).code == 0
        paid = len(server.asked)
        (tmp_path / "cache").rename(tmp_path / "other")
        server.asked.clear()
        server.answer = lambda asked, sock: (by_content if asked.number < paid // 2 else fake.echoes_key(402))(
            asked, sock
        )
        stopped = here("run", made := recipe(tmp_path / "cut", server))
        assert stopped.code == 6, stopped.output
        assert "nothing left to spend" in stopped.output and "spent so far in" in stopped.output
        assert "--resume" in stopped.output and KEY not in stopped.output
        refused = len(server.asked) - paid // 2
        assert 1 <= refused <= 4, "no more than were under way"
        server.answer = by_content
        again = here("run", made, "--resume")
        assert again.code == 0, again.output
    assert learned(tmp_path / "cut") == learned(tmp_path / "whole")
    assert len(server.asked) - refused == paid
    assert found_in(tmp_path, KEY) == []


def test_a_service_that_is_down_for_longer_than_the_budget_allows(tmp_path: Path) -> None:
    """503 to every attempt from the middle on: exit 6 with the checkpoint; when it is back, the run is as if never."""
    few = ("--set", "runtime.reward_failure_budget=0")
    with serving(by_content) as server:
        assert here("run", recipe(tmp_path / "whole", server), *few).code == 0
        paid = len(server.asked)
        (tmp_path / "cache").rename(tmp_path / "other")
        server.asked.clear()
        server.answer = lambda asked, sock: (by_content if asked.number < paid // 2 else fake.refuses(503))(asked, sock)
        stopped = here("run", made := recipe(tmp_path / "cut", server), *few)
        assert stopped.code == 6, stopped.output
        assert "was written: --resume goes on from there" in stopped.output
        still_down = here("run", made, "--resume", *few)
        assert still_down.code == 6, still_down.output
        server.answer = by_content
        again = here("run", made, "--resume", *few)
        assert again.code == 0, again.output
    assert learned(tmp_path / "cut") == learned(tmp_path / "whole")


def test_a_budget_holds_over_resumes(tmp_path: Path) -> None:
    with serving(by_content) as server:
        made = recipe(tmp_path, server, budget={"requests": 20}, cache=False)
        for _ in range(2):
            ended = here("run", made, *(["--resume"] if server.asked else []))
            assert ended.code == 6, ended.output
            assert "budget of 20 requests of reward `judge` is used up" in ended.output
            assert "raise rewards.judge.budget.requests, then --resume --accept reward.judge" in ended.output
            assert 16 <= len(server.asked) <= 20, "four were under way at most, and may not have been sent any more"
        more = ("--resume", "--accept", "reward.judge", "--set", "rewards.judge.budget.requests=500")
        ended = here("run", made, *more)
        assert ended.code == 0, ended.output
    assert found_in(tmp_path, KEY) == []


def test_nothing_is_sent_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(fake.scores()) as server:
        made = recipe(tmp_path, server)
        assert here("run", made, "--dry-run").code == 0
        monkeypatch.delenv("JUDGE_CANARY")
        assert here("validate", made).code == 0
        assert here("run", made).code == 5
    assert server.asked == []


def test_a_key_in_the_recipe_is_refused(tmp_path: Path) -> None:
    with serving(fake.scores()) as server:
        made = recipe(tmp_path, server)
    Path(made).write_text(Path(made).read_text(encoding="utf-8").replace("${env:JUDGE_CANARY}", KEY), encoding="utf-8")
    ended = here("validate", made)
    assert ended.code == 3 and "api_key" in ended.output and KEY not in ended.output


def test_two_processes_share_limits_and_budget(tmp_path: Path) -> None:
    """Together they send no more than the run may; both end alike, with their steps kept."""
    with serving(by_content) as server:
        judged = section(server, budget={"requests": 24}, cache=False)
        ends = joined(tmp_path / "budget", put("rewards", {"exact": judged}))
        assert [(end["type"], end["code"]) for end in ends] == [("RewardStopped", 6)] * 2
        assert all("budget of 24 requests" in end["message"] for end in ends)
        assert 16 <= len(server.asked) <= 24, "up to eight were under way when all ended"
        entries = lines(tmp_path / "budget" / "run" / "rewards" / "exact" / "ledger.jsonl")
        assert sum("request" in each for each in entries) == 24
        assert newest(tmp_path / "budget") != []


@pytest.mark.slow
def test_two_processes_share_limits_a_minute(tmp_path: Path) -> None:
    """What has no turn in time fails, and is not sent."""
    with serving(by_content) as server:
        judged = section(server, cache=False, timeout=3.0, concurrency=1)
        judged["judges"]["one"]["requests_per_minute"] = 10
        changes = (put("steps", 3), put("runtime.reward_failure_budget", 1.0), put("evaluation.metrics", {}))
        joined(tmp_path, put("rewards", {"exact": judged}), *changes)
        times = [asked.at for asked in server.asked]
    assert len(times) == 10 or max(times) - min(times) > 60


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    """kill -9 at three places: requests and money within the budget, and in the end the numbers of a whole run."""
    with serving(by_content) as server:
        assert here("run", recipe(tmp_path / "whole", server)).code == 0
        paid = len(server.asked)
        (tmp_path / "cache").rename(tmp_path / "other")
        server.asked.clear()
        server.answer = slowly
        made = recipe(tmp_path / "cut", server, budget={"requests": paid + 12})
        for number in range(3):
            target = paid * (number + 1) // 4
            _killed(["run", made, *(["--resume"] if number else [])], lambda: len(server.asked) >= target)  # noqa: B023
        ended = here("run", made, "--resume")
        assert ended.code == 0, ended.output
    assert paid <= len(server.asked) <= paid + 12, "what was under way when it was killed is asked again, nothing else"
    assert learned(tmp_path / "cut") == learned(tmp_path / "whole")
    written = lines(tmp_path / "cut" / "run" / "rewards" / "judge" / "ledger.jsonl")
    reserved = sum("request" in each for each in written)
    assert len(server.asked) <= reserved <= paid + 12, "one that was killed before it was sent counts, none is left out"


def slowly(asked: Asked, sock: socket.socket) -> None:
    time.sleep(0.05)
    by_content(asked, sock)


def _killed(arguments: list[str], reached: Any) -> None:
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while not reached():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
