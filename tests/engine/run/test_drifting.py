"""A run that games its reward is told so: in its lines, on the board, in the metrics and in the report."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.run.test_trainer import run
from tests.toy.compiled import compiled
from tests.toy.world import PLUGINS
from wavalign.engine import api
from wavalign.engine.compile.instruments import independent_metrics
from wavalign.engine.report.outcomes import moved, read_outcomes
from wavalign.engine.run.drifting import SinceStart
from wavalign.engine.state.folder import RunFolder
from wavalign.plugins.api import Metric, Reward
from wavalign.plugins.registry import Registry
from wavalign_cli.displays import PlainDisplay

HACKED = Path(__file__).parents[2] / "toy" / "hacked.py"
ALARM = "drift: since step 0 the training reward rose"


def gamed(recipe: dict[str, Any]) -> None:
    """The share of one word is the reward, and the metric minds it."""
    recipe["plugins"] = [*recipe["plugins"], str(HACKED)]
    recipe["rewards"] = {"judge": {"type": "toy_zeros"}}
    recipe["objective"] = {"terms": {"rl": {"loss": {"type": "grpo"}, "tokens": "text"}}}
    recipe["evaluation"] = {"metrics": {"meant": {"type": "toy_meant"}}, "every": 12}
    recipe["rollout"]["group_size"] = 8
    recipe["steps"], recipe["optim"]["learning_rate"] = 24, 0.01
    recipe["runtime"] |= {"checkpoint_every": 16, "report": True}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A gamed run, and what its plain lines said."""
    folder, stream = tmp_path_factory.mktemp("gamed"), io.StringIO()
    return run(folder, gamed, observer=PlainDisplay(stream)), stream.getvalue()


def test_it_is_said_behind_the_measurement_that_shows_it(told: tuple[Path, str]) -> None:
    said = told[1].splitlines()
    place = next(index for index, line in enumerate(said) if line.startswith(ALARM))
    assert "heldout/meant, which has another instrument, fell on the same items (1 to" in said[place]
    before = said[:place]
    assert any("middle of the stage" in line for line in before) or any("end of the stage" in line for line in before)


def test_it_stands_in_the_metrics_and_in_the_report(told: tuple[Path, str]) -> None:
    found = [line for line in lines(told[0]) if "drift/meant" in line]
    assert found and found[-1]["step"] == 24 and found[-1]["split"] == "heldout"
    first = next(line for line in lines(told[0]) if line["split"] == "heldout")
    assert found[-1]["drift/meant"] == pytest.approx(found[-1]["meant"] - first["meant"])
    page = (told[0] / "report.html").read_text()
    assert "Drift: the training reward rose while meant on heldout" in page and "(at step 24)" in page


def test_a_run_that_goes_on_remembers_what_it_compares_with(
    told: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped behind the first alarm's measurement, and told the same at the end."""

    class Stop(BaseException):
        pass

    stream = io.StringIO()
    display = PlainDisplay(stream)
    step = display.step

    def stop(values: Any, done: int) -> None:
        step(values, done)
        if done == 18:
            raise Stop

    monkeypatch.setattr(display, "step", stop)
    with pytest.raises(Stop):
        run(tmp_path, gamed, observer=display)
    api.run(compiled(tmp_path, gamed), resume=True, observer=PlainDisplay(stream))
    ours, theirs = ([x for x in lines(each) if "drift/meant" in x] for each in (tmp_path / "run", told[0]))
    assert [(x["step"], x["drift/meant"]) for x in ours] == [(x["step"], x["drift/meant"]) for x in theirs]
    wanted = [line for line in told[1].splitlines() if line.startswith(ALARM)]
    assert [line for line in stream.getvalue().splitlines() if line.startswith(ALARM)][-1] == wanted[-1]


@pytest.mark.parametrize(
    ("reward", "metric", "expected"), [("", "", ["meant"]), ("ears", "", ["meant"]), ("ears", "ears", [])]
)
def test_a_value_by_the_rewards_own_instrument_is_no_witness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reward: str, metric: str, expected: list[str]
) -> None:
    plan = compiled(tmp_path, gamed)
    monkeypatch.setattr(Reward, "instrument", classmethod(lambda cls, params: reward))
    monkeypatch.setattr(Metric, "instrument", classmethod(lambda cls, params: metric))
    registry = Registry((str(PLUGINS), str(HACKED)))
    assert independent_metrics(plan.stages[0], registry) == expected


def test_what_learns_from_no_reward_is_not_watched(tmp_path: Path) -> None:
    def imitates(recipe: dict[str, Any]) -> None:
        gamed(recipe)
        recipe["objective"] = {"terms": {"sft": {"loss": "cross_entropy", "tokens": "all"}}}

    plan = compiled(tmp_path, imitates)
    assert independent_metrics(plan.stages[0], Registry((str(PLUGINS), str(HACKED)))) == []


def test_every_later_measurement_is_compared_with_the_start(told: tuple[Path, str]) -> None:
    said = told[1].splitlines()
    compared = [line for line in said if line.startswith("  since the start, on the same items:")]
    assert len(compared) == 2 and "meant -" in compared[-1]


def test_a_run_that_goes_on_compares_with_its_start(told: tuple[Path, str], tmp_path: Path) -> None:
    plan = compiled(tmp_path, gamed)
    since = SinceStart(plan, RunFolder(told[0]))
    ends = read_outcomes(told[0], [])["heldout"]
    found = moved(ends.first, ends.last)
    assert found["meant"] < 0.001
    items = since._first["heldout"]
    assert {each.step for each in items.values()} == {0} and len(items) == 36
