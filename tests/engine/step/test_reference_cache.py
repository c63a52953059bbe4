"""The reference's log-probs of rows of data: scored once, kept by all they hang on, and equal however they are had."""

import os
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed import run_ranks
from tests.engine.step.test_openings import PAIRS
from tests.toy.compiled import Change, compiled, drop, only_stage, put
from tests.toy.live import live_stage, train, train_rank
from wavalign.engine.models import reference_cache
from wavalign.engine.models.reference_cache import FILE, ReferenceCache
from wavalign.engine.state.distributed import World
from wavalign.engine.step import references
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import StorageError
from wavalign.plugins.batch import SoundSegment, TokenBatch

DPO: tuple[Change, ...] = (*PAIRS, put("objective.terms", {"prefer": {"loss": "dpo"}}))
ALL = put("batch.families.pairs", 36)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, that has nothing."""
    monkeypatch.setenv("WAVALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each forward of the reference saw."""
    calls: list[int] = []
    own = references._scored

    def counted(score: Any, batch: Any, select: Tensor) -> Tensor:
        calls.append(len(batch.rows))
        return own(score, batch, select)

    monkeypatch.setattr(references, "_scored", counted)
    return calls


def same(ours: Any, theirs: Any) -> None:
    """To the last bit."""
    assert ours[0] == theirs[0]
    assert all(torch.equal(ours[1][name], weights) for name, weights in theirs[1].items())


def test_rows_that_come_again_are_not_scored_again(tmp_path: Path, scored: list[int]) -> None:
    plan = compiled(tmp_path, *DPO, ALL)
    cold = train(plan)
    assert scored == [1] * 72, "both sides of 36 pairs once in three epochs, each alone"
    warm = train(plan)
    assert len(scored) == 72
    same(warm, cold)


def test_a_cache_that_is_gone_changes_nothing(tmp_path: Path, cache: Path, scored: list[int]) -> None:
    """In the middle of a run, and under another cut: what is computed again is what was kept."""
    plan = compiled(tmp_path, *DPO, ALL)
    whole = train(plan)
    scored.clear()
    live = live_stage(plan)
    executor = StepExecutor(live)
    lines = [executor.step(0).metrics]
    assert live.reference_cache is not None
    live.reference_cache._kept._database.execute("DELETE FROM logprobs")
    lines += [executor.step(index).metrics for index in (1, 2)]
    weights = {name: each.detach().clone() for name, each in live.backend.policy.named_parameters()}
    live.close()
    assert len(scored) == 72
    lines = [{key: line[key] for key in whole[0][index]} for index, line in enumerate(lines)]
    same((lines, weights), whole)
    (cache / FILE).unlink()
    cut = put("batch.micro_batch", 5)
    cold = train(compiled(tmp_path, *DPO, ALL, cut))
    same(train(compiled(tmp_path, *DPO, ALL, cut)), cold)


def cached_rank(world: World, plan: str, folder: str) -> Any:
    """`train_rank` with a cache folder; ranks have the surroundings of the first test that started any."""
    os.environ["WAVALIGN_CACHE"] = folder
    return train_rank(world, plan)


def test_ranks_share_it(tmp_path: Path, cache: Path) -> None:
    """Two ranks with an empty cache, then with a full one."""
    two = compiled(tmp_path, *DPO, ALL, put("runtime.processes", 2)).to_json()
    cold = run_ranks(cached_rank, 2, two, str(cache))
    assert (cache / FILE).exists()
    for ours, theirs in zip(run_ranks(cached_rank, 2, two, str(cache)), cold, strict=True):
        same(ours, theirs)


LORA = put("model.adapter", {"type": "lora", "rank": 4, "dropout": 0.1})


@pytest.mark.parametrize(
    ("loss", "changes"),
    [
        pytest.param("dpo", (), id="dpo-whole"),
        pytest.param("dpo", (LORA,), id="dpo-adapter", marks=pytest.mark.slow),
        pytest.param("kto", (), id="kto-whole", marks=pytest.mark.slow),
        pytest.param("kto", (LORA,), id="kto-adapter", marks=pytest.mark.slow),
    ],
)
def test_partitioned_weights(tmp_path: Path, cache: Path, loss: str, changes: tuple[Change, ...]) -> None:
    """ZeRO 3 on two ranks: every rank scores what it lacks, and no rank waits for another that lacks nothing."""
    terms = put("objective.terms", {"prefer": {"loss": loss}})
    engine = put("runtime.engine", {"type": "deepspeed", "zero": 3})
    two = compiled(tmp_path, *DPO, ALL, terms, engine, *changes, put("runtime.processes", 2)).to_json()
    cold = run_ranks(cached_rank, 2, two, str(cache))
    database = sqlite3.connect(cache / FILE)
    assert database.execute("SELECT count(*) FROM logprobs").fetchone() == (72,)
    with database:
        database.execute("DELETE FROM logprobs WHERE rowid % 7 = 3")
    database.close()
    for ours, theirs in zip(run_ranks(cached_rank, 2, two, str(cache)), cold, strict=True):
        same(ours, theirs)


def test_answers_are_scored_in_micro_batches_as_before(tmp_path: Path, scored: list[int], cache: Path) -> None:
    kl = {"rl": {"loss": {"type": "grpo", "kl": {"coefficient": 0.1}}, "tokens": "text"}}
    plan = compiled(tmp_path, put("objective.terms", kl), drop("objective.gate"))
    assert "reference" in [each.function for each in only_stage(plan).graph.operators]
    train(plan, steps=1)
    assert scored and scored[0] > 1
    assert not (cache / FILE).exists()


def test_the_plan_says_it(tmp_path: Path) -> None:
    (found,) = (each for each in only_stage(compiled(tmp_path, *DPO)).graph.operators if each.function == "reference")
    assert found.detail == "rows of data once each, kept in the cache folder"
    assert found.needs == ("rows",)


# --- what an entry hangs on -------------------------------------------------------------------------------------------


def row(**changes: Any) -> TokenBatch:
    """One row of four tokens."""
    ids = torch.tensor([[[5, 6, 7, 8]]])
    roles, sources = torch.tensor([[[1, 2, 2, 3]]], dtype=torch.int8), torch.zeros(1, 1, 4, dtype=torch.int8)
    return replace(TokenBatch(ids, roles, sources, torch.tensor([4])), **changes)


SELECT = torch.tensor([[[False, True, True, True]]])


def test_another_anything_is_another_entry(tmp_path: Path) -> None:
    def key(batch: TokenBatch, select: Tensor = SELECT, **about: Any) -> str:
        opened = ReferenceCache(tmp_path / FILE, about={"weights": "w", "precision": "fp32", **about})
        found = opened.key(batch, select)
        opened.close()
        return found

    sound = SoundSegment(0, 1, torch.ones(2, 3))
    different = {
        key(row()),
        key(row(ids=torch.tensor([[[5, 6, 7, 9]]]))),
        key(row(roles=torch.tensor([[[1, 2, 4, 3]]], dtype=torch.int8))),
        key(row(sources=torch.ones(1, 1, 4, dtype=torch.int8))),
        key(row(sounds=((sound,),))),
        key(row(sounds=((replace(sound, values=torch.zeros(2, 3)),),))),
        key(row(sounds=((replace(sound, start=1),),))),
        key(row(), SELECT & torch.tensor([True, True, False, True])),
        key(row(), weights="v"),
        key(row(), precision="bf16"),
    }
    assert len(different) == 10
    assert key(row()) in different


def test_another_version_of_the_program_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ReferenceCache(tmp_path / FILE, about={}).key(row(), SELECT)
    monkeypatch.setattr(reference_cache, "program", lambda: "another")
    assert ReferenceCache(tmp_path / FILE, about={}).key(row(), SELECT) != before


def test_an_entry_is_what_was_put_and_a_short_one_is_none(tmp_path: Path) -> None:
    opened = ReferenceCache(tmp_path / FILE, about={})
    numbers = torch.tensor([[0.0, -0.1, -1e-30, -3.3333333]])
    opened.put("k", numbers, SELECT)
    opened.close()
    again = ReferenceCache(tmp_path / FILE, about={})
    found = again.get("k", SELECT)
    assert found is not None
    assert torch.equal(found, numbers)
    assert again.get("other", SELECT) is None
    again._kept.put("k", b"\0" * 8)
    assert again.get("k", SELECT) is None


def test_a_damaged_file_is_named(tmp_path: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / FILE).write_bytes(b"no database at all " * 100)
    with pytest.raises(StorageError, match=r"reference log-probs .*reference_logprobs\.sqlite") as caught:
        live_stage(compiled(tmp_path, *DPO))
    assert "remove it" in caught.value.hint
