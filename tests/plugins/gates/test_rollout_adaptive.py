"""The gate against numbers worked out by hand from arXiv 2604.14932, Eq. 9-12, with slope 5."""

import json
import math

import pytest
import torch

from wavalign.errors import PluginError, ResumeError
from wavalign.plugins.gates.rollout_adaptive import RolloutAdaptive, RolloutAdaptiveParams

VECTORS = [
    ((4, 3, 5, 2), 1.25, 0.3125, 0.99995460, 0.24998865),
    ((5, 5, 1, 1), 4.0, 1.0, 0.99995460, 0.79996368),
    ((5, 1, 1, 1), 3.0, 0.75, 0.99995460, 0.59997276),
    ((5, 4, 2, 1), 2.5, 0.625, 0.99995460, 0.49997730),
    ((4, 4, 4, 3), 0.1875, 0.046875, 0.99330715, 0.03724902),
    ((3, 1, 3, 1), 1.0, 0.25, 0.5, 0.10000000),
    ((2, 2, 1, 1), 0.25, 0.0625, 0.00669285, 0.00033464),
    ((3, 3, 3, 3), 0.0, 0.0, 0.5, 0.0),
]
NAN = float("nan")


def gate(**options: float) -> RolloutAdaptive:
    return RolloutAdaptive(RolloutAdaptiveParams.model_validate(options))


def rewards(*groups: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(groups, dtype=torch.float64)


@pytest.mark.parametrize(("group", "variance", "information", "direction", "raw"), VECTORS)
def test_raw_value_and_factors(
    group: tuple[float, ...], variance: float, information: float, direction: float, raw: float
) -> None:
    reading = gate().update(rewards(group), progress=0.0)
    assert reading.value == pytest.approx(raw, abs=1e-8)
    assert reading.factors["variance"] == pytest.approx(variance)
    assert reading.factors["information"] == pytest.approx(information)
    assert reading.factors["direction"] == pytest.approx(direction, abs=1e-8)
    assert reading.factors["best_reward"] == max(group)
    assert reading.factors["raw"] == reading.value


def test_smoothing_starts_from_the_first_value() -> None:
    adaptive = gate()
    sequence = [VECTORS[index][0] for index in (0, 1, 7, 2)]
    values = [adaptive.update(rewards(group), progress=0.0).value for group in sequence]
    assert values == pytest.approx([0.24998865, 0.30498615, 0.27448754, 0.30703606], abs=1e-8)


def test_prompts_are_averaged_after_the_product() -> None:
    reading = gate(ema=0.0).update(rewards((5, 5, 1, 1), (3, 3, 3, 3)), progress=0.0)
    assert reading.value == pytest.approx(0.79996368 / 2, abs=1e-8)
    assert reading.factors["groups"] == 2


def test_absent_rewards_count_nowhere() -> None:
    reading = gate().update(rewards((5, 1, NAN, NAN), (NAN, NAN, NAN, NAN), (NAN, 4, NAN, NAN)), progress=0.0)
    first = 0.8 / (1 + math.exp(-10))  # {5, 1}: variance 4; the lone 4 has none; the empty prompt is left out
    assert reading.value == pytest.approx(first / 2, abs=1e-12)
    assert reading.factors["groups"] == 2


def test_without_any_reward_the_value_stays_and_says_so() -> None:
    adaptive = gate()
    nothing = rewards((NAN, NAN), (NAN, NAN))
    assert adaptive.update(nothing, progress=0.0).value == 0.0
    before = adaptive.update(rewards((5, 5, 1, 1)), progress=0.0).value
    assert before == pytest.approx(0.79996368, abs=1e-8)  # the average starts here, not at the 0 before
    reading = adaptive.update(nothing, progress=0.0)
    assert reading.value == before
    assert reading.factors == {"groups": 0.0, "held": 1.0}


def test_information_is_clipped_to_one() -> None:
    assert gate(max_variance=1.0).update(rewards((5, 1)), progress=0.0).factors["information"] == 1.0


def test_its_options_act() -> None:
    reading = gate(ceiling=0.5, threshold=4.0, slope=1.0, max_variance=2.0).update(rewards((5, 3)), progress=0.0)
    assert reading.value == pytest.approx(0.5 * 0.5 / (1 + math.exp(-1)))


def test_state_goes_through_a_checkpoint() -> None:
    first, second = gate(), gate()
    first.update(rewards((4, 3, 5, 2)), progress=0.0)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    group = rewards((5, 5, 1, 1))
    assert first.update(group, progress=0.0) == second.update(group, progress=0.0)
    fresh = gate()
    fresh.load_state_dict(gate().state_dict())
    assert fresh.update(group, progress=0.0).value == pytest.approx(0.79996368, abs=1e-8)
    with pytest.raises(ResumeError, match="previous"):
        fresh.load_state_dict({})


def test_it_asks_for_rewards() -> None:
    assert RolloutAdaptive.needs_rewards
    with pytest.raises(PluginError, match="without rewards"):
        gate().update(None, progress=0.0)
