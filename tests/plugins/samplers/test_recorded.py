"""Buckets, what stays of them, and, where there is a GPU, replayed steps against launched ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.plugins.architectures.codec_lm_helpers import small_codec_lm
from tests.plugins.architectures.kimi_helpers import small_kimi
from tests.plugins.architectures.test_conformance import lively, rollouts
from tests.plugins.architectures.vita_helpers import codes_of, small_vita, spoken
from wavalign.plugins.api import Architecture, Buffers, SamplingOptions
from wavalign.plugins.batch import RolloutGroup
from wavalign.plugins.samplers.drawing import Drawer
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams
from wavalign.plugins.samplers.recorded import NO_BUCKETS, Place, Places, bucket, buckets_for

MAKERS: dict[str, Callable[[Path], Architecture]] = {
    "vita": lambda folder: small_vita(folder, num_mtp_layers=3, decoding=(3, 2, 1, 5)),
    "kimi": small_kimi,
    "codec_lm": lambda folder: small_codec_lm(folder, delays=(0, 1, 2)),
}


def test_buckets_waste_less_than_half_and_of_many_rows_an_eighth() -> None:
    assert [bucket(rows) for rows in (1, 2, 3, 5, 8, 9, 15, 16, 17, 33, 64, 65, 100, 129, 256, 1000)] == [
        1, 2, 4, 8, 8, 16, 16, 16, 24, 40, 64, 80, 112, 160, 256, 1024,
    ]  # fmt: skip
    for rows in range(1, 2000):
        found = bucket(rows)
        assert rows <= found < 2 * rows and bucket(found) == found
        assert bucket(rows + 1) >= found


def test_a_processor_has_no_buckets() -> None:
    assert buckets_for(torch.device("cpu"), record=True) is NO_BUCKETS


def place(megabytes: int) -> Place:
    rows = Buffers()
    rows["x"] = torch.zeros(megabytes << 20, dtype=torch.uint8)
    return Place(rows, Buffers(), (), None)


def test_the_longest_unused_place_goes_first() -> None:
    places, made = Places(5 << 20), {name: place(2) for name in "abc"}
    for name in "ab":
        places.put(name, made[name])
    found = places.take("a")
    assert found is made["a"] and places.take("a") is None
    places.put("a", found)
    places.put("c", made["c"])
    assert places.take("b") is None
    assert places.take("a") is made["a"] and places.take("c") is made["c"]
    places.put("d", place(6))
    assert len(places) == 0


def test_rows_move_to_the_front_of_the_same_tensors() -> None:
    rows = Buffers()
    rows["x"] = torch.arange(6)
    place, before = rows.first(), rows.addresses()
    rows.move_into(place.first(4), torch.tensor([5, 0, 3, 5]))
    assert rows["x"].tolist() == [5, 0, 3, 5]
    assert rows.addresses() == before and place["x"].tolist() == [5, 0, 3, 5, 4, 5]


def test_a_draw_that_looked_at_too_few_ids_says_so() -> None:
    """Of a flat row 900 ids are kept, of a peaked one a single id: 64 are enough for the second alone."""
    flat, peaked = torch.zeros(1, 1000), torch.full((1, 1000), -50.0)
    peaked[0, 7] = 0.0
    logits, uniforms = torch.cat([flat, peaked]), torch.full((2,), 0.5, dtype=torch.float64)
    found = Drawer(1.0, 0, 0.8995, 64).draw(logits.clone(), uniforms)
    assert found.short is not None and found.short.tolist() == [True, False]
    whole = Drawer(1.0, 0, 0.8995).draw(logits.clone(), uniforms)
    assert whole.short is None and whole.support is not None and found.support is not None
    assert found.support[1].tolist() == [7] + [-1] * 63
    assert (found.ids[1], found.logprobs[1]) == (whole.ids[1], whole.logprobs[1])
    assert Drawer(1.0, 0, 0.8995, 1000).draw(logits.clone(), uniforms).short is None


def answers(
    architecture: Architecture, policy: torch.nn.Module, rows: int, sampler: KvCache, *, steps: int = 40
) -> list[RolloutGroup]:
    dialogues = [spoken(f"d{n}", [(3 * n + i) % 12 for i in range(6 + 6 * (n % 3))]) for n in range(rows)]
    prompts = [(each, architecture.encode_prompt(each, codes_of)) for each in dialogues]
    options = SamplingOptions(1, 0.0, 0, 1.0, steps)
    return sampler.sample(policy, architecture, prompts, options, torch.Generator().manual_seed(0))  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rows", [1, 15, 16, 17])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_replayed_steps_are_launched_ones(name: str, rows: int, tmp_path: Path) -> None:
    """Greedy ids, in a first call, in one that replays all of the first, and after weights changed in their place."""
    architecture = MAKERS[name](tmp_path)
    policy = lively(architecture.build_policy(seed=0), 4.0).cuda()
    recorded, launched = (KvCache(KvCacheParams(cuda_graphs=graphs)) for graphs in (True, False))
    for _ in range(3):
        found, expected = (answers(architecture, policy, rows, each) for each in (recorded, launched))
        for one, other in zip(rollouts(found), rollouts(expected), strict=True):
            assert torch.equal(one.completion.ids, other.completion.ids)
            assert torch.equal(one.completion.roles, other.completion.roles)
        with torch.no_grad():
            for weight in policy.parameters():
                weight.mul_(0.95)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cut", [{}, {"top_k": 5}, {"top_p": 0.9}])
def test_replayed_steps_draw_what_a_processor_draws(cut: dict[str, float], tmp_path: Path) -> None:
    architecture = small_vita(tmp_path, num_mtp_layers=2, decoding=(1, 2))
    policy, sampler = lively(architecture.build_policy(seed=0), 2.0), KvCache(KvCacheParams())
    dialogues = [spoken(f"d{n}", [n % 12] * 6) for n in range(5)]
    prompts = [(each, architecture.encode_prompt(each, codes_of)) for each in dialogues]
    settings: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **cut}
    options = SamplingOptions(group_size=3, max_new_tokens=30, **settings)
    found = []
    for device in ("cpu", "cuda", "cuda"):
        groups = sampler.sample(policy.to(device), architecture, prompts, options, torch.Generator().manual_seed(0))
        found.append(rollouts(groups))
    for others in found[1:]:
        alike = [torch.equal(a.completion.ids, b.completion.ids) for a, b in zip(found[0], others, strict=True)]
        assert sum(alike) >= len(alike) - 1, "rounding may turn one draw at the border of two ids"
