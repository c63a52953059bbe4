"""A run that samples ahead, killed or told to stop, and resumed, leaves the numbers of one that went through."""

import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.runs import Started, comparable, here, lines, wait_for
from tests.toy.world import toy_recipe, write_recipe


def _recipe(folder: Path, processes: int) -> str:
    folder.mkdir(exist_ok=True)
    recipe = toy_recipe(folder, checkpoint_every=3, processes=processes)
    recipe["steps"] = 14
    recipe["evaluation"]["every"] = 7
    recipe["rollout"]["ahead"] = 1
    return write_recipe(folder, recipe)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_and_killed_and_resumed(tmp_path: Path, processes: int) -> None:
    """First a signal that writes a checkpoint, then kill -9 between two of them."""
    done = here("run", _recipe(tmp_path / "whole", processes))
    assert done.code == 0, done.output
    recipe, cut, whole = _recipe(tmp_path / "cut", processes), tmp_path / "cut/run", tmp_path / "whole/run"
    stops = ((signal.SIGTERM, 4, 143, ()), (signal.SIGKILL, 8, -signal.SIGKILL, ("--resume",)))
    for number, at, code, more in stops:
        process = Started(("run", recipe, *more), tmp_path / "output.txt")
        wait_for(lambda wanted=at: len(lines(cut / "metrics.jsonl")) >= wanted, process)  # type: ignore[misc]
        process.send(number)
        assert process.wait() == code, process.output
    assert not (cut / "finished.json").exists()
    end = time.monotonic() + 60
    while "is in use by process" in (done := here("run", recipe, "--resume")).output:
        assert time.monotonic() < end, done.output  # workers end once they see that who started them is gone
        time.sleep(0.2)
    assert done.code == 0, done.output
    for name in ("metrics.jsonl", "rollouts.jsonl", "evaluation.jsonl"):
        assert comparable(cut / name) == comparable(whole / name)
    ours, theirs = (load_file(each / "model" / "model.safetensors") for each in (cut, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
