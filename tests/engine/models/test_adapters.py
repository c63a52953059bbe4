"""Adapters against the formulas, and everything that must not notice them."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tests.plugins.architectures.kimi_helpers import lively_policy as lively_kimi
from tests.plugins.architectures.kimi_helpers import small_kimi
from tests.plugins.architectures.vita_helpers import lively_policy as lively_vita
from tests.plugins.architectures.vita_helpers import small_vita
from wavalign.engine.compile.adapter import adapted_layers, count_weights
from wavalign.engine.models.adapters import attach, merged_weights, save_adapter, switched_off, trained_in_full
from wavalign.engine.state.seeds import global_seed
from wavalign.errors import PreflightError
from wavalign.plugins.api import Architecture, Policy
from wavalign.plugins.batch import TokenBatch
from wavalign.schema.component import Component
from wavalign.schema.model import AdapterSection, ModelSection

FAMILIES: dict[str, tuple[Callable[[Path], Architecture], Callable[..., Policy], tuple[str, ...]]] = {
    "vita": (
        lambda folder: small_vita(folder, num_mtp_layers=2, tie_embeddings=False),
        lively_vita,
        ("trunk", "mtp"),
    ),
    "kimi": (small_kimi, lively_kimi, ("trunk", "audio_branch")),
}


class Case:
    """A small policy, a copy of it with adapters whose B is not 0, and something to look at."""

    def __init__(self, family: str, folder: Path, type_: str, **options: Any) -> None:
        make, lively, groups = FAMILIES[family]
        self.architecture = make(folder)
        self.base = lively(self.architecture, scale=3.0)
        self.section = AdapterSection(type=type_, rank=3, alpha=6.0, groups=groups, **options)
        self.policy = deepcopy(self.base)
        attach(self.policy, self.section, architecture=self.architecture, seed=5, precision="float32")

    def stir(self) -> None:
        """Move every adapter away from its start."""
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.3, generator=generator)
                if "magnitude" in name:
                    parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))

    def outputs(self, policy: Policy) -> dict[int, Tensor]:
        space = self.architecture.tokens
        shape = (2, len(space.streams), 11)
        ids = torch.randint(20, shape, generator=torch.Generator().manual_seed(2))
        batch = TokenBatch(ids, torch.zeros_like(ids), torch.zeros_like(ids), torch.full((2,), 11))
        return policy.hidden(batch, frozenset(range(len(space.heads))))

    def by_hand(self) -> dict[str, Tensor]:
        """The formulas of the module's docstring, on the weights by name."""
        weights = {name: tensor.clone() for name, tensor in self.base.state_dict().items()}
        state = self.policy.state_dict()
        for name in [name for name in state if name.endswith(".lora_A.default.weight")]:
            path = name.removesuffix(".lora_A.default.weight")
            product = state[f"{path}.lora_B.default.weight"] @ state[name]
            whole = weights[f"{path}.weight"] + 6.0 / 3 * product
            if self.section.type == "dora":
                length = (whole**2).sum(dim=1, keepdim=True).sqrt()
                whole = state[f"{path}.lora_magnitude_vector.default.weight"][:, None] * whole / length
            weights[f"{path}.weight"] = whole
        return weights


@pytest.fixture(params=[(family, type_) for family in FAMILIES for type_ in ("lora", "dora")], ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(request.param[0], tmp_path, request.param[1])


def assert_close(found: dict[int, Tensor], wanted: dict[int, Tensor], tolerance: float) -> None:
    for head, states in wanted.items():
        torch.testing.assert_close(found[head], states, rtol=0, atol=tolerance)


def assert_far(found: dict[int, Tensor], wanted: dict[int, Tensor]) -> None:
    assert all(float((found[head] - states).detach().abs().max()) > 1e-2 for head, states in wanted.items())


def test_new_adapters_change_nothing(case: Case) -> None:
    assert_close(case.outputs(case.policy), case.outputs(case.base), 0)


def test_the_formula_and_the_merged_weights(case: Case) -> None:
    case.stir()
    adapted = case.outputs(case.policy)
    assert_far(adapted, case.outputs(case.base))
    by_hand, merged = case.by_hand(), merged_weights(case.policy)
    assert list(merged) != [] and set(merged) == set(by_hand) and len(merged) == len(by_hand)
    for name, weight in by_hand.items():
        torch.testing.assert_close(merged[name], weight, rtol=0, atol=1e-5, msg=name)
    plain = deepcopy(case.base)
    plain.load_state_dict(dict(merged))
    assert_close(case.outputs(plain), adapted, 1e-5)


def test_weights_are_merged_in_float32_whatever_the_step_computes_in(case: Case) -> None:
    case.stir()
    wanted = merged_weights(case.policy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = merged_weights(case.policy)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_merging_and_switching_off_leave_no_trace(case: Case) -> None:
    case.stir()
    before = {name: tensor.clone() for name, tensor in case.policy.state_dict().items()}
    trainable = {name for name, each in case.policy.named_parameters() if each.requires_grad}
    adapted = case.outputs(case.policy)
    dict(merged_weights(case.policy))
    with torch.no_grad(), switched_off(case.policy, {}):
        assert_close(case.outputs(case.policy), case.outputs(case.base), 0)
    assert_close(case.outputs(case.policy), adapted, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.policy.state_dict().items())
    assert {name for name, each in case.policy.named_parameters() if each.requires_grad} == trainable


def test_the_merged_module_of_the_library_agrees(case: Case) -> None:
    case.stir()
    merged, theirs = merged_weights(case.policy), deepcopy(case.policy)
    for path, layer in theirs.named_modules():
        if isinstance(layer, LoraLayer):
            adapted: Any = layer
            adapted.merge()
            weight = adapted.get_base_layer().weight
            torch.testing.assert_close(merged[f"{path}.weight"], weight.detach(), rtol=0, atol=1e-6)


def test_only_adapters_learn(case: Case) -> None:
    case.stir()
    sum(states.square().sum() for states in case.outputs(case.policy).values()).backward()  # type: ignore[union-attr]
    learned = {name for name, each in case.policy.named_parameters() if each.grad is not None}
    adapters = {name for name, _ in case.policy.named_parameters() if "lora_" in name}
    assert learned == adapters != set()
    assert all(float(dict(case.policy.named_parameters())[name].grad.abs().max()) > 0 for name in learned)  # type: ignore[union-attr]
    groups = {case.architecture.parameter_group(name) for name in adapters}
    assert groups == set(case.section.groups)


def test_what_is_counted_is_what_is_there(case: Case) -> None:
    component = Component(type="vita")
    counts = count_weights(ModelSection(architecture=component, adapter=case.section), case.architecture)
    sizes = {True: 0, False: 0}
    for parameter in case.policy.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    assert (counts.added, counts.trained, counts.frozen) == (sizes[True], 0, sizes[False])


def test_the_library_reads_the_files(case: Case, tmp_path: Path) -> None:
    case.stir()
    save_adapter(case.policy, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_dora"]) == (3, 6.0, case.section.type == "dora")
    theirs = PeftModel.from_pretrained(deepcopy(case.base), str(tmp_path / "adapter"))
    unwrapped = cast(Policy, theirs.base_model.model)
    assert_close(case.outputs(unwrapped), case.outputs(case.policy), 1e-6)


def test_draws_depend_on_the_seed_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    one = Case("vita", tmp_path, "lora").policy.state_dict()
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1)), "the caller's random state moved"
    two = Case("vita", tmp_path, "lora").policy.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_half_precision_is_for_what_is_frozen(tmp_path: Path) -> None:
    for type_ in ("lora", "dora"):
        case = Case("kimi", tmp_path, type_)
        policy = deepcopy(case.base)
        attach(policy, case.section, architecture=case.architecture, seed=5, precision="bf16")
        for name, parameter in policy.named_parameters():
            assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name
        # Lengths of rows are taken of the weights as they are held, so that a new DoRA adapter changes nothing.
        plain = deepcopy(case.base)
        for parameter in plain.parameters():
            parameter.data = parameter.data.bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(case.outputs(policy), case.outputs(plain), 0)
        case.policy = policy
        case.stir()
        merged = merged_weights(policy)
        assert all(tensor.dtype == torch.bfloat16 for tensor in merged.values())


def test_what_is_also_trained(tmp_path: Path) -> None:
    case = Case("kimi", tmp_path, "lora", also_train=("text_head",))
    kept = trained_in_full(case.policy)
    assert list(kept) == ["lm_head.weight"]
    head = case.policy.head_weight(0)
    assert head.requires_grad
    with torch.no_grad():
        head.add_(1)
    with torch.no_grad(), switched_off(case.policy, kept):
        assert torch.equal(case.policy.head_weight(0), case.base.head_weight(0))
    assert torch.equal(head, case.base.head_weight(0) + 1)


@pytest.mark.parametrize("type_", ["lora", "dora"])
def test_dropout_is_for_training_and_seeded(tmp_path: Path, type_: str) -> None:
    case = Case("vita", tmp_path, type_, dropout=0.5)
    case.stir()
    case.policy.train()

    def drawn(seed: int) -> dict[int, Tensor]:
        with global_seed(seed, torch.device("cpu")):
            return case.outputs(case.policy)

    one = drawn(1)
    assert_close(drawn(1), one, 0)
    assert_far(drawn(2), one)
    with torch.no_grad(), switched_off(case.policy, {}):
        assert_close(case.outputs(case.policy), case.outputs(case.base), 0)
    assert case.policy.training
    plain = deepcopy(case.base)
    plain.load_state_dict(dict(merged_weights(case.policy)))
    case.policy.eval()
    assert_close(case.outputs(case.policy), case.outputs(plain), 1e-5)


def test_which_layers(tmp_path: Path) -> None:
    kimi = small_kimi(tmp_path)
    shapes, group_of = kimi.parameter_shapes(), kimi.parameter_group
    found = adapted_layers(AdapterSection(targets=("q_proj", "down_proj")), shapes, group_of)
    wanted = {f"model.layers.{i}.{name}" for i in range(3) for name in ("self_attn.q_proj", "mlp.down_proj")}
    assert set(found) == wanted
    assert found["model.layers.1.mlp.down_proj"] == (32, 64)
    branch = AdapterSection(targets=("q_proj",), groups=("audio_branch",))
    assert set(adapted_layers(branch, shapes, group_of)) == {"model.mimo_layers.0.self_attn.q_proj"}


@pytest.mark.parametrize(
    ("section", "words", "hint"),
    [
        ({"targets": ["q_prj"]}, "no linear layer of trunk is named `q_prj`", "did you mean `q_proj`?"),
        ({"targets": ["lm_head"]}, "no linear layer of trunk is named `lm_head`", "there are: down_proj"),
        ({"groups": ["trunk", "encoder"]}, "this model has no encoder", "it has audio_branch"),
        ({"also_train": ["mtp"]}, "this model has no mtp", "remove mtp"),
    ],
)
def test_what_selects_nothing_is_an_error(tmp_path: Path, section: dict[str, Any], words: str, hint: str) -> None:
    kimi = small_kimi(tmp_path)
    with pytest.raises(PreflightError, match=words) as caught:
        adapted_layers(AdapterSection.model_validate(section), kimi.parameter_shapes(), kimi.parameter_group)
    assert hint in caught.value.hint


def test_the_usual_size_of_an_adapter() -> None:
    """Rank 16 on all layers of a 7B trunk, by hand."""
    sizes = {"self_attn.q_proj": (3584, 3584), "self_attn.k_proj": (512, 3584), "self_attn.v_proj": (512, 3584)}
    sizes |= {"self_attn.o_proj": (3584, 3584), "mlp.gate_proj": (18944, 3584), "mlp.up_proj": (18944, 3584)}
    sizes |= {"mlp.down_proj": (3584, 18944)}
    shapes = {f"layers.{i}.{name}.weight": shape for i in range(28) for name, shape in sizes.items()}
    layers = adapted_layers(AdapterSection(), shapes, lambda name: "trunk")
    by_hand = 28 * 16 * (2 * (3584 + 3584) + 2 * (512 + 3584) + 3 * (18944 + 3584))
    assert sum(16 * (outputs + inputs) for outputs, inputs in layers.values()) == by_hand == 40_370_176
