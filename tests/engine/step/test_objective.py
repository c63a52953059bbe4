"""What terms are divided by, by hand; and that the answer does not depend on how a batch is cut."""

import math
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from wavalign.engine.compile.plan import TermPlan
from wavalign.engine.step.objective import combine, count, metric_maxima, metric_sums, term_loss, with_shares
from wavalign.plugins.ops import Segments
from wavalign.schema.component import Component
from wavalign.schema.share import Share

Aggregation = Literal["token", "sequence", "fixed", "sum"]
AGGREGATIONS: list[Aggregation] = ["token", "sequence", "fixed", "sum"]


def spec(aggregation: Aggregation, name: str = "rl", *, share: str | float = 1.0, **options: Any) -> TermPlan:
    settings = {"family": "rollouts", "weight": 1.0, "unit": "token", "needs": (), **options}
    return TermPlan(
        name=name,
        loss=Component(type="grpo"),
        mask=Component(type="roles"),
        share=Share.parse(share),
        aggregation=aggregation,
        fixed_length=10 if aggregation == "fixed" else None,
        **settings,
    )


VALUES = torch.tensor([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]], [[7.0, 8.0, 9.0]], [[1.0, 1.0, 1.0]]], dtype=torch.float64)
WEIGHTS = torch.tensor([[[1.0, 0.5, 0.0]], [[0.0, 0.0, 2.0]], [[1.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]]])
VALID = torch.tensor([True, True, False, True])
# Row 0: 1 * 1 + 0.5 * 2 = 2 over a mass of 1.5. Row 1: 2 * 6 = 12 over 2. Row 2 is not the term's. Row 3 is empty.
EXPECTED: dict[Aggregation, float] = {
    "token": (2 + 12) / 3,
    "sequence": (2 / 1.5 + 6 + 0) / 3,
    "fixed": (2 + 12) / (3 * 10),
    "sum": (2 + 12) / 3,
}


def test_counting() -> None:
    counted = count(WEIGHTS, VALID)
    assert counted.tolist() == [3, 3]
    assert counted.dtype == torch.float64
    extra = count(torch.ones(1, 1, 3), torch.tensor([True]))
    assert (counted + extra).tolist() == [6, 4]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_aggregates_by_hand(aggregation: Aggregation) -> None:
    loss = term_loss(spec(aggregation), VALUES, weights=WEIGHTS, row_valid=VALID, denominators=count(WEIGHTS, VALID))
    assert loss.item() == pytest.approx(EXPECTED[aggregation], rel=1e-12)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_packed_rows_aggregate_like_padded_ones(aggregation: Aggregation) -> None:
    """The same tokens one behind the other, in one row of a batch."""
    packed = Segments(torch.arange(4).repeat_interleave(3).view(1, 1, -1), 4)
    values, weights = VALUES.reshape(1, 1, -1), WEIGHTS.reshape(1, 1, -1)
    counted = count(weights, VALID, packed)
    assert counted.tolist() == count(WEIGHTS, VALID).tolist()
    loss = term_loss(spec(aggregation), values, weights=weights, row_valid=VALID, denominators=counted, segments=packed)
    assert loss.item() == pytest.approx(EXPECTED[aggregation], rel=1e-12)


def test_token_and_sum_differ_once_rows_and_tokens_do() -> None:
    weights = torch.ones(4, 1, 3)
    losses = [
        term_loss(spec(how), VALUES, weights=weights, row_valid=VALID, denominators=count(weights, VALID)).item()
        for how in ("token", "sum")
    ]
    assert losses == pytest.approx([24 / 9, 24 / 3])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_what_is_not_selected_may_be_anything(aggregation: Aggregation) -> None:
    values = VALUES.clone()
    values[WEIGHTS == 0] = float("nan")
    values[2] = float("inf")
    values.requires_grad_()
    loss = term_loss(spec(aggregation), values, weights=WEIGHTS, row_valid=VALID, denominators=count(WEIGHTS, VALID))
    assert loss.item() == pytest.approx(EXPECTED[aggregation], rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, values)
    selected = (WEIGHTS > 0) & VALID.view(-1, 1, 1)
    assert torch.equal(gradient != 0, selected)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_gradient_by_finite_differences(aggregation: Aggregation) -> None:
    denominators = count(WEIGHTS, VALID)

    def loss(values: Tensor) -> Tensor:
        return term_loss(spec(aggregation), values, weights=WEIGHTS, row_valid=VALID, denominators=denominators)

    assert torch.autograd.gradcheck(loss, VALUES.clone().requires_grad_())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("nothing", ["weights", "rows"])
def test_an_empty_term_is_a_zero_one_can_go_backward_from(aggregation: Aggregation, nothing: str) -> None:
    weights = WEIGHTS * (nothing != "weights")
    valid = VALID & (nothing != "rows")
    values = VALUES.clone().requires_grad_()
    loss = term_loss(spec(aggregation), values, weights=weights, row_valid=valid, denominators=count(weights, valid))
    torch.autograd.backward([loss])
    assert loss.item() == 0
    assert values.grad is not None
    assert torch.equal(values.grad, torch.zeros_like(values))


@pytest.mark.parametrize("aggregation", ["token", "sequence", "sum"])
def test_values_per_sequence(aggregation: Aggregation) -> None:
    values, weights = torch.tensor([1.0, 2.0, 6.0]), torch.ones(3)
    valid = torch.tensor([True, False, True])
    loss = term_loss(spec(aggregation), values, weights=weights, row_valid=valid, denominators=count(weights, valid))
    assert loss.item() == pytest.approx(3.5)


def test_shares_and_weights_mix_the_terms() -> None:
    specs = [
        spec("token", "rl", share="gate"),
        spec("token", "sft", share="1 - gate", weight=2.0),
        spec("token", "kl", share=0.5),
    ]
    losses = {"rl": torch.tensor(10.0), "sft": torch.tensor(100.0), "kl": torch.tensor(1000.0)}
    assert combine(losses, specs, gate=0.25, backend_divisor=1).item() == pytest.approx(2.5 + 150 + 500)
    assert combine(losses, specs, gate=0.25, backend_divisor=8).item() == pytest.approx(8 * 652.5)


@pytest.mark.parametrize("share", ["gate", "1 - gate"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_shares_of_rows_are_in_the_numerator_alone(aggregation: Aggregation, share: str) -> None:
    """Each row's part of EXPECTED by its own share, over what all rows are divided by."""
    gates = torch.tensor([0.2, 0.9, 0.5, 0.7], dtype=torch.float64)
    one, other = (0.2, 0.9) if share == "gate" else (0.8, 0.1)
    plan, counted = spec(aggregation, share=share, weight=3.0), count(WEIGHTS, VALID)
    values = with_shares(plan, VALUES, gates)
    loss = term_loss(plan, values, weights=WEIGHTS, row_valid=VALID, denominators=counted)
    parts = {"sequence": one * 2 / 1.5 + other * 6, "fixed": (one * 2 + other * 12) / 10}
    expected = parts.get(aggregation, one * 2 + other * 12) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    whole = combine({"rl": loss}, [plan], gate=0.4, backend_divisor=2, shared={"rl"})
    assert whole.item() == pytest.approx(2 * 3 * expected, rel=1e-12)


def test_a_moving_share_needs_a_gate() -> None:
    with pytest.raises(ValueError, match="there is none"):
        spec("token", share="gate").coefficient(None)


def test_metrics_are_summed_over_the_selected_tokens() -> None:
    sums = metric_sums({"ratio": VALUES}, weights=WEIGHTS, row_valid=VALID)
    assert {name: float(each) for name, each in sums.items()} == {"ratio": 1 + 2 + 6}
    nothing = metric_sums({"ratio": VALUES}, weights=torch.zeros_like(WEIGHTS), row_valid=VALID)
    assert float(nothing["ratio"]) == 0


def test_maxima_are_taken_over_the_selected_tokens() -> None:
    """Tokens without weight and rows that the term does not use hold larger values."""
    assert {
        key: float(value) for key, value in metric_maxima({"ratio": VALUES}, weights=WEIGHTS, row_valid=VALID).items()
    } == {"ratio": 6.0}
    assert float(VALUES.max()) > 6
    nothing = metric_maxima({"ratio": VALUES}, weights=torch.zeros_like(WEIGHTS), row_valid=VALID)
    assert float(nothing["ratio"]) == -math.inf


# --- one step, cut in many ways ---------------------------------------------------------------------------------------

ROWS, LENGTH = 12, 5


def whole_step() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A parameter that all values depend on, weights of two kinds, and rows of two kinds, some of them invalid."""
    generator = torch.Generator().manual_seed(8)
    parameter = torch.randn(LENGTH, generator=generator, dtype=torch.float64)
    scale = torch.randn(ROWS, 2, LENGTH, generator=generator, dtype=torch.float64)
    weights = torch.rand(ROWS, 2, LENGTH, generator=generator).mul(3).floor() / 2
    rollouts = torch.rand(ROWS, generator=generator) > 0.4
    return parameter, scale, weights, rollouts


def step(cuts: list[int], aggregation: Aggregation, *, averages: bool) -> tuple[Tensor, Tensor]:
    """Loss and gradient with rows cut at `cuts`; a backend that `averages` divides by their number."""
    parameter, scale, weights, rollouts = whole_step()
    parameter.requires_grad_()
    specs = [
        spec(aggregation, "rl", share="gate"),
        spec(aggregation, "sft", family="demonstrations", share="1 - gate"),
    ]
    parts = [slice(*pair) for pair in pairwise([0, *cuts, ROWS])]
    valid = {"rl": rollouts, "sft": ~rollouts}
    stacked = torch.stack([torch.stack([count(weights[part], valid[s.name][part]) for s in specs]) for part in parts])
    denominators = dict(zip(("rl", "sft"), stacked.sum(dim=0), strict=True))
    divisor = len(parts) if averages else 1
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        values = {"rl": (scale[part] * parameter).exp(), "sft": (scale[part] - parameter).square()}
        losses = {
            s.name: term_loss(
                s,
                values[s.name],
                weights=weights[part],
                row_valid=valid[s.name][part],
                denominators=denominators[s.name],
            )
            for s in specs
        }
        loss = combine(losses, specs, gate=0.3, backend_divisor=divisor) / divisor
        torch.autograd.backward([loss])
        total += loss.detach()
    assert parameter.grad is not None
    return total, parameter.grad


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    "cuts", [[6], [1, 2, 3], [2, 4, 6, 8, 10], [5, 11], list(range(1, ROWS))], ids=lambda cuts: f"{len(cuts) + 1} parts"
)
@pytest.mark.parametrize("averages", [False, True], ids=["sums", "averages"])
def test_a_step_does_not_depend_on_how_it_is_cut(aggregation: Aggregation, cuts: list[int], averages: bool) -> None:
    whole = step([], aggregation, averages=False)
    torch.testing.assert_close(step(cuts, aggregation, averages=averages), whole, rtol=1e-12, atol=1e-12)
