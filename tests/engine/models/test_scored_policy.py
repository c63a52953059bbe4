"""The fused log-probabilities against a plain log-softmax: values, gradients, tiles, cuts, precisions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wavalign.engine.models import fused_logprobs as head
from wavalign.engine.models import scored_policy as logprobs
from wavalign.engine.models.scored_policy import ScoredPolicy, score_batch, selected_logprobs
from wavalign.plugins.api import DecodingState, Policy
from wavalign.plugins.batch import HeadSpec, TokenBatch, TokenSequence, TokenSpace

ROWS, WIDTH, VOCABULARY = 11, 5, 37


@pytest.fixture(params=[None, 2**20, 60, 7], ids=["direct", "one tile", "odd tiles", "tiny tiles"])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tiles at all; or budgets that give one tile, tiles of 7 x 8 that divide nothing, and tiles of 2 x 3."""
    monkeypatch.setattr(logprobs, "GATHER_COST", 8)
    if request.param is not None:
        monkeypatch.setattr(head, "DIRECT", 0)
        monkeypatch.setattr(head, "CPU_TILE", request.param)


def problem(dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.randint(VOCABULARY, (rows,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def dense(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor = 1.0, support: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies from the matrix of all logits."""
    scale = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    logits = hidden @ weight.t() / scale
    if support is not None:
        for row, ids in enumerate(support.tolist()):
            kept = [index for index in ids if index >= 0]
            if kept:
                barred = torch.ones(VOCABULARY, dtype=torch.bool)
                barred[kept] = False
                logits = torch.where(
                    (torch.arange(len(logits)) == row)[:, None] & barred, torch.tensor(-1e300).to(logits), logits
                )
    scores = logits.log_softmax(dim=1)
    entropy = -(scores.exp() * scores.clamp(min=-1e9)).sum(dim=1)
    return scores.gather(1, targets[:, None])[:, 0], entropy


def some_support(targets: Tensor, width: int, *, uncut: Sequence[int] = ()) -> Tensor:
    """Rows of `width` ids with the target somewhere, a few -1 at the end, all -1 in the rows of `uncut`."""
    generator = torch.Generator().manual_seed(4)
    rows = []
    for row, target in enumerate(targets.tolist()):
        others = [index for index in torch.randperm(VOCABULARY, generator=generator).tolist() if index != target]
        kept = [*others[: 1 + row % (width - 1)], target]
        rows.append([-1] * width if row in uncut else kept + [-1] * (width - len(kept)))
    return torch.tensor(rows, dtype=torch.int32)


def check_against_dense(temperature: float | Tensor, support: Tensor | None) -> None:
    hidden, weight, targets = problem()
    expected, expected_entropy = dense(hidden, weight, targets, temperature, support)
    values, entropy = selected_logprobs(
        hidden, weight, targets, temperature=temperature, support=support, with_entropy=True
    )
    assert entropy is not None
    assert not entropy.requires_grad
    plain, none = selected_logprobs(hidden, weight, targets, temperature=temperature, support=support)
    assert none is None
    pull = torch.linspace(-1, 2, ROWS, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * pull).sum(), [hidden, weight])
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(plain, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(entropy, expected_entropy.detach(), rtol=1e-10, atol=1e-10)
    for scores in (values, plain):
        torch.testing.assert_close(
            torch.autograd.grad((scores * pull).sum(), [hidden, weight], retain_graph=True),
            wanted,
            rtol=1e-11,
            atol=1e-12,
        )
        torch.testing.assert_close(  # once more: the backward pass must not spoil what it keeps
            torch.autograd.grad((scores * pull).sum(), [hidden, weight]), wanted, rtol=1e-11, atol=1e-12
        )


@pytest.mark.parametrize("temperature", [1.0, 0.7, torch.linspace(0.5, 2.0, ROWS, dtype=torch.float64)], ids=str)
def test_it_is_the_log_softmax(tile: None, temperature: float | Tensor) -> None:
    check_against_dense(temperature, None)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("uncut", [(), (2, 5)], ids=["all cut", "some uncut"])
@pytest.mark.parametrize("width", [4, 30], ids=["few kept", "many kept"])
def test_it_is_the_log_softmax_of_the_kept_ids(
    tile: None, temperature: float, uncut: tuple[int, ...], width: int
) -> None:
    targets = problem()[2]
    assert (width * logprobs.GATHER_COST <= VOCABULARY) == (width == 4)  # the two ways are both taken
    check_against_dense(temperature, some_support(targets, width, uncut=uncut))


def test_finite_differences(tile: None) -> None:
    hidden, weight, targets = problem(rows=2)

    def scores(left: Tensor, right: Tensor) -> Tensor:
        return selected_logprobs(left, right, targets, temperature=0.8)[0]

    assert torch.autograd.gradcheck(scores, (hidden, weight), fast_mode=True)


@pytest.mark.parametrize("width", [3, 20])
def test_finite_differences_with_a_cut(tile: None, width: int) -> None:
    hidden, weight, targets = problem(rows=2)
    support = some_support(targets, width)

    def scores(left: Tensor, right: Tensor) -> Tensor:
        return selected_logprobs(left, right, targets, temperature=0.8, support=support)[0]

    assert torch.autograd.gradcheck(scores, (hidden, weight), fast_mode=True)


@pytest.mark.parametrize("width", [None, 4, 30])
def test_half_precision_multiplies_in_half_and_sums_in_single(tile: None, width: int | None) -> None:
    hidden, weight, targets = problem(torch.bfloat16)
    support = None if width is None else some_support(targets, width)
    values, _ = selected_logprobs(hidden, weight, targets, support=support)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    expected, _ = dense(exact[0], exact[1], targets, support=support)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=0.02, atol=0.05)
    gradients = torch.autograd.grad(values.sum(), [hidden, weight])
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16] * 2
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected.sum(), exact), strict=True):
        assert (gradient.double() - wanted).norm() <= 0.02 * wanted.norm()


def test_a_head_in_another_precision_is_converted() -> None:
    hidden, weight, targets = problem(torch.bfloat16)
    master = weight.detach().float().requires_grad_()
    values, _ = selected_logprobs(hidden, master, targets)
    torch.testing.assert_close(values, selected_logprobs(hidden, weight, targets)[0])
    assert torch.autograd.grad(values.sum(), master)[0].dtype == torch.float32


def test_an_ambient_autocast_changes_nothing() -> None:
    hidden, weight, targets = problem(torch.float32)
    plain = selected_logprobs(hidden, weight, targets)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = selected_logprobs(hidden, weight, targets)[0]
    torch.testing.assert_close(inside, plain, rtol=0, atol=0)


def test_large_logits_stay_finite(tile: None) -> None:
    hidden, weight, targets = problem(torch.float32)
    values, entropy = selected_logprobs(hidden * 1e4, weight, targets, with_entropy=True)
    assert entropy is not None
    assert bool(values.isfinite().all() and entropy.isfinite().all())
    torch.testing.assert_close(values, dense(hidden * 1e4, weight, targets)[0], rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("support", [None, torch.empty(0, 2, dtype=torch.int32)], ids=["uncut", "cut"])
def test_no_rows_give_no_values_and_zero_gradients(support: Tensor | None) -> None:
    hidden, weight, targets = problem(rows=0)
    values, _ = selected_logprobs(hidden, weight, targets, support=support)
    assert values.shape == (0,)
    for gradient, tensor in zip(torch.autograd.grad(values.sum(), [hidden, weight]), [hidden, weight], strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


def test_only_the_gradients_that_are_asked_for() -> None:
    hidden, weight, targets = problem()
    full = torch.autograd.grad(selected_logprobs(hidden, weight, targets)[0].sum(), [hidden, weight])
    only_hidden = selected_logprobs(hidden, weight.detach(), targets)[0]
    torch.testing.assert_close(torch.autograd.grad(only_hidden.sum(), hidden)[0], full[0])
    only_weight = selected_logprobs(hidden.detach(), weight, targets)[0]
    torch.testing.assert_close(torch.autograd.grad(only_weight.sum(), weight)[0], full[1])


@pytest.mark.parametrize("width", [None, 4])
def test_a_partitioned_head_may_be_taken_away_between_the_passes(tile: None, width: int | None) -> None:
    hidden, weight, targets = problem()
    support = None if width is None else some_support(targets, width)
    parameter = nn.Parameter(weight.detach().clone())
    wanted = torch.autograd.grad(selected_logprobs(hidden, weight, targets, support=support)[0].sum(), [hidden, weight])
    values, _ = selected_logprobs(hidden, parameter, targets, support=support)
    data = parameter.data
    parameter.data = torch.empty(0, dtype=data.dtype)  # what a ZeRO-3 release leaves behind
    parameter.data = data.clone()
    gradients = torch.autograd.grad(values.sum(), [hidden, parameter])
    torch.testing.assert_close(gradients, wanted)


def test_what_cannot_be_scored_is_refused() -> None:
    hidden, weight, targets = problem()
    with pytest.raises(ValueError, match="temperature"):
        selected_logprobs(hidden, weight, targets, temperature=0.0)
    with pytest.raises(ValueError, match="temperature"):
        selected_logprobs(hidden, weight, targets, temperature=torch.linspace(-1, 1, ROWS))
    outside = ((targets + 1) % VOCABULARY)[:, None].int()
    with pytest.raises(ValueError, match="outside the support"):
        selected_logprobs(hidden, weight, targets, support=outside)


@pytest.mark.parametrize("rows", [1, 30, 1000, 5000, 100_000])
@pytest.mark.parametrize("columns", [1, 2000, 168_072])
def test_a_tile_never_exceeds_its_budget(rows: int, columns: int) -> None:
    tile_rows, tile_columns = head.tile_shape(rows, columns, torch.device("cpu"))
    assert tile_rows * tile_columns <= head.CPU_TILE
    assert 1 <= tile_rows <= rows
    assert 1 <= tile_columns <= columns


# --- batches ----------------------------------------------------------------------------------------------------------

SPACE = TokenSpace(
    vocabulary_size=VOCABULARY,
    pad=0,
    streams=("text", "audio"),
    heads=(HeadSpec("text", 0), HeadSpec("audio", 1), HeadSpec("audio_ahead", 1, shift=2)),
    num_codes=8,
)
SIZE = (3, 2, 6)


class Lookup(Policy):
    """Hidden states that depend on what stands at and before a position, and a head per entry of the token space."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        shape = (len(SPACE.heads), VOCABULARY, WIDTH)
        self.embed = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.weights = nn.ParameterList([weights[0], weights[1], weights[2]])
        self.asked: list[frozenset[int]] = []

    def hidden(self, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        self.asked.append(heads)
        return {index: self.embed[index][batch.ids].sum(dim=1).cumsum(dim=1) for index in heads}

    def head_weight(self, head: int) -> nn.Parameter:
        weight = self.weights[head]
        assert isinstance(weight, nn.Parameter)
        return weight

    def decode(
        self, prompts: Sequence[TokenSequence], *, group_size: int, need: Literal["text", "all"]
    ) -> DecodingState:
        raise NotImplementedError


@pytest.fixture
def batch() -> TokenBatch:
    """Rows whose audio tokens come in turn from the next-token head and from the one that looks two ahead."""
    ids = torch.randint(VOCABULARY, SIZE, generator=torch.Generator().manual_seed(6))
    sources = torch.zeros(SIZE, dtype=torch.int8)
    sources[:, 1] = torch.tensor([1, 2] * 3, dtype=torch.int8)
    return TokenBatch(ids, torch.full(SIZE, 2, dtype=torch.int8), sources, torch.tensor([6, 6, 4]))


def by_position(policy: Lookup, batch: TokenBatch, select: Tensor, temperature: Tensor) -> Tensor:
    """The same scores, one position at a time."""
    hidden = policy.hidden(batch, frozenset(range(3)))
    rows = []
    for b, s, t in select.nonzero().tolist():
        source = int(batch.sources[b, s, t])
        origin = hidden[source][b, t - SPACE.heads[source].shift]
        rows.append((policy.head_weight(source) @ origin / temperature[b]).log_softmax(0)[batch.ids[b, s, t]])
    return torch.zeros(SIZE, dtype=torch.float64).masked_scatter(select, torch.stack(rows))


def test_a_batch_is_scored_from_the_right_heads_and_positions(batch: TokenBatch) -> None:
    select = torch.rand(SIZE, generator=torch.Generator().manual_seed(7)) > 0.4
    select[:, :, :2] = False
    policy, temperature = Lookup(), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    scores = score_batch(policy, batch, select, SPACE, temperature=temperature)
    expected = by_position(policy, batch, select, temperature)
    torch.testing.assert_close(scores, expected)
    assert bool((scores[~select] == 0).all())
    parameters = list(policy.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(scores.square().sum(), parameters), torch.autograd.grad(expected.square().sum(), parameters)
    )


def test_only_the_heads_of_the_selection_are_asked_for(batch: TokenBatch) -> None:
    select = torch.zeros(SIZE, dtype=torch.bool)
    select[0, 1, 3] = True
    policy = Lookup()
    score_batch(policy, batch, select, SPACE, temperature=1.0)
    assert policy.asked == [frozenset({2})]


def test_only_the_selected_rows_reach_a_head(batch: TokenBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def counting(hidden: Tensor, weight: Tensor, query: head.Query) -> tuple[Tensor, Tensor | None]:
        seen.append(len(hidden))
        return head_logprobs(hidden, weight, query)

    head_logprobs = logprobs.head_logprobs
    monkeypatch.setattr(logprobs, "head_logprobs", counting)
    select = torch.zeros(SIZE, dtype=torch.bool)
    select[:, 0, 2:4] = True
    select[1, 1, 4] = True
    score_batch(Lookup(), batch, select, SPACE, temperature=1.0)
    assert seen == [6, 1]


def test_sequences_without_a_selected_position_do_not_reach_the_network(
    batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked, walk = [], Lookup.hidden

    def counting(policy: Lookup, batch: TokenBatch, heads: frozenset[int]) -> dict[int, Tensor]:
        walked.append(len(batch.ids))
        return walk(policy, batch, heads)

    select = torch.zeros(SIZE, dtype=torch.bool)
    select[[0, 2], 0, 3] = True
    temperature, support = torch.tensor([1.0, 9.0, 0.5]), torch.full((*SIZE, 2), -1, dtype=torch.int32)
    support[2, 0, 3] = torch.stack([batch.ids[2, 0, 3], (batch.ids[2, 0, 3] + 1) % VOCABULARY])
    whole, _ = ScoredPolicy(Lookup(), SPACE)(batch, select, temperature=temperature, support=support)
    monkeypatch.setattr(Lookup, "hidden", counting)
    scores = score_batch(Lookup(), batch, select, SPACE, temperature=temperature, support=support)
    assert walked == [2]
    torch.testing.assert_close(scores, whole)
    assert bool((scores[1] == 0).all())


def test_the_support_of_each_position_is_used(batch: TokenBatch) -> None:
    select = torch.zeros(SIZE, dtype=torch.bool)
    select[0, 0, 2] = select[1, 0, 3] = True
    support = torch.full((*SIZE, 2), -1, dtype=torch.int32)
    support[0, 0, 2, 0] = batch.ids[0, 0, 2]  # only one id was kept: its probability is 1
    scores = score_batch(Lookup(), batch, select, SPACE, temperature=1.0, support=support)
    assert scores[0, 0, 2].item() == 0
    torch.testing.assert_close(scores[1, 0, 3], score_batch(Lookup(), batch, select, SPACE, temperature=1.0)[1, 0, 3])


def test_the_temperature_of_each_stream_is_used(batch: TokenBatch) -> None:
    select = torch.ones(SIZE, dtype=torch.bool)
    select[:, :, :2] = False
    policy, temperature = Lookup(), torch.tensor([[1.0, 0.5], [0.7, 2.0], [3.0, 0.9]], dtype=torch.float64)
    found = score_batch(policy, batch, select, SPACE, temperature=temperature)
    for stream in range(2):
        expected = by_position(policy, batch, select, temperature[:, stream])
        torch.testing.assert_close(found[:, stream], expected[:, stream])


def test_rows_of_which_none_is_cut_are_scored_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream that is not cut, beside one that is."""
    hidden, weight, targets = problem()
    sizes, apply = [], logprobs.head_logprobs

    def counting(hidden: Tensor, weight: Tensor, query: head.Query) -> tuple[Tensor, Tensor | None]:
        sizes.append(len(hidden))
        return apply(hidden, weight, query)

    monkeypatch.setattr(logprobs, "head_logprobs", counting)
    found, _ = selected_logprobs(hidden, weight, targets, support=torch.full((ROWS, 3), -1))
    torch.testing.assert_close(found, dense(hidden, weight, targets)[0])
    assert sizes == [ROWS]


def test_an_empty_selection_still_walks_and_has_a_zero_gradient(batch: TokenBatch) -> None:
    policy = Lookup()
    scored = ScoredPolicy(policy, SPACE)
    select = torch.zeros(SIZE, dtype=torch.bool)
    scored(batch, select, temperature=1.0)[0].sum().backward()
    assert policy.asked == [frozenset({0, 1})]
    assert all(torch.equal(weight.grad, torch.zeros_like(weight)) for weight in policy.weights[:2])
    select[0, 0, 2] = True
    scored(batch, select, temperature=1.0, heads=frozenset({0, 2}))
    assert policy.asked[1] == frozenset({0, 2})


def test_the_first_position_has_nothing_to_be_predicted_from(batch: TokenBatch) -> None:
    select = torch.zeros(SIZE, dtype=torch.bool)
    select[0, 1, 1] = True  # from the head that looks two ahead
    with pytest.raises(ValueError, match="audio_ahead"):
        score_batch(Lookup(), batch, select, SPACE, temperature=1.0)


def test_shared_heads_are_listed_once() -> None:
    policy = Lookup()
    policy.weights[2] = policy.head_weight(1)
    assert [id(weight) for weight in ScoredPolicy(policy, SPACE).head_parameters()] == [
        id(policy.head_weight(0)),
        id(policy.head_weight(1)),
    ]


def test_positions_without_a_head_or_a_temperature_are_refused(batch: TokenBatch) -> None:
    select = torch.zeros(SIZE, dtype=torch.bool)
    select[1, 1, 4] = True
    with pytest.raises(ValueError, match="temperature must be above 0"):
        score_batch(Lookup(), batch, select, SPACE, temperature=torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        score_batch(Lookup(), batch, select, SPACE, temperature=0.0)
    score_batch(Lookup(), batch, select, SPACE, temperature=torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
    outside = torch.full((*SIZE, 1), -1, dtype=torch.int32)
    outside[1, 1, 4, 0] = (batch.ids[1, 1, 4] + 1) % VOCABULARY
    with pytest.raises(ValueError, match="outside the support"):
        score_batch(Lookup(), batch, select, SPACE, temperature=1.0, support=outside)
    for source in (3, -1):
        wrong = replace(batch, sources=torch.full_like(batch.sources, source))
        with pytest.raises(ValueError, match="1 tokens have a source that is none of the 3 heads"):
            score_batch(Lookup(), wrong, select, SPACE, temperature=1.0)


class Readbacks(TorchFunctionMode):
    """Calls that make whoever told a device to compute wait for it."""

    NAMES = ("nonzero", "tolist", "item", "unique", "__bool__", "__int__", "__float__", "__index__", "bincount", "cpu")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        by_mask = name in ("__getitem__", "__setitem__") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool
            for each in (args[1] if isinstance(args[1], tuple) else (args[1],))
        )
        if by_mask or name in self.NAMES:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_a_forward_waits_for_the_device_twice(batch: TokenBatch) -> None:
    """However many heads there are and however they mix positions that were cut with others."""
    select = torch.ones(SIZE, dtype=torch.bool)
    select[:, :, :2] = False
    support = torch.full((*SIZE, 2), -1, dtype=torch.int32)
    support[1:, ..., 0] = batch.ids[1:].int()
    module, temperature = ScoredPolicy(Lookup(), SPACE), torch.rand(SIZE[:2]) + 0.5
    with Readbacks() as seen:
        module(batch, select, temperature=temperature, support=support)
    assert seen.found == ["nonzero", "tolist"]


def test_supports_of_either_width_are_one(batch: TokenBatch) -> None:
    select = torch.ones(SIZE, dtype=torch.bool)
    select[:, :, :2] = False
    support = torch.stack([batch.ids, (batch.ids + 1) % VOCABULARY, torch.full(SIZE, -1)], dim=-1)
    policy, found = Lookup(), []
    for dtype in (torch.int64, torch.int32):
        scores = score_batch(policy, batch, select, SPACE, temperature=0.7, support=support.to(dtype))
        found.append([scores, *torch.autograd.grad(scores.square().sum(), list(policy.parameters()))])
    assert all(map(torch.equal, *found))
