"""What a network stores and does not use is trained by nobody, whatever a recipe thaws."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy.compiled import compiled, put
from tests.toy.live import silent
from wavalign.engine.run.builder import Builder
from wavalign.engine.state.distributed import World
from wavalign.plugins.api import Policy

UNUSED = ("model.audio_model.model.ctc.ctc_lo.weight", "model.audio_model.model.ctc.ctc_lo.bias")
ADAPTER = {"type": "lora", "rank": 2, "alpha": 4, "also_train": ["encoder"]}


def policy_of(folder: Path, **model: Any) -> Policy:
    plan = compiled(
        folder,
        put("model.preset", "tiny-plus"),
        put("model.architecture", {"type": "vita", "num_codes": 4}),
        *(put(f"model.{name}", value) for name, value in model.items()),
    )
    builder = Builder(plan, World.single("cpu"), silent)
    stage = plan.stages[0]
    return builder.policy(stage, builder.architecture(stage, None))


def trained(policy: Policy) -> set[str]:
    return {name for name, parameter in policy.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("thawed", [{"freeze": []}, {"adapter": ADAPTER}])
def test_the_recognisers_head_of_a_thawed_encoder_stays_frozen(tmp_path: Path, thawed: dict[str, Any]) -> None:
    policy = policy_of(tmp_path, **thawed)
    encoder = {name for name, _ in policy.named_parameters() if name.startswith("model.audio_model.")}
    assert encoder - trained(policy) == set(UNUSED)


def test_weight_decay_does_not_shrink_it(tmp_path: Path) -> None:
    """Even with gradients of zero, as a backend gives that adds them up over ranks."""
    policy = policy_of(tmp_path, freeze=[])
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    chosen = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for parameter in chosen:
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(chosen, lr=0.1, weight_decay=0.1).step()
    kept = {name for name, parameter in policy.named_parameters() if torch.equal(parameter, before[name])}
    assert set(UNUSED) <= kept
    assert "model.audio_model.model.embed.weight" not in kept
