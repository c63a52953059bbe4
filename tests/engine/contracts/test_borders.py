"""What plugins give, held against their contracts where it enters: each wrong value has its message and exit code 4."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.e2e.runs import comparable, here, lines
from tests.loss_inputs import loss_inputs
from tests.toy.compiled import Change, compiled, problems, put
from tests.toy.live import live_stage, train
from tests.toy.world import PLUGINS, toy_recipe, write_recipe
from wavalign.engine import api as engine
from wavalign.engine.compile.plan import TermPlan
from wavalign.engine.contracts.construct import construct
from wavalign.engine.contracts.rollouts import Lent, scored
from wavalign.engine.step.objective import count, term_loss
from wavalign.engine.step.reward_pool import LiveReward
from wavalign.engine.step.step import StepExecutor
from wavalign.errors import PluginError
from wavalign.plugins.api import (
    Advantage,
    AdvantageInputs,
    AdvantageOutput,
    Codec,
    DataSource,
    Gate,
    GateReading,
    Loss,
    LossInputs,
    LossOutput,
    Mask,
    Measurement,
    Metric,
    Nar,
    Plugin,
    Reward,
    Sampler,
)
from wavalign.plugins.batch import Answer, Dialogue, Message, Role, RolloutGroup, Scored, Waveform
from wavalign.plugins.guard import origin_of
from wavalign.schema.component import Component
from wavalign.schema.reward import RewardSection
from wavalign.schema.share import Share

P = TypeVar("P", bound=Plugin)
NAN, INF = math.nan, math.inf


def made(base: type[P], runtime: Any = None, **body: Any) -> P:
    """An object of a class of kind `base` with these members."""
    plugin = type("Mine", (base,), {"type": "mine", "__module__": __name__, **body})
    return construct(base, plugin, origin_of(plugin, base.kind, "mine", "its.place"), {}, runtime or {})


def broken(use: Callable[[], object]) -> str:
    """What the PluginError says, behind the plugin's name."""
    with pytest.raises(PluginError) as caught:
        use()
    assert caught.value.exit_code == 4
    name, _, said = caught.value.message.partition(" 'mine' (its.place): ")
    assert name in ("loss", "mask", "gate", "advantage", "metric", "sampler", "data", "codec", "nar", "reward")
    assert f"({__file__}" in said
    return said


# --- losses -----------------------------------------------------------------------------------------------------------

LOGPROBS = torch.full((2, 1, 3), -1.0, requires_grad=True)


def loss(give: Callable[[LossInputs], Any], **body: Any) -> Loss:
    return made(
        Loss, compute=lambda _self, inputs: give(inputs), **{"needs": frozenset(), "family": "rollouts", **body}
    )


LOSSES: dict[str, tuple[Callable[[LossInputs], Any], str]] = {
    "nothing": (lambda x: None, "compute gave None instead of a LossOutput"),
    "a tensor": (lambda x: x.logprobs, "compute gave Tensor instead of a LossOutput"),
    "a dimension too few": (
        lambda x: LossOutput(x.logprobs.sum(dim=2)),
        "gave values (its unit is token) of shape [2, 1], which is to be [2, 1, 3]",
    ),
    "one number": (lambda x: LossOutput(x.logprobs.mean()), "of shape [], which is to be [2, 1, 3]"),
    "whole numbers": (lambda x: LossOutput(x.logprobs.long()), "of int64, which is to be a floating type"),
    "detached": (lambda x: LossOutput(x.logprobs.detach()), "gave values without a gradient"),
    "in place": (lambda x: LossOutput(x.logprobs.mul(1).mul_(2)), ""),
    "sparse": (lambda x: LossOutput(x.logprobs.to_sparse()), "as a sparse tensor (sparse_coo)"),
    "elsewhere": (lambda x: LossOutput(x.logprobs.to("meta")), "gave values on meta, the log-probs are on cpu"),
    "complex": (lambda x: LossOutput(x.logprobs.to(torch.complex64)), "of complex64, which is to be a floating type"),
    "a complex metric": (
        lambda x: LossOutput(x.logprobs, {"m": x.logprobs.to(torch.complex64)}),
        "gave metric m of torch.complex64",
    ),
    "a metric's name": (lambda x: LossOutput(x.logprobs, {"a\nb": x.logprobs}), "as the name of a metric"),
    "a metric's shape": (
        lambda x: LossOutput(x.logprobs, {"m": x.logprobs.mean()}),
        "gave metric m of shape [], which is to be [2, 1, 3]",
    ),
    "a metric that is a number": (
        lambda x: LossOutput(x.logprobs, {"m": 1.0}),  # type: ignore[dict-item]
        "gave float as metric m",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str) -> None:
    give, said = LOSSES[name]
    plugin = loss(give)
    if said:
        assert said in broken(lambda: plugin.compute(loss_inputs(LOGPROBS)))
    else:
        assert plugin.compute(loss_inputs(LOGPROBS)).values.shape == LOGPROBS.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_values_of_any_precision_are_summed_in_32_bits(dtype: torch.dtype) -> None:
    logprobs = torch.full((1, 1, 4099), -1.0, requires_grad=True)
    output = loss(lambda x: LossOutput(-x.logprobs.to(dtype))).compute(loss_inputs(logprobs))
    spec = TermPlan(
        name="t", loss=Component(type="mine"), mask=Component(type="roles"), share=Share(constant=1.0), weight=1.0,
        aggregation="token", fixed_length=None, family="rollouts", unit="token", needs=(),
    )  # fmt: skip
    ones, valid = torch.ones_like(logprobs), torch.ones(1, dtype=torch.bool)
    found = term_loss(spec, output.values, weights=ones, row_valid=valid, denominators=count(ones, valid))
    assert (found.dtype, float(found.detach())) == (torch.float32, 1.0)
    found.backward()
    assert logprobs.grad is not None
    assert torch.allclose(logprobs.grad, torch.full_like(logprobs, -1 / 4099), rtol=0.01, atol=0)


class Own(Tensor):
    """A class of tensors of one's own."""


def test_a_tensor_of_a_class_of_ones_own_becomes_a_plain_one() -> None:
    output = loss(lambda x: LossOutput(x.logprobs.as_subclass(Own))).compute(loss_inputs(LOGPROBS))
    assert type(output.values) is Tensor


def test_what_a_loss_writes_past_the_count_of_versions_has_no_effect() -> None:
    old, mask = torch.zeros(2, 1, 3), torch.ones(2, 1, 3, dtype=torch.bool)

    def write(x: LossInputs) -> LossOutput:
        assert x.column("old_logprobs") is not None and x.mask is not None
        x.column("old_logprobs").data.add_(1)
        x.mask.numpy()[:] = False
        x.logprobs.data.zero_()
        return LossOutput(x.logprobs - x.column("old_logprobs"))

    loss(write, needs=frozenset({"old_logprobs"})).compute(loss_inputs(LOGPROBS, old_logprobs=old, mask=mask))
    assert bool((LOGPROBS == -1).all()) and bool((old == 0).all()) and bool(mask.all())


def test_a_loss_that_goes_backward_itself_is_named() -> None:
    def twice(x: LossInputs) -> LossOutput:
        x.logprobs.sum().backward()
        return LossOutput(x.logprobs * 2)

    def derivative(x: LossInputs) -> LossOutput:
        torch.autograd.grad(x.logprobs.sum(), x.logprobs)
        return LossOutput(x.logprobs * 2)

    leaf = torch.zeros(2, 1, 3, requires_grad=True)
    assert "compute calls backward() itself" in broken(lambda: loss(twice).compute(loss_inputs(leaf * 1)))
    assert loss(derivative).compute(loss_inputs(leaf * 1)).values.requires_grad


def test_a_loss_of_sequences() -> None:
    plugin = loss(lambda x: LossOutput(x.logprobs), unit="sequence")
    assert "(its unit is sequence) of shape [2, 1, 3], which is to be [2]" in broken(
        lambda: plugin.compute(loss_inputs(LOGPROBS))
    )
    plugin = loss(lambda x: LossOutput(x.logprobs.sum(dim=(1, 2))), unit="sequence")
    assert plugin.compute(loss_inputs(LOGPROBS)).values.shape == (2,)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.logprobs - x.column("ref_logprobs"),
        lambda x: x.column("ref_logprobs").exp(),
        lambda x: torch.minimum(x.logprobs, x.column("ref_logprobs")),
    ],
)
def test_a_column_that_needs_does_not_name(read: Callable[[LossInputs], Tensor]) -> None:
    plugin = loss(lambda x: LossOutput(read(x)))
    with pytest.raises(PluginError) as caught:
        plugin.compute(loss_inputs(LOGPROBS))
    said = "loss 'mine' (its.place): compute reads `ref_logprobs`, which its `needs` does not name"
    assert said in caught.value.message
    assert f"({__file__}:" in caught.value.message
    assert caught.value.hint == "add `ref_logprobs` to what `needs` gives, so that the engine computes it"


def test_a_column_read_as_if_it_were_a_field() -> None:
    """As an own field `advantages` is not there; an AttributeError of something else stays what it is."""
    with pytest.raises(PluginError) as caught:
        loss(lambda x: LossOutput(x.logprobs * x.advantages)).compute(loss_inputs(LOGPROBS))  # type: ignore[attr-defined]
    assert "compute reads `advantages`, which is no field of its inputs" in caught.value.message
    assert caught.value.hint == "columns are read by `inputs.column('advantages')`, and named in `needs`"
    with pytest.raises(PluginError) as caught:
        loss(lambda x: LossOutput(x.logprobs.advantages)).compute(loss_inputs(LOGPROBS))  # type: ignore[attr-defined]
    assert "no field of its inputs" not in caught.value.message


def test_a_loss_may_not_write_into_what_it_is_lent() -> None:
    old = torch.zeros(2, 1, 3)
    plugin = loss(
        lambda x: LossOutput(x.logprobs + x.column("old_logprobs").add_(1)), needs=frozenset({"old_logprobs"})
    )
    assert "compute changed `old_logprobs` in place" in broken(
        lambda: plugin.compute(loss_inputs(LOGPROBS, old_logprobs=old))
    )


def test_a_loss_that_is_no_number_is_named_and_not_the_learning_rate(tmp_path: Path) -> None:
    own = put("objective.terms.odd", {"loss": {"type": "toy_broken", "after": 0}, "weight": 0.1})
    with pytest.raises(PluginError) as caught:
        train(compiled(tmp_path, own), steps=1)
    assert "loss 'toy_broken' (objective.terms.odd.loss): compute gave values that are no finite numbers" in str(
        caught.value
    )
    assert f"({PLUGINS}:" in caught.value.message
    assert "learning_rate" not in caught.value.hint


# --- masks ------------------------------------------------------------------------------------------------------------

ROLES = torch.tensor([[[Role.PROMPT, Role.TEXT, Role.TEXT_END, Role.FORCED, Role.PAD]]], dtype=torch.int8)
MASKS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "fine": (lambda r: (r == Role.TEXT).float(), ""),
    "nothing": (lambda r: None, "weights gave None as weights"),
    "bool": (lambda r: r == Role.TEXT, "gave weights of bool, which is to be float32"),
    "double": (lambda r: (r == Role.TEXT).double(), "gave weights of float64"),
    "shape": (lambda r: (r == Role.TEXT).float()[0], "gave weights of shape [1, 5], which is to be [1, 1, 5]"),
    "below 0": (lambda r: -(r == Role.TEXT).float(), "gave the weight -1 at [0, 0, 1]"),
    "nan": (lambda r: torch.where(r == Role.TEXT, NAN, 0.0), "gave nan in weights at [0, 0, 1]"),
    "inf": (lambda r: torch.where(r == Role.TEXT, INF, 0.0), "gave inf in weights at [0, 0, 1]"),
    "huge": (lambda r: (r == Role.TEXT).float() * 3e38, "gave the weight 3e+38 at [0, 0, 1]; they go up to 1e+09"),
    "sparse": (lambda r: (r == Role.TEXT).float().to_sparse(), "gave weights as a sparse tensor"),
    "prompt": (lambda r: torch.ones(r.shape), "weighs role 1 at [0, 0, 0], which is never scored"),
    "forced": (lambda r: (r == Role.FORCED).float(), "weighs role 6 at [0, 0, 3]"),
    "pad": (lambda r: (r == Role.PAD).float(), "weighs role 0 at [0, 0, 4]"),
    "in place": (lambda r: r.fill_(2).float(), "changed `roles` in place"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    give, said = MASKS[name]
    mask = made(Mask, weights=lambda _self, roles: give(roles))
    if said:
        assert said in broken(lambda: mask.weights(ROLES.clone()))
    else:
        assert mask.weights(ROLES).tolist() == [[[0, 1, 0, 0, 0]]]


def test_a_masks_gradient_ends_at_the_border_and_its_writes_have_no_effect() -> None:
    def weigh(_self: Mask, roles: Tensor) -> Tensor:
        weights = (roles == Role.TEXT).float().requires_grad_()
        roles.data.zero_()
        return weights

    roles = ROLES.clone()
    assert not made(Mask, weights=weigh).weights(roles).requires_grad
    assert torch.equal(roles, ROLES)


NOTHING = '''
import torch
from wavalign.plugins.api import Mask


class Nothing(Mask):
    """No token."""

    type = "nothing"

    def weights(self, roles):
        return torch.zeros(roles.shape)
'''


def test_a_mask_that_selects_nothing_in_a_step_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NOTHING, encoding="utf-8")
    changes = (
        put("plugins", [str(PLUGINS), str(tmp_path / "mine.py")]),
        put("objective.terms.sft.tokens", {"type": "nothing"}),
    )
    with pytest.raises(PluginError, match=r"mask 'nothing' \(objective.terms.sft.tokens\): selects no token of 4 rows"):
        train(compiled(tmp_path, *changes), steps=1)


def test_a_single_row_may_be_empty(tmp_path: Path) -> None:
    mask = {"type": "roles", "text": 1.0, "text_end": 0.0}  # an answer may be empty
    live = live_stage(compiled(tmp_path, put("objective.terms.rl.tokens", mask)))
    result = StepExecutor(live).step(0)
    live.close()
    answers = [rollout.answer.text for group in result.groups for rollout in group.rollouts]
    assert "" in answers
    assert result.metrics["tokens/rl"] > 0


# --- advantages and gates ---------------------------------------------------------------------------------------------

REWARDS = torch.tensor([[1.0, 2.0, NAN]], dtype=torch.float64)
PARTS = {"exact": torch.tensor([[0.5, 1.0, NAN]], dtype=torch.float64)}
Out = AdvantageOutput
ADVANTAGES: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "fine": (lambda r: Out(r.nan_to_num(), ~r.isnan()), ""),
    "one tensor": (lambda r: r.nan_to_num(), "gave Tensor instead of an AdvantageOutput"),
    "a tuple": (lambda r: (r.nan_to_num(), ~r.isnan()), "gave tuple instead of an AdvantageOutput"),
    "shape": (lambda r: Out(r[0], ~r.isnan()), "gave advantages of shape [3], which is to be [1, 3]"),
    "validity": (lambda r: Out(r.nan_to_num(), (~r.isnan()).long()), "gave validity of int64, which is to be bool"),
    "nan": (lambda r: Out(r * NAN, ~r.isnan()), "gave nan in advantages at [0, 0]"),
    "absent": (lambda r: Out(r.nan_to_num(), r == r.clone()), ""),
    "absent and valid": (
        lambda r: Out(r.nan_to_num(), r.nan_to_num() >= 0),
        "calls an advantage valid whose reward is",
    ),
    "not 0": (lambda r: Out(r.nan_to_num(), r > 1), "gave an advantage other than 0 that it does not call valid"),
    "in place": (lambda r: Out(r.nan_to_num_(), ~r.isnan()), "changed `rewards` in place"),
    "past 32 bits": (lambda r: Out(r.nan_to_num() * 1e300, ~r.isnan()), "gave inf in advantages, as the 32 bits"),
    "past 16 bits": (lambda r: Out((r.nan_to_num() * 1e6).half(), ~r.isnan()), "gave inf in advantages at [0, 0]"),
    "elsewhere": (
        lambda r: Out(r.nan_to_num().to("meta"), ~r.isnan()),
        "gave advantages on meta, the rewards are on cpu",
    ),
    "with a gradient": (lambda r: Out(r.nan_to_num().requires_grad_(), ~r.isnan()), ""),
}


@pytest.mark.parametrize("name", ADVANTAGES)
def test_advantages(name: str) -> None:
    give, said = ADVANTAGES[name]
    advantage = made(Advantage, compute=lambda _self, inputs: give(inputs.rewards))
    if said:
        assert said in broken(lambda: advantage.compute(AdvantageInputs(REWARDS.clone())))
    else:
        advantages = advantage.compute(AdvantageInputs(REWARDS)).values
        assert advantages.tolist() == [[1, 2, 0]] and not advantages.requires_grad


def test_an_advantage_does_not_write_into_the_parts_of_the_reward() -> None:
    inputs = AdvantageInputs(REWARDS, {name: part.clone() for name, part in PARTS.items()}, {"exact": 1.0})

    def write(_self: object, inputs: AdvantageInputs) -> AdvantageOutput:
        inputs.parts["exact"].zero_()
        return AdvantageOutput(inputs.rewards.nan_to_num(), ~inputs.rewards.isnan())

    assert "changed `parts['exact']` in place" in broken(lambda: made(Advantage, compute=write).compute(inputs))
    assert torch.equal(inputs.parts["exact"].nan_to_num(), PARTS["exact"].nan_to_num())


def gate(give: Callable[[], Any], state: Callable[[], Any] = dict) -> Gate:
    body = {"update": lambda _self, rewards, *, progress: give(), "state_dict": lambda _self: state()}
    return made(Gate, load_state_dict=lambda _self, state: None, **body)


GATES: dict[str, tuple[Any, str]] = {
    "above 1": (GateReading(1.7), "update gave 1.7 as its value, which goes from 0 to 1"),
    "below 0": (GateReading(-0.1), "gave -0.1 as its value"),
    "nan": (GateReading(NAN), "gave nan as its value"),
    "inf": (GateReading(INF), "gave inf as its value"),
    "a float": (0.5, "gave float instead of a GateReading"),
    "text": (GateReading("0.5"), "gave str as its value, which is to be a number"),  # type: ignore[arg-type]
    "a tensor": (GateReading(torch.tensor(0.5)), "gave Tensor as its value"),  # type: ignore[arg-type]
    "barely above 1": (GateReading(1 + 1e-12), "gave 1.000000000001 as its value"),
    "a factor's name": (GateReading(0.5, {"a\x1b": 1.0}), "as the name of a factor, which is to be printable"),
    "true": (GateReading(True), "gave bool as its value"),
    "a factor": (GateReading(0.5, {"x": "y"}), "gave str as factor x"),  # type: ignore[dict-item]
    "factors": (GateReading(0.5, [1.0]), "gave list as factors"),  # type: ignore[arg-type]
    "prompts nobody promised": (GateReading(0.5, {}, (0.5,)), "gave values of prompts, and its `per_prompt` is False"),
}


@pytest.mark.parametrize("name", GATES)
def test_gates(name: str) -> None:
    gives, said = GATES[name]
    plugin = gate(lambda: gives)
    assert said in broken(lambda: plugin.update(None, progress=0.0))


EACH: dict[str, tuple[Any, str]] = {
    "too few": ((0.5,), "gave values of 1 prompts where there are 2"),
    "too many": ((0.5, 0.5, 0.5), "gave values of 3 prompts where there are 2"),
    "none": ((), "gave values of 0 prompts where there are 2"),
    "above 1": ((0.5, 1.5), "gave 1.5 as the value of prompt 1, which goes from 0 to 1"),
    "nan": ((NAN, 0.5), "gave nan as the value of prompt 0"),
    "a tensor": (torch.ones(2), "gave Tensor as the values of prompts"),
    "a number": (0.5, "gave float as the values of prompts"),
}


def each_gate(prompts: Any) -> Gate:
    body = {"update": lambda _self, rewards, *, progress, noise=None: GateReading(0.5, {}, prompts)}
    quiet = {"state_dict": lambda _self: {}, "load_state_dict": lambda _self, state: None}
    return made(Gate, per_prompt=property(lambda _self: True), **body, **quiet)


@pytest.mark.parametrize("name", EACH)
def test_values_of_prompts(name: str) -> None:
    prompts, said = EACH[name]
    assert said in broken(lambda: each_gate(prompts).update(torch.ones(2, 3), progress=0.0))


def test_values_of_prompts_become_floats() -> None:
    reading = each_gate([np.float32(0.25), 1]).update(torch.ones(2, 3), progress=0.0)
    assert reading.prompts == (0.25, 1.0) and all(type(each) is float for each in reading.prompts)
    assert each_gate((0.5,)).update(None, progress=0.0).prompts == (0.5,)  # nobody has said how many there are


@pytest.mark.parametrize("what", ["per_prompt", "needs_noise"])
def test_what_a_gate_says_of_itself_is_yes_or_no(what: str) -> None:
    plugin = made(Gate, **{"update": lambda *_: None, "state_dict": lambda _self: {}, what: property(lambda _self: 1)},
                  load_state_dict=lambda _self, state: None)  # fmt: skip
    assert f"gave int as {what}" in broken(lambda: getattr(plugin, what))


def test_noise_that_a_gate_is_lent_is_not_its_to_change() -> None:
    def update(_self: Gate, rewards: Any, *, progress: float, noise: Any) -> GateReading:
        noise.zero_()
        return GateReading(0.5)

    quiet = {"state_dict": lambda _self: {}, "load_state_dict": lambda _self, state: None}
    plugin = made(Gate, update=update, **quiet)
    assert "changed `noise` in place" in broken(
        lambda: plugin.update(torch.ones(1, 2), progress=0.0, noise=torch.ones(1, 2))
    )


def test_a_gates_numbers_become_floats() -> None:
    reading = gate(lambda: GateReading(np.float32(0.5), {"n": np.int64(3)})).update(None, progress=0.0)  # type: ignore[arg-type, dict-item]
    assert [type(each) for each in (reading.value, *reading.factors.values())] == [float, float]


STATES: dict[str, tuple[Any, str]] = {
    "a list": ([1], "state_dict gave list, which is to be a dict"),
    "a tensor": ({"mean": torch.zeros(1)}, "gave Tensor at state.mean, which JSON cannot hold"),
    "nan": ({"a": [1.0, NAN]}, "gave nan at state.a[1]"),
    "keys": ({"a": {1: 2}}, "has the key 1 at state.a: JSON's keys are text"),
    "numpy": ({"a": np.float32(1)}, "gave numpy.float32 at state.a"),
    "half a character": ({"a": "\ud800"}, "gave text with half a character at state.a"),
}


@pytest.mark.parametrize("name", STATES)
def test_a_gates_state_that_no_checkpoint_can_hold_shows_when_it_is_made(name: str) -> None:
    state, said = STATES[name]
    assert said in broken(lambda: gate(lambda: GateReading(0.5), lambda: state))


def test_a_state_that_turns_bad_shows_in_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom wavalign.plugins.api import Gate, GateReading\n\n\n"
        'class Turns(Gate):\n    """A gate."""\n\n    type = "turns"\n    kept = {}\n\n'
        "    def update(self, rewards, *, progress):\n        self.kept = {'seen': rewards}\n"
        "        return GateReading(0.5)\n\n"
        "    def state_dict(self):\n        return self.kept\n\n"
        "    def load_state_dict(self, state):\n        return\n",
        encoding="utf-8",
    )
    changes = (put("plugins", [str(PLUGINS), str(tmp_path / "mine.py")]), put("objective.gate", {"type": "turns"}))
    with pytest.raises(PluginError, match=r"state_dict gave Tensor at state\.seen") as caught:
        train(compiled(tmp_path, *changes), steps=1)
    assert f"({tmp_path / 'mine.py'}:15)" in caught.value.message


# --- rewards ----------------------------------------------------------------------------------------------------------


class Unfloatable(Fraction):
    """A number that is none."""

    def __float__(self) -> float:
        raise SystemExit(0)


SCORED: dict[str, tuple[Any, float | None, str]] = {
    "int": (Scored(1), 1.0, ""),
    "bool": (Scored(True), 1.0, ""),
    "numpy": (Scored(np.float32(0.5)), 0.5, ""),  # type: ignore[arg-type]
    "huge": (Scored(10**400), None, "gave a int that is no float"),
    "numpy bool": (Scored(np.bool_(True)), None, "gave numpy.bool instead of a number"),  # type: ignore[arg-type]
    "decimal": (Scored(Decimal("0.5")), None, "gave Decimal instead of a number"),  # type: ignore[arg-type]
    "complex": (Scored(1j), None, "gave complex instead of a number"),  # type: ignore[arg-type]
    "above": (Scored(2.5), None, "gave 2.5, outside its range 0 to 1"),
    "beyond all sums": (Scored(1e308), None, "gave 1e+308; rewards go up to 1e+12"),
    "barely above": (Scored(1.0000001), None, "gave 1.0000001, outside its range 0 to 1"),
    "nan": (Scored(NAN), None, "gave nan"),
    "a variance below 0": (Scored(0.5, variance=-0.1), None, "gave -0.1 as the variance of its value"),
    "a variance that is none": (Scored(0.5, variance=NAN), None, "gave nan as the variance of its value"),
    "a variance without end": (Scored(0.5, variance=INF), None, "gave inf as the variance of its value"),
    "a variance in words": (Scored(0.5, variance="0.1"), None, "gave str as the variance"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", SCORED)
def test_scores(name: str) -> None:
    gives, value, reason = SCORED[name]
    found = scored(gives, 0.0, 1.0)
    assert (found.value, found.reason[: len(reason) or None]) == (value, reason)


def test_a_variance_becomes_a_float_and_none_stays_none() -> None:
    found = scored(Scored(0.5, variance=np.float32(0.25)), 0.0, 1.0)  # type: ignore[arg-type]
    assert type(found.variance) is float and found.variance == 0.25
    assert scored(Scored(0.5), 0.0, 1.0).variance is None


def test_details_that_json_cannot_hold_are_shown_as_text(tmp_path: Path) -> None:
    details: dict[Any, Any] = {"b": b"x", "n": np.float32(2), "s": "\ud800", 3: {"a"}, "inf": INF, "none": None}
    assert scored(Scored(1.0, details=details), 0.0, 1.0).details == {
        "b": "b'x'", "n": 2.0, "s": "\\ud800", "3": "{'a'}", "inf": "inf", "none": "None",
    }  # fmt: skip
    (tmp_path / "mine.py").write_text(DETAILS, encoding="utf-8")
    changes = (
        put("plugins", [str(PLUGINS), str(tmp_path / "mine.py")]),
        put("rewards.exact", {"type": "details"}),
        put("runtime.log_rollouts_every", 1),
        put("steps", 1),
    )
    run = engine.run(compiled(tmp_path, *changes))
    line = next(line for line in lines(run / "rollouts.jsonl") if line["split"] == "train")
    assert (line["detail/exact/bytes"], line["detail/exact/number"]) == ("b'x'", 2.0)


DETAILS = '''
import numpy as np
from wavalign.plugins.api import Reward
from wavalign.plugins.batch import Scored


class Details(Reward):
    """Something of everything."""

    type = "details"
    needs = frozenset({"text"})
    range = (0.0, 1.0)

    def score(self, rollout, dialogue):
        return Scored(0.5, "\\ud800", {"bytes": b"x", "number": np.float32(2), "half": "\\ud800", 3: object})
'''


@pytest.mark.parametrize("value", ["Scored(10 ** 400)", "Scored(Bad(1))", "1 / 0", "exit(0)"])
def test_an_odd_value_leaves_the_thread_alive(tmp_path: Path, value: str) -> None:
    """With one worker and a minute a call, the calls after it have their answers at once."""
    (tmp_path / "mine.py").write_text(
        DETAILS.replace('Scored(0.5, "\\ud800"', f'{value} if rollout.answer.text else Scored(0.5, ""').replace(
            "\n\nclass Details",
            "\nfrom fractions import Fraction\nfrom sys import exit\n\n\nclass Bad(Fraction):\n"
            "    def __float__(self):\n        raise KeyboardInterrupt\n\n\nclass Details",
        ),
        encoding="utf-8",
    )
    changes = (
        put("plugins", [str(PLUGINS), str(tmp_path / "mine.py")]),
        put("rewards.exact", {"type": "details", "timeout": 60}),
        put("runtime.reward_workers", 1),
        put("runtime.reward_failure_budget", 1.0),
    )
    metrics, _ = train(compiled(tmp_path, *changes), steps=1)
    assert metrics[0]["reward/exact/failed"] > 1
    assert metrics[0]["step_seconds"] < 30 if "step_seconds" in metrics[0] else True


RANGE = DETAILS.replace("range = (0.0, 1.0)", "range = {range}")


@pytest.mark.parametrize(
    ("declared", "scale", "path", "said"),
    [
        ("(0, float('inf'))", [1, 5], "rewards.exact.scale", "goes from 0 to inf, which no scale can map"),
        ("(-1e308, 1e308)", [1, 5], "rewards.exact.scale", "which no scale can map"),
        ("(1, 1)", None, "rewards.exact", "declares the range 1 to 1, in which no two rewards can differ"),
        ("(2, 1)", None, "rewards.exact", "declares the range 2 to 1"),
        ("(float('nan'), 1)", None, "rewards.exact", "declares the range nan to 1"),
        ("('a', 1)", None, "rewards.exact", "gave str as an end of `range`"),
    ],
)
def test_ranges_are_looked_at_when_a_recipe_is_compiled(
    tmp_path: Path, declared: str, scale: list[float] | None, path: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(RANGE.replace("{range}", declared), encoding="utf-8")
    reward = {"type": "details", **({"scale": scale} if scale else {})}
    changes = (put("plugins", [str(PLUGINS), str(tmp_path / "mine.py")]), put("rewards.exact", reward))
    (problem,) = problems(tmp_path, *changes)
    assert (problem.path, said in problem.message) == (path, True), problem
    assert problem.where is not None
    assert problem.where.file.endswith("toy.yaml")


def test_an_endless_range_without_a_scale_is_fine(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RANGE.replace("{range}", "(0, float('inf'))"), encoding="utf-8")
    changes = (put("plugins", [str(PLUGINS), str(tmp_path / "mine.py")]), put("rewards.exact", {"type": "details"}))
    metrics, _ = train(compiled(tmp_path, *changes), steps=1)
    assert metrics[0]["reward"] == 0.5


def test_a_range_that_an_object_sets() -> None:
    def reward(low: float, high: float) -> Reward:
        def init(self: Any, params: Any) -> None:
            Reward.__init__(self, params)
            self.range = (low, high)

        body = {"__init__": init, "needs": frozenset(), "range": (0.0, 1.0), "score": lambda *_: None}
        return made(Reward, **body)

    assert "declares the range 1 to 1" in broken(lambda: reward(1, 1))
    section = RewardSection.model_validate({"type": "mine", "scale": [1, 5]})
    with pytest.raises(PluginError, match="its range 0 to inf cannot be mapped"):
        LiveReward("r", reward(0, INF), section)


# --- metrics ----------------------------------------------------------------------------------------------------------


def metric(give: Callable[[Sequence[RolloutGroup]], Any]) -> Metric:
    return made(Metric, needs=frozenset({"text"}), measure=lambda _self, groups: give(groups))


FINE = Measurement("m", 0.5, 0.0, 1.0, 2)
METRICS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "measure gave None instead of a list of Measurement"),
    "text": ("0.5", "gave str instead of a list"),
    "numbers": ([0.5], "gave float instead of a Measurement"),
    "no value": ([replace(FINE, value=None)], "gave None as m, which is to be a number"),  # type: ignore[arg-type]
    "a text": ([replace(FINE, value="high")], "gave str as m"),  # type: ignore[arg-type]
    "inf": ([replace(FINE, high=INF)], "gave inf as m's upper bound"),
    "nan": ([replace(FINE, low=NAN)], "gave nan as m's lower bound"),
    "huge": ([replace(FINE, value=10**400)], "gave as m a int that is no float"),
    "count": ([replace(FINE, count=1.5)], "gave float as the count of m, which is to be a whole number"),  # type: ignore[arg-type]
    "negative": ([replace(FINE, count=-1)], "gave -1 as the count of m"),
    "name": ([replace(FINE, name="")], "gave '' as the name of a value"),
    "a key of the line": ([replace(FINE, name="step")], "gave a value the name 'step', which means something else"),
    "a key beside it": ([FINE, replace(FINE, name="m/count")], "gave a value the name 'm/count'"),
    "lines": ([replace(FINE, name="a\nb")], "as the name of a value, which is to be printable"),
    "half a character": ([replace(FINE, name="\ud800")], "as the name of a value, which is to be printable"),
    "an interval turned round": ([replace(FINE, low=0.6, high=0.4)], "gave m the interval from 0.6 to 0.4"),
    "an array": ([replace(FINE, items=np.ones(2))], "gave numpy.ndarray as the items of m, which is to be a tuple"),  # type: ignore[arg-type]
    "twice": ([FINE, FINE], "gave two values of the name 'm'"),
    "items": ([replace(FINE, items=(1.0,))], "gave 1 values as the items of m for 2 groups"),
    "an item": ([replace(FINE, items=(1.0, "x"))], "gave str as an item of m"),  # type: ignore[arg-type]
    "details": ([replace(FINE, details={"d": ("x",)})], "gave 1 values as detail d for 2 groups"),
}
GROUPS = [RolloutGroup(Dialogue("d", ()), None, ())] * 2  # type: ignore[arg-type]  # a metric that looks at none


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name: str) -> None:
    gives, said = METRICS[name]
    assert said in broken(lambda: metric(lambda groups: gives).measure(GROUPS))


OBSERVED: dict[str, tuple[Any, str]] = {
    "text": ("ab", "observe gave str as what it observed"),
    "too few": ([1], "gave 1 values as what it observed for 2 groups"),
    "no json": ([1, {1}], "gave set at what it observed[1], which JSON cannot hold"),
    "nan": ([NAN, 1], "gave nan at what it observed[0]: JSON has no such number"),
}


@pytest.mark.parametrize("name", OBSERVED)
def test_what_a_metric_observes(name: str) -> None:
    gives, said = OBSERVED[name]
    assert said in broken(lambda: observer(gives).observe(GROUPS))


def observer(gives: Any) -> Metric:
    own = {"observe": lambda _self, groups: gives, "conclude": lambda _self, groups, observed: [observed]}
    return made(Metric, needs=frozenset({"text"}), measure=lambda _self, groups: [FINE], **own)


def test_what_a_metric_observes_is_as_from_another_process() -> None:
    assert observer(((1, 2), {"a": (None,)})).observe(GROUPS) == [[1, 2], {"a": [None]}]
    assert observer(None).observe(GROUPS) is None
    assert "conclude gave list instead of a Measurement" in broken(lambda: observer(None).conclude(GROUPS, [1, 2]))


def test_what_a_metric_says_can_be_written() -> None:
    odd = replace(FINE, says="half \ud800", unit="\ud800")
    (found,) = metric(lambda groups: [odd]).measure(GROUPS)
    assert (found.says, found.unit) == ("half \\ud800", "\\ud800")


def test_numbers_of_a_metric_become_plain_ones() -> None:
    odd = Measurement("m", np.float32(0.5), 0, 1, np.int64(2), items=(np.float32(1), None), details={"d": (b"x", 1)})  # type: ignore[arg-type, dict-item]
    (found,) = metric(lambda groups: [odd]).measure(GROUPS)
    assert found == Measurement("m", 0.5, 0.0, 1.0, 2, items=(1.0, None), details={"d": ("b'x'", 1.0)})
    assert [type(each) for each in (found.value, found.low, found.count)] == [float, float, int]
    assert metric(lambda groups: [Measurement("m", NAN, NAN, NAN, 0)]).measure(GROUPS)[0].count == 0


# --- data -------------------------------------------------------------------------------------------------------------


def source(give: Callable[[int], Any], length: Any = 3) -> DataSource:
    body = {"prepare": lambda _self, progress: None, "__len__": lambda _self: length}
    return made(DataSource, {"seed": 0}, record=lambda _self, index: give(index), **body)


GOOD = Dialogue("d", (Message("user", "hello"),))
ENDLESS: dict[str, Any] = {}
ENDLESS["self"] = ENDLESS
RECORDS: dict[str, tuple[Any, str]] = {
    "nothing": (None, "record(1) gave None as record 1, which is to be a Dialogue"),
    "a mapping": ({"id": "d"}, "gave dict as record 1"),
    "id": (replace(GOOD, id=3), "gave int as the id of record 1"),  # type: ignore[arg-type]
    "messages": (replace(GOOD, messages=[]), "gave list as the messages of record 1"),  # type: ignore[arg-type]
    "a message": (replace(GOOD, messages=("hi",)), "gave str as message 0 of record 1"),  # type: ignore[arg-type]
    "role": (replace(GOOD, messages=(Message("bot"),)), "gave the role 'bot' in message 0 of record 1"),
    "text": (replace(GOOD, messages=(Message("user", b"x"),)), "gave bytes as the text of message 0"),  # type: ignore[arg-type]
    "audio": (replace(GOOD, messages=(Message("user", audio="x.wav"),)), "gave str as the audio of message 0"),  # type: ignore[arg-type]
    "target": (replace(GOOD, target="yes"), "gave str as the target of record 1"),  # type: ignore[arg-type]
    "a key": (replace(GOOD, metadata={"a": {5: 1}}), "has the key 5 in metadata of record 1.a: keys are text"),
    "a lock": (replace(GOOD, metadata={"a": [threading.Lock()]}), "gave lock in metadata of record 1.a[0], which JSON"),
    "a set": (replace(GOOD, metadata={"a": {1}}), "gave set in metadata of record 1.a, which JSON cannot hold"),
    "itself": (replace(GOOD, metadata=ENDLESS), "gave metadata of record 1 that is nested deeper than 64"),
    "metadata": (replace(GOOD, metadata=[1]), "gave list as the metadata of record 1"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", RECORDS)
def test_records(name: str) -> None:
    gives, said = RECORDS[name]
    assert said in broken(lambda: source(lambda index: gives).record(1))


def test_metadata_becomes_plain_and_nobody_elses() -> None:
    odd = {"n": np.int64(3), "f": np.float32(0.1), "b": np.bool_(True), "t": np.str_("x"), "l": (1, None)}
    given = MappingProxyType({"answer": MappingProxyType(odd)})
    found = source(lambda index: replace(GOOD, metadata=given)).record(1).metadata
    assert found == {"answer": {"n": 3, "f": 0.1, "b": True, "t": "x", "l": [1, None]}}
    assert [type(each) for each in (found, *found["answer"].values())] == [dict, int, float, bool, str, list]


@pytest.mark.parametrize(
    ("length", "said"), [(-1, "gave -1"), (1.5, "gave float"), (None, "gave None"), (True, "bool")]
)
def test_lengths(length: Any, said: str) -> None:
    assert said in broken(lambda: len(source(lambda index: GOOD, length)))


def test_an_inspection_goes_item_by_item() -> None:
    def items(_self: object) -> Iterator[Any]:
        yield "1", GOOD
        yield "2", "no dialogue"

    plugin = made(
        DataSource,
        {"seed": 0},
        prepare=lambda _self, progress: None,
        record=lambda _self, index: GOOD,
        __len__=lambda _self: 1,
        inspect=items,
    )
    found = plugin.inspect()
    assert next(found) == ("1", GOOD)
    assert "inspect gave str as 2, which is to be a Dialogue" in broken(lambda: next(found))


# --- codecs and nars --------------------------------------------------------------------------------------------------

SOUND = Waveform(np.zeros(10, np.float32), 16000)
CODEC: dict[str, Any] = {
    "__init__": lambda _self, params: None,
    "sample_rate": 16000,
    "frame_rate": 10.0,
    "codes_per_frame": 2,
    "num_codes": 8,
    "encode": lambda _self, waveform: [0, 4],
    "decode": lambda _self, codes: SOUND,
    "fingerprint": lambda _self: "x",
}
CODECS: dict[str, tuple[str, Any, str]] = {
    "an id": ("encode", [0, 8], "encode gave 8 as codes[1]; ids go up to 7"),
    "negative": ("encode", [-1, 0], "gave -1 as codes[0]"),
    "a float": ("encode", [0.0, 1], "gave float as codes[0]"),
    "text": ("encode", "01", "gave str as codes"),
    "half a frame": ("encode", [0], "gave 1 ids, which are no whole frames of 2"),
    "no sound": ("decode", None, "decode gave None as sound"),
    "samples": ("decode", Waveform([0.0], 1), "gave list as the samples of sound"),  # type: ignore[arg-type]
    "stereo": ("decode", Waveform(np.zeros((2, 2), np.float32), 1), "gave float32 [2, 2] as the samples"),
    "whole numbers": ("decode", Waveform(np.zeros(2, np.int16), 1), "gave int16 [2] as the samples"),
    "nan": ("decode", Waveform(np.full(2, NAN, np.float32), 1), "gave samples that are no numbers"),
    "rate": ("decode", Waveform(np.zeros(2, np.float32), 0), "gave 0 as the sample rate of sound"),
    "fingerprint": ("fingerprint", 3, "fingerprint gave 3"),
}


@pytest.mark.parametrize("name", CODECS)
def test_codecs(name: str) -> None:
    method, gives, said = CODECS[name]
    codec = made(Codec, **{**CODEC, method: lambda _self, *given: gives})
    assert said in broken(lambda: getattr(codec, method)(*([] if method == "fingerprint" else [SOUND])))


@pytest.mark.parametrize("name", ["sample_rate", "frame_rate", "codes_per_frame", "num_codes"])
@pytest.mark.parametrize("value", [None, 0, "16000"])
def test_what_a_codec_says_of_itself(name: str, value: Any) -> None:
    assert f"`{name}`" in broken(lambda: made(Codec, **{**CODEC, name: value}))


@pytest.mark.parametrize(
    ("gives", "said"), [([0], "gave 1 ids for 2 frames of 2"), ([0, 1, 2, "x"], "gave str as ids[3]")]
)
def test_nars(gives: Any, said: str) -> None:
    nar = made(Nar, codes_given=1, codes_per_frame=2, complete=lambda _self, codes, *, prompt: gives)
    assert said in broken(lambda: nar.complete([0, 1]))


# --- samplers ---------------------------------------------------------------------------------------------------------

Spoil = Callable[[list[RolloutGroup]], Any]


def _first(change: Callable[[Any], Any]) -> Spoil:
    def spoil(groups: list[RolloutGroup]) -> list[RolloutGroup]:
        first, *others = groups[0].rollouts
        return [replace(groups[0], rollouts=(change(first), *others)), *groups[1:]]

    return spoil


SAMPLES: dict[str, tuple[Spoil, str]] = {
    "nothing": (lambda groups: None, "sample gave None instead of a list of RolloutGroup"),
    "too few": (lambda groups: groups[:1], "gave 1 groups for 4 prompts"),
    "order": (lambda groups: groups[::-1], "keep the order"),
    "too small": (
        lambda groups: [replace(each, rollouts=each.rollouts[:2]) for each in groups],
        "gave 2 answers in the group of dialogue",
    ),
    "prompt": (
        lambda groups: [replace(each, prompt=replace(each.prompt, ids=each.prompt.ids + 1)) for each in groups],
        "gave another prompt",
    ),
    "no rollout": (_first(lambda each: "hello"), "gave str as answer 0"),
    "nan": (_first(lambda each: replace(each, logprobs=each.logprobs * NAN)), "gave log-probs from nan to nan"),
    "above 0": (_first(lambda each: replace(each, logprobs=each.logprobs + 9)), "they are finite and not above 0"),
    "shape": (_first(lambda each: replace(each, logprobs=each.logprobs[0])), "gave log-probs of answer 0"),
    "ids": (
        _first(lambda each: replace(each, completion=replace(each.completion, ids=each.completion.ids + 10**6))),
        "gave ids of answer 0",
    ),
    "floats": (
        _first(lambda each: replace(each, completion=replace(each.completion, ids=each.completion.ids.float()))),
        "of float32, which is to be int64",
    ),
    "answer": (_first(lambda each: replace(each, answer="yes")), "gave str as answer 0"),
    "text": (_first(lambda each: replace(each, answer=Answer(None, (), True))), "gave None"),  # type: ignore[arg-type]
    "support": (_first(lambda each: replace(each, support=each.completion.ids)), "gave a support of shape"),
}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The toy's sampler, its arguments and what it gives."""
    live = live_stage(compiled(tmp_path_factory.mktemp("sampled")))
    prompts = [(each, live.roller.encoder.prompt(each)) for each in live.feeds["prompts"].next(4)]
    from wavalign.engine.step.sampling import rollout_options  # beside the rest of what a step does

    options = rollout_options(live.plan.stage.rollout, text_only=True)
    given = (live.backend.policy, live.architecture, prompts, options, torch.Generator().manual_seed(0))
    return given, live.roller.sampler.sample(*given)


@pytest.mark.parametrize("name", SAMPLES)
def test_samplers(name: str, sampled: tuple[Any, ...]) -> None:
    spoil, said = SAMPLES[name]
    given, groups = sampled
    sampler = made(Sampler, sample=lambda _self, *_: spoil(list(groups)))
    assert said in broken(lambda: sampler.sample(*given))


TOUCHES: dict[str, Callable[[torch.nn.Module], object]] = {
    "a weight": lambda policy: next(policy.parameters()).detach().mul_(1.0),
    "what is trained": lambda policy: next(policy.parameters()).requires_grad_(False),
    "its mode": lambda policy: policy.train(not policy.training),
}


@pytest.mark.parametrize("name", TOUCHES)
def test_a_sampler_leaves_the_policy_as_it_found_it(name: str, sampled: tuple[Any, ...]) -> None:
    given, groups = sampled
    policy, mode = given[0], given[0].training

    def sample(*_: Any) -> Any:
        TOUCHES[name](policy)
        return groups

    try:
        assert "sample changed the policy" in broken(lambda: made(Sampler, sample=sample).sample(*given))
    finally:
        policy.train(mode)
        next(policy.parameters()).requires_grad_(True)


# --- what is lent -----------------------------------------------------------------------------------------------------

WRITES = '''
import numpy as np
from wavalign.plugins.api import Measurement, Metric, Reward
from wavalign.plugins.batch import Scored

SPOILS = {spoils}


def spoil(rollout, dialogue):
    if SPOILS:
        rollout.logprobs.mul_(0.1)
        rollout.completion.ids.zero_()
        rollout.completion.roles.fill_(2)
        dialogue.metadata["answer"] = "spoilt"
        dialogue.metadata.setdefault("seen", []).append(1)


class Writes(Reward):
    """Writes into what it is lent."""

    type = "writes"
    needs = frozenset({{"text"}})
    range = (0.0, 100.0)

    def score(self, rollout, dialogue):
        spoil(rollout, dialogue)
        return Scored(float(len(rollout.answer.text)))


class Measures(Metric):
    """So does this."""

    type = "measures"
    needs = frozenset({{"text"}})

    def measure(self, groups):
        for group in groups:
            for rollout in group.rollouts:
                spoil(rollout, group.dialogue)
        return [Measurement("number", len(groups), 0.0, 100.0, len(groups))]
'''


def test_what_is_lent_can_be_written_to_without_effect(tmp_path: Path) -> None:
    """Two runs that differ in nothing else have the same lines, KL to the old policy among them."""
    found = []
    for spoils in (False, True):
        folder = tmp_path / str(spoils)
        folder.mkdir()
        (folder / "mine.py").write_text(WRITES.format(spoils=spoils), encoding="utf-8")
        changes: tuple[Change, ...] = (
            put("plugins", [str(PLUGINS), str(folder / "mine.py")]),
            put("rewards.exact", {"type": "writes"}),
            put("evaluation.metrics", {"spoils": {"type": "measures"}, "accuracy": {"type": "toy_accuracy"}}),
            put("runtime.log_rollouts_every", 1),
            put("steps", 3),
        )
        run = engine.run(compiled(folder, *changes))
        found.append([comparable(run / name) for name in ("metrics.jsonl", "rollouts.jsonl")])
    assert found[0] == found[1]


def test_groups_are_lent_as_a_sequence(sampled: tuple[Any, ...]) -> None:
    _, groups = sampled
    lent = Lent(groups)
    assert len(lent) == len(groups)
    assert [each.dialogue.id for each in lent[1:3]] == [each.dialogue.id for each in groups[1:3]]
    lent[0].rollouts[0].logprobs.zero_()
    assert not groups[0].rollouts[0].logprobs.eq(0).all()


def test_a_wrong_value_ends_a_command_with_exit_4(tmp_path: Path) -> None:
    """From the value to the terminal: plugin, value, file and line."""
    (tmp_path / "mine.py").write_text(
        "from wavalign.plugins.api import Gate, GateReading\n\n\n"
        'class Wide(Gate):\n    """A gate."""\n\n    type = "wide"\n\n'
        "    def update(self, rewards, *, progress):\n        return GateReading(1.7)\n\n"
        "    def state_dict(self):\n        return {}\n\n    def load_state_dict(self, state):\n        return\n",
        encoding="utf-8",
    )
    recipe = toy_recipe(tmp_path)
    put("plugins", [str(PLUGINS), str(tmp_path / "mine.py")])(recipe)
    put("objective.gate", {"type": "wide"})(recipe)
    ended = here("run", write_recipe(tmp_path, recipe))
    assert ended.code == 4, ended.output
    assert (
        f"gate 'wide' (objective.gate): update gave 1.7 as its value, which goes from 0 to 1 ({tmp_path / 'mine.py'}:9)"
        in ended.output
    )
