"""Scalar heads: values by hand, gradients by differences, what they read and what they leave alone."""

import pytest
import torch
from torch import Tensor

from tests.engine.models.test_scored_policy import SIZE, SPACE, VOCABULARY, WIDTH, Lookup
from wavalign.engine.backends.base import autocast
from wavalign.engine.models.scalar_heads import ScalarLayer
from wavalign.engine.models.scored_policy import ScoredPolicy
from wavalign.plugins.batch import TokenBatch
from wavalign.plugins.scalars import ScalarHead

VALUES, SCORE = ScalarHead("values", "token"), ScalarHead("score", "sequence")
LENGTHS = (6, 1, 4)


@pytest.fixture
def batch() -> TokenBatch:
    ids = torch.randint(VOCABULARY, SIZE, generator=torch.Generator().manual_seed(6))
    sources = torch.zeros(SIZE, dtype=torch.int8)
    sources[:, 1] = 2
    return TokenBatch(ids, torch.full(SIZE, 2, dtype=torch.int8), sources, torch.tensor(LENGTHS))


def scored(*heads: ScalarHead) -> ScoredPolicy:
    """A float64 policy with heads that are not as they begin."""
    module = ScoredPolicy(Lookup(), SPACE, heads, hidden_size=WIDTH).double()
    generator = torch.Generator().manual_seed(8)
    for parameter in module.scalar_heads.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def layer(module: ScoredPolicy, name: str) -> ScalarLayer:
    return next(each for each in module.scalar_heads.layers() if each.head.name == name)


def some(select: Tensor | None = None) -> Tensor:
    """One position of the second stream, whose head is not the one that scalars read."""
    select = torch.zeros(SIZE, dtype=torch.bool) if select is None else select
    select[0, 1, 3] = True
    return select


def test_values_are_those_of_a_computation_by_hand(batch: TokenBatch) -> None:
    module = scored(VALUES, SCORE)
    _, found = module(batch, some(), temperature=1.0)
    hidden = module.policy.hidden(batch, frozenset({0}))[0]
    for row, length in enumerate(LENGTHS):
        for place in range(SIZE[2]):
            weight, bias = layer(module, "values").weight[0], layer(module, "values").bias[0]
            wanted = weight @ hidden[row, place - 1] + bias if 1 <= place < length else torch.zeros(())
            torch.testing.assert_close(found["values"][row, place], wanted.double())
        weight, bias = layer(module, "score").weight[0], layer(module, "score").bias[0]
        torch.testing.assert_close(found["score"][row], weight @ hidden[row, length - 1] + bias)
    assert (found["values"].shape, found["score"].shape) == ((SIZE[0], SIZE[2]), (SIZE[0],))


def test_gradients_are_those_of_differences(batch: TokenBatch) -> None:
    module = scored(VALUES, SCORE)
    shape = torch.randn(SIZE[0], SIZE[2], generator=torch.Generator().manual_seed(9), dtype=torch.float64)

    def loss() -> Tensor:
        logprobs, found = module(batch, some(), temperature=0.7)
        return (found["values"] * shape).square().sum() + found["score"].cos().sum() + logprobs.sum()  # type: ignore[no-any-return]

    torch.autograd.backward(loss())
    for name, parameter in module.named_parameters():
        if name.startswith("policy.weights.1"):
            assert parameter.grad is None, "a head that neither log-probs nor scalars read"
            continue
        assert parameter.grad is not None, name
        places = parameter.grad.abs().flatten().argsort(descending=True)[:4].tolist()
        for place in places:
            flat = parameter.data.view(-1)
            was, step = float(flat[place]), 1e-6
            sums = []
            for value in (was + step, was - step):
                flat[place] = value
                sums.append(loss().item())
            flat[place] = was
            assert (sums[0] - sums[1]) / (2 * step) == pytest.approx(parameter.grad.view(-1)[place].item(), rel=1e-6)
    assert float(layer(module, "values").weight.grad.abs().min()) > 0  # type: ignore[union-attr]


def test_a_detached_head_leaves_the_network_alone(batch: TokenBatch) -> None:
    module = scored(ScalarHead("values", "token", detach=True))
    _, found = module(batch, some(), temperature=1.0)
    torch.autograd.backward(found["values"].sum())
    assert {name for name, each in module.named_parameters() if each.grad is not None} == {
        "scalar_heads.values_head.weight",
        "scalar_heads.values_head.bias",
    }


def test_logprobs_do_not_depend_on_scalar_heads(batch: TokenBatch) -> None:
    alone, (logprobs, _) = ScoredPolicy(Lookup(), SPACE), scored(VALUES)(batch, some(), temperature=1.0)
    assert torch.equal(alone(batch, some(), temperature=1.0)[0], logprobs)
    assert alone(batch, some(), temperature=1.0)[1] == {}
    assert alone.state_dict().keys() == {f"policy.{name}" for name in Lookup().state_dict()}


def test_heads_begin_at_zero_and_compute_in_float32(batch: TokenBatch) -> None:
    module = ScoredPolicy(Lookup().float(), SPACE, (VALUES, SCORE), hidden_size=WIDTH)
    assert all(not each.any() for each in module(batch, some(), temperature=1.0)[1].values())
    head = layer(module, "score")
    head.weight.data.fill_(1 / 3)
    states = torch.randn(3, 6, WIDTH, generator=torch.Generator().manual_seed(1)).bfloat16()
    with autocast(torch.device("cpu"), "bf16"):
        found = head(states, batch.lengths, shift=1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, states.float()[[0, 1, 2], [5, 0, 3]].sum(dim=1) / 3, rtol=1e-6, atol=1e-6)
    half = ScalarLayer(VALUES, WIDTH).bfloat16()
    assert half(states, batch.lengths, shift=1).dtype == torch.float32


def test_rows_shorter_than_what_a_head_looks_ahead(batch: TokenBatch) -> None:
    head = layer(scored(VALUES), "values")
    found = head(torch.ones(3, 6, WIDTH, dtype=torch.float64), batch.lengths, shift=9)
    assert torch.equal(found, torch.zeros(3, 6, dtype=torch.float64))


def test_heads_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ValueError, match="letters, digits and underscores, not 'a b'"):
        ScalarHead("a b", "token")
    with pytest.raises(ValueError, match="two scalar heads have one name: values, values"):
        ScoredPolicy(Lookup(), SPACE, (VALUES, VALUES), hidden_size=WIDTH)
    with pytest.raises(ValueError, match="need the width"):
        ScoredPolicy(Lookup(), SPACE, (VALUES,))
