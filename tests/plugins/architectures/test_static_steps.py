"""What a decoding state owes whoever records its step: one suite over small instances of all architectures.

There is no graph on a processor. `Replay` stands for one: it runs a step with everything that Python knew when it was
recorded, over the tensors of then, so that a step which depends on more than its phase and its tensors gives other ids.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.plugins.architectures.codec_lm_helpers import small_codec_lm
from tests.plugins.architectures.kimi_helpers import small_kimi
from tests.plugins.architectures.test_conformance import MAKERS, Specimen, among, lively, rollouts
from tests.plugins.architectures.vita_helpers import codes_of, small_vita, spoken
from wavalign.engine.models.scored_policy import score_batch
from wavalign.plugins.api import Architecture, Distribution, SamplingOptions, StaticDecodingState
from wavalign.plugins.batch import SCORED_ROLES, Rollout, RolloutGroup, collate, concatenate
from wavalign.plugins.samplers import kv_cache
from wavalign.plugins.samplers.batch import Batch
from wavalign.plugins.samplers.kv_cache import KvCache, KvCacheParams
from wavalign.plugins.samplers.recorded import Buckets, Recorder

ALL: dict[str, Callable[[Path], Architecture]] = {
    **MAKERS,
    "vita, modules in turns": lambda folder: small_vita(folder, num_mtp_layers=3, decoding=(3, 2, 1, 5)),
    "vita, modules at first": lambda folder: small_vita(folder, num_mtp_layers=3, decoding=(2, 3, 2, 1)),
    "kimi, text alone": lambda folder: small_kimi(folder, output="text"),
    "codec_lm, three codebooks": lambda folder: small_codec_lm(folder, delays=(0, 1, 2)),
}
ONE_EACH = ("vita", "vita, modules in turns", "kimi", "codec_lm, three codebooks")
"""What is drawn, and how, does not depend on the family: tested over one or two of each."""
STEPS = 40
WAYS: dict[str, dict[str, Any]] = {
    "text alone": {"need": "text"},
    "greedy": {"temperature": 0.0},
    "top-k": {"top_k": 7, "temperature": 0.7},
    "top-p": {"top_p": 0.8},
    "both": {"top_k": 12, "top_p": 0.9},
    "penalty": {"penalty": True},
}


class NoLooking(TorchDispatchMode):
    """Fails where a step reads a value of a tensor, or makes a tensor of a value."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "lift_fresh", "equal", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        assert name not in self.FORBIDDEN, f"a step calls {name}"
        if name in {"index", "index_put", "index_put_"}:
            assert not any(index is not None and index.dtype is torch.bool for index in args[1]), "indexing by a mask"
        return func(*args, **(kwargs or {}))


def addresses(batch: Batch) -> list[dict[str, int]]:
    assert batch.static is not None
    buffers = (batch.static.rows, batch.static.shared, batch.transcript.rows, batch.transcript.shared)
    return [each.addresses() for each in (*buffers, batch.heads.shared)]


@contextmanager
def as_it_was(batch: Batch, hosts: tuple[Any, int], tensors: list[dict[str, Tensor]]) -> Iterator[None]:
    """`batch` with what Python knew then, over the tensors of then."""
    state, transcript = batch.static, batch.transcript
    assert state is not None
    now = state.host, transcript.host, tensors_of(batch)
    state.host, transcript.host = hosts
    give_tensors(batch, tensors)
    try:
        yield
    finally:
        state.host, transcript.host, tensors = now
        give_tensors(batch, tensors)


def tensors_of(batch: Batch) -> list[dict[str, Tensor]]:
    assert batch.static is not None
    return [{name: each[name] for name in each} for each in (batch.static.rows, batch.transcript.rows)]


def give_tensors(batch: Batch, tensors: list[dict[str, Tensor]]) -> None:
    assert batch.static is not None
    for buffers, given in zip((batch.static.rows, batch.transcript.rows), tensors, strict=True):
        for name, tensor in given.items():
            buffers[name] = tensor


class Replay:
    """A recorded step."""

    def __init__(self, recorder: "Replays", batch: Batch) -> None:
        assert batch.static is not None
        self._recorder, self._batch = recorder, batch
        self._hosts, self._tensors = (batch.static.host, batch.transcript.host), tensors_of(batch)

    def replay(self) -> None:
        batch = self._batch
        self._recorder.replays += 1
        with as_it_was(batch, self._hosts, self._tensors):
            before = addresses(batch)
            with NoLooking():  # type: ignore[no-untyped-call]  # torch leaves its base untyped
                batch.step()
            assert addresses(batch) == before


class Replays:
    """Counts."""

    def __init__(self) -> None:
        self.records = self.replays = 0

    def record(self, batch: Batch) -> Replay:
        self.records += 1
        return Replay(self, batch)

    def nbytes(self) -> int:
        return 0


def in_buckets(patch: pytest.MonkeyPatch, recorder: Recorder | None, **changes: Any) -> None:
    """Let samplers take buckets on a processor too, small ones."""
    found = Buckets(**{"slots": 32, "every": 3, "most": 5, "recorder": lambda: recorder, **changes})
    patch.setattr(kv_cache, "buckets_for", lambda device, record: found)


def sample(specimen: Specimen, *, sampler: KvCache | None = None, **changes: Any) -> list[RolloutGroup]:
    settings = {"group_size": 3, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": STEPS, **changes}
    if settings.pop("penalty", False):
        streams = specimen.architecture.tokens.streams
        settings["streams"] = {stream: Distribution(0.9, 0, 1.0, 1.3, 8) for stream in streams}
    options, generator = SamplingOptions(**settings), torch.Generator().manual_seed(5)
    sampler = sampler or KvCache(KvCacheParams())
    return sampler.sample(specimen.policy, specimen.architecture, prompts(specimen), options, generator)


def prompts(specimen: Specimen) -> list[Any]:
    made = specimen.architecture
    found = []
    for index, count in enumerate(6 * length for length in (1, 2, 1, 3)):
        dialogue = spoken(f"d{index}", [(3 * index + i) % 16 for i in range(count)])
        found.append((dialogue, made.encode_prompt(dialogue, codes_of)))
    return found


def same(one: list[RolloutGroup], other: list[RolloutGroup]) -> None:
    for here, there in zip(rollouts(one), rollouts(other), strict=True):
        assert torch.equal(here.completion.ids, there.completion.ids)
        assert torch.equal(here.completion.roles, there.completion.roles)
        assert here.completion.sources is not None and there.completion.sources is not None
        assert torch.equal(here.completion.sources, there.completion.sources)
        torch.testing.assert_close(here.logprobs, there.logprobs, atol=1e-5, rtol=0)
        assert here.answer == there.answer
        assert kept(here) == kept(there)


def kept(rollout: Rollout) -> list[list[list[int]]] | None:
    """Ids in no order: two that are as likely as one another may change places by rounding."""
    return None if rollout.support is None else rollout.support.sort().values.tolist()


@pytest.fixture(scope="module", params=sorted(ALL))
def specimen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    architecture = ALL[request.param](tmp_path_factory.mktemp("tokenizer"))
    return Specimen(architecture, lively(architecture.build_policy(seed=0), 4.0))


def test_recorded_steps_sample_what_exact_ones_do(specimen: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ids and roles, from padded rows, hidden slots, and a Python that knows nothing new."""
    expected = sample(specimen)
    recorder = Replays()
    in_buckets(monkeypatch, recorder)
    same(expected, sample(specimen))
    assert recorder.replays >= recorder.records > 0


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("name", ONE_EACH)
def test_recorded_steps_draw_as_exact_ones_do(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same ids and supports, also where nucleus sampling must look again."""
    architecture = ALL[name](tmp_path)
    specimen = Specimen(architecture, lively(architecture.build_policy(seed=0), 4.0))
    expected = sample(specimen, **WAYS[way])
    in_buckets(monkeypatch, Replays())
    same(expected, sample(specimen, **WAYS[way]))


@pytest.mark.parametrize("compact_below", [0.0, 1.0])
def test_rows_leave_their_bucket_at_any_time(
    specimen: Specimen, compact_below: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sample(specimen)
    in_buckets(monkeypatch, Replays(), every=1)
    same(expected, sample(specimen, sampler=KvCache(KvCacheParams(compact_below=compact_below))))


def test_unrecorded_buckets_are_recorded_ones(specimen: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit: what is replayed is what would have been run."""
    found = []
    for recorder in (None, Replays()):
        in_buckets(monkeypatch, recorder)
        found.append(sample(specimen, top_p=0.9))
    for one, other in zip(*(rollouts(groups) for groups in found), strict=True):
        assert torch.equal(one.completion.ids, other.completion.ids)
        assert torch.equal(one.logprobs, other.logprobs)


def test_logprobs_of_recorded_steps_are_those_of_scoring(specimen: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    in_buckets(monkeypatch, Replays())
    space = specimen.architecture.tokens
    for group in sample(specimen):
        rows = [concatenate(group.prompt, rollout.completion, space) for rollout in group.rollouts]
        batch = collate(rows, space)
        with torch.no_grad():
            again = score_batch(specimen.policy, batch, among(batch.roles, SCORED_ROLES), space, temperature=1.0)
        for index, rollout in enumerate(group.rollouts):
            end = group.prompt.length + rollout.completion.length
            torch.testing.assert_close(again[index, :, group.prompt.length : end], rollout.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("slots", [1, 8])
def test_a_settled_step_replaces_no_tensor_and_reads_none(specimen: Specimen, fused: bool, slots: int) -> None:
    with torch.inference_mode():
        state = specimen.policy.decode([prompt for _, prompt in prompts(specimen)], group_size=2, need="all")
        assert isinstance(state, StaticDecodingState)
        if fused:
            state.fuse()
        state.settle(STEPS, slots=slots)
        before = state.rows.addresses(), state.shared.addresses()
        for _ in range(STEPS):
            host = state.host
            with NoLooking():  # type: ignore[no-untyped-call]  # torch leaves its base untyped
                weights = [specimen.policy.head_weight(head) for head in state.heads()]
                hidden, forced = state.hidden(), state.forced()
                chosen = [(hidden[:, stream] @ weight.t()).argmax(dim=-1) for stream, weight in enumerate(weights)]
                ids = torch.stack(chosen, dim=1)
                state.take(torch.where(forced < 0, ids, forced))
                state.finished(), state.text_over()
            assert state.host is host, "only `advance` replaces what Python knows"
            state.advance()
            assert (state.rows.addresses(), state.shared.addresses()) == before


def test_joined_projections_are_the_separate_ones_but_for_rounding(specimen: Specimen) -> None:
    apart = sample(specimen, sampler=KvCache(KvCacheParams(fuse_projections=False)))
    same(apart, sample(specimen))


def test_a_later_call_replays_what_an_earlier_one_recorded(specimen: Specimen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the weights have changed in their place; elsewhere they are recorded anew."""
    recorder, sampler = Replays(), KvCache(KvCacheParams())
    in_buckets(monkeypatch, recorder)
    for _ in range(2):  # what came once is recorded when it comes again
        sample(specimen, sampler=sampler)
    first, recorder.records, recorder.replays = recorder.records, 0, 0
    found = sample(specimen, sampler=sampler)
    assert recorder.records == 0 and recorder.replays >= STEPS - 1
    same(sample(specimen), found)
    recorder.records = 0
    before = {name: weight.clone() for name, weight in specimen.policy.named_parameters()}
    try:
        with torch.no_grad():
            for weight in specimen.policy.parameters():
                weight.mul_(0.9)
        found = sample(specimen, sampler=sampler)
        assert recorder.records <= first, "batches may end elsewhere and meet new phases"
        monkeypatch.undo()
        same(sample(specimen), found)
        in_buckets(monkeypatch, recorder)
    finally:
        with torch.no_grad():
            for name, weight in specimen.policy.named_parameters():
                weight.copy_(before[name])


def test_nothing_stays_where_nothing_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = small_vita(tmp_path)
    specimen, recorder = Specimen(architecture, lively(architecture.build_policy(seed=0))), Replays()
    sampler = KvCache(KvCacheParams())
    in_buckets(monkeypatch, recorder)
    for limit, again in ((0, True), (64, False)):
        sampler = KvCache(KvCacheParams(keep_mib=limit))
        for _ in range(2):  # what came once is recorded when it comes again
            sample(specimen, sampler=sampler)
        recorder.records = 0
        sample(specimen, sampler=sampler)
        assert (recorder.records > 0) == again
    for weight in specimen.policy.parameters():
        weight.data = weight.data.clone()
    sample(specimen, sampler=sampler)
    assert recorder.records > 0, "recordings read weights where they were"


class Doubled(torch.nn.Module):
    """A projection that is more than a linear layer, as one with an adapter is."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.calls = base, 0

    def forward(self, states: Tensor) -> Tensor:
        self.calls += 1
        more: Tensor = 0.1 * states.sum(dim=-1, keepdim=True)
        result: Tensor = self.base_layer(states) + more
        return result


@pytest.mark.parametrize("buckets", [False, True])
def test_a_layer_with_an_adapter_runs_its_own_modules(
    tmp_path: Path, buckets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside layers that are joined; what is sampled is what separate projections sample."""
    architecture = small_vita(tmp_path, num_mtp_layers=2, decoding=(1, 2))
    specimen = Specimen(architecture, lively(architecture.build_policy(seed=0), 4.0))
    attention: Any = specimen.policy.get_submodule("model.layers.0.self_attn")
    attention.v_proj = Doubled(attention.v_proj)
    expected = sample(specimen, sampler=KvCache(KvCacheParams(fuse_projections=False)))
    attention.v_proj.calls = 0
    if buckets:
        in_buckets(monkeypatch, Replays())
    same(expected, sample(specimen))
    assert attention.v_proj.calls > STEPS / 4


@pytest.mark.parametrize("kind", ["autocast", "bfloat16", "frozen norms"])
@pytest.mark.parametrize("name", ["vita, modules in turns", "kimi", "codec_lm, qwen2 trunk"])
def test_joined_projections_in_half_precision_round_as_separate_ones(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy ids of one step are compared state by state: what differs is the order of sums, within a rounding."""
    architecture = ALL[name](tmp_path)
    policy = lively(architecture.build_policy(seed=0), 2.0)
    for path, parameter in policy.named_parameters():
        if kind == "bfloat16" or (kind == "frozen norms" and "norm" in path):
            parameter.data = parameter.data.bfloat16()
    specimen, found = Specimen(architecture, policy), []
    context = torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind != "bfloat16")
    with torch.inference_mode(), context:
        for fused, slots in ((False, 1), (True, 1), (True, 32)):
            state = policy.decode([prompt for _, prompt in prompts(specimen)], group_size=1, need="all")
            assert isinstance(state, StaticDecodingState)
            if fused:
                state.fuse()
            state.settle(8, slots=slots)
            states, generator = [], torch.Generator().manual_seed(0)
            for _ in range(8):
                states.append(state.hidden().float())
                forced = state.forced()
                drawn = torch.randint(20, forced.shape, generator=generator)
                state.take(torch.where(forced < 0, drawn, forced))
                state.advance()
            found.append(torch.stack(states))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=0.06, rtol=0.06)
    assert float((found[1] - found[0]).abs().mean()) < 0.01
