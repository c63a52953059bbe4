"""Kills drawn by a seed, each resumed to the run that nobody disturbed, bit for bit; and damaged checkpoints."""

import random
import shutil
from pathlib import Path

import pytest

from tests.e2e.trials import KINDS, POINTS, Trial, drawn, plan_of, run, said, tried, wholly
from tests.engine.run.test_trainer import assert_same_run

TRIALS = 200
SAMPLE = (
    Trial("plain", 1, "backward", 0, 6, before=False),
    Trial("plain", 2, "checkpoint", 1, 2, before=True),
    Trial("zero3", 2, "scoring", 1, 2, before=True),
    Trial("zero2", 1, "manifest", 0, 4, before=True),
)


class Wholes:
    """Runs that went through, by kind; each is made when it is first wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, dict[tuple[str, int], Path]()

    def of(self, engine: str, size: int) -> Path:
        if (engine, size) not in self._made:
            self._made[engine, size] = wholly(self._folder / f"{engine}-{size}", engine, size)
        return self._made[engine, size]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Wholes:
    return Wholes(tmp_path_factory.mktemp("wholes"))


@pytest.mark.parametrize("trial", SAMPLE, ids=lambda each: f"{each.engine}-{each.size}-{each.point}")
def test_a_kill_here_and_there(wholes: Wholes, tmp_path: Path, trial: Trial) -> None:
    assert tried(tmp_path, trial, wholes.of(trial.engine, trial.size)), "it was over before"


def test_the_trials_have_every_kind_and_point() -> None:
    found = [drawn(seed) for seed in range(TRIALS)]
    assert {(each.engine, each.size, each.point) for each in found} == {
        (*kind, point) for kind in KINDS for point in POINTS
    }
    assert {each.rank for each in found if each.size == 2} == {0, 1}
    assert len(set(found)) > TRIALS * 0.7


@pytest.mark.slow
@pytest.mark.trial
@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_kill_anywhere(wholes: Wholes, tmp_path: Path, seed: int) -> None:
    trial = drawn(seed)
    tried(tmp_path, trial, wholes.of(trial.engine, trial.size))
    shutil.rmtree(tmp_path)  # two hundred runs take space


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 12))])
@pytest.mark.parametrize("kind", [("plain", 1), pytest.param(("zero3", 2), marks=pytest.mark.slow)], ids=str)
def test_a_shard_that_is_cut_or_flipped_is_named(
    wholes: Wholes, tmp_path: Path, kind: tuple[str, int], seed: int
) -> None:
    """The resume ends before anything is read; with the checkpoint before it the run ends as it would have."""
    rng, (engine, size) = random.Random(seed), kind
    plan = plan_of(tmp_path, engine, size)
    killed = Trial(engine, size, "backward", 0, 12 if size == 1 else 7, before=True)
    codes = run(plan, tmp_path, resume=False, trial=killed)
    assert codes[0] == -9, said(tmp_path)
    newest = tmp_path / "run" / "checkpoints" / "step-2"
    assert newest.exists() and newest.with_name("step-1").exists()
    shards = [path for path in sorted(newest.rglob("*")) if path.is_file() and path.name != "checkpoint.json"]
    shard = rng.choice(shards)
    content = bytearray(shard.read_bytes())
    place = rng.randrange(len(content))
    if seed % 2:
        shard.write_bytes(content[:place])
    else:
        content[place] ^= 1 << rng.randrange(8)
        shard.write_bytes(content)
    codes = run(plan, tmp_path, resume=True)
    assert all(code == 5 for code in codes), f"{codes}: {said(tmp_path)}"
    words = said(tmp_path)
    assert str(shard) in words and ("was changed after" in words or f"has {place} bytes instead of" in words)
    assert f"remove {newest} to continue from step 1, which is intact" in words
    shutil.rmtree(newest)
    codes = run(plan, tmp_path, resume=True)
    assert codes == [0] * size, said(tmp_path)
    assert_same_run(tmp_path / "run", wholes.of(engine, size))


@pytest.mark.parametrize(
    "kind", [("plain", 1), *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])], ids=str
)
def test_a_disk_that_takes_no_large_file(wholes: Wholes, tmp_path: Path, kind: tuple[str, int]) -> None:
    """What writes weights is no Python: it meets the limit in the middle of a file, and must say so all the same."""
    engine, size = kind
    plan = plan_of(tmp_path, engine, size)
    killed = Trial(engine, size, "update", 0, 3, before=True)
    codes = run(plan, tmp_path, resume=False, trial=killed)
    assert codes[0] == -9, said(tmp_path)
    checkpoints = tmp_path / "run" / "checkpoints"
    there = sorted(path.name for path in checkpoints.iterdir())
    assert "step-2" in there
    codes = run(plan, tmp_path, resume=True, largest=20_000)
    assert 1 in codes and set(codes) <= {1, 75}, f"{codes}: {said(tmp_path)}"
    assert "storage" in said(tmp_path) and "fault in WavAlign" not in said(tmp_path), said(tmp_path)
    assert "step-2" in [path.name for path in checkpoints.iterdir()]
    assert not (checkpoints / "step-3").exists()
    codes = run(plan, tmp_path, resume=True)
    assert codes == [0] * size, said(tmp_path)
    assert_same_run(tmp_path / "run", wholes.of(engine, size))
