"""Our parts, set as the WavAlign research code is set, against what that code computed.

The setting: no clip, per-sequence means, population deviation with 1e-4, marks counted as audio, k3 divergence inside
the term's own tokens. Agreement to 1e-9 in losses, gradients and gate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.conftest import GoldenPair
from tests.engine.step.test_objective import spec as term
from tests.loss_inputs import loss_inputs
from wavalign.engine.models.scored_policy import selected_logprobs
from wavalign.engine.step.objective import combine, count, term_loss
from wavalign.plugins.advantages.group_normalized import GroupNormalized, GroupNormalizedParams
from wavalign.plugins.api import AdvantageInputs
from wavalign.plugins.batch import Role
from wavalign.plugins.gates.rollout_adaptive import RolloutAdaptive, RolloutAdaptiveParams
from wavalign.plugins.losses.cross_entropy import CrossEntropy, CrossEntropyParams
from wavalign.plugins.losses.grpo import GRPO, GRPOParams
from wavalign.plugins.losses.kl import KL, KLParams
from wavalign.plugins.masks.roles import Roles, RolesParams

TOKENS = {
    "text": RolesParams(text=1),
    "speech": RolesParams(audio=1, marks=1),
    "all": RolesParams(text=1, audio=1, marks=1),
}


@dataclass(frozen=True)
class Case:
    """One recorded step."""

    settings: dict[str, Any]
    case: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def rewards(self) -> Tensor:
        """[P, G], rounded as that code rounds them: it holds rewards, and nothing else here, in single precision."""
        return self.tensors["rewards"].float().double()


def cases(pairs: list[GoldenPair]) -> Iterator[Case]:
    for pair in pairs:
        for number, case in enumerate(pair.settings["cases"]):
            prefix = f"case{number}."
            tensors = {
                name.removeprefix(prefix): value for name, value in pair.tensors.items() if name.startswith(prefix)
            }
            yield Case(pair.settings, case, tensors)


def roles(case: Case) -> Tensor:
    """Roles [B, 1, T] of the recorded completions."""
    ids, settings = case.tensors["completion_ids"], case.settings
    out = torch.full_like(ids, int(Role.TEXT))
    out[ids >= settings["first_audio_id"]] = int(Role.AUDIO)
    out[(ids == settings["begin_of_audio"]) | (ids == settings["end_of_audio"])] = int(Role.AUDIO_MARK)
    out[case.tensors["completion_mask"] == 0] = int(Role.PAD)
    return out[:, None]


def rl_loss(case: Case, logprobs: Tensor) -> Tensor:
    """The rollout terms: the policy loss and the pull it brings along."""
    coefficient = case.case["text_beta"]
    assert coefficient == case.case["speech_beta"]
    loss = GRPO(GRPOParams.model_validate({"clip": None, "kl": {"coefficient": coefficient, "estimator": "k3"}}))
    found = GroupNormalized(GroupNormalizedParams()).compute(AdvantageInputs(case.rewards))
    advantages, valid = found.values, found.valid
    inputs = loss_inputs(
        logprobs,
        old_logprobs=logprobs.detach(),  # for the log alone: that code takes one step per batch and no ratio
        ref_logprobs=case.tensors["ref_logprobs"][:, None],
        advantages=advantages.view(-1, 1, 1),
    )
    weights = Roles(TOKENS[case.case["rl_tokens"]]).weights(roles(case))
    denominators = count(weights, valid.view(-1))
    specs, values = [term("sequence", "rl")], {"rl": loss.compute(inputs).values}
    for pull in loss.regularizers():
        specs.append(term("sequence", pull.name, weight=pull.weight))
        values[pull.name] = KL(KLParams.model_validate(pull.params)).compute(inputs).values
    losses = {
        spec.name: term_loss(
            spec, values[spec.name], weights=weights, row_valid=valid.view(-1), denominators=denominators
        )
        for spec in specs
    }
    return combine(losses, specs, gate=None, backend_divisor=1)


def agree(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_rollout_loss_and_gradient(golden_pairs: Callable[[str], list[GoldenPair]]) -> None:
    for case in cases(golden_pairs("research_hybrid_")):
        logprobs = case.tensors["logprobs"].clone().requires_grad_()
        loss = rl_loss(case, logprobs[:, None])
        agree(loss.detach(), case.tensors["rl_loss"][0])
        (gradient,) = torch.autograd.grad(loss, logprobs)
        agree(gradient, case.tensors["rl_grad_logprobs"])


def test_demonstration_loss_and_gradient(golden_pairs: Callable[[str], list[GoldenPair]]) -> None:
    """The recorded logits go through the fused primitive: hidden states of width V and the identity as a head."""
    for case in cases(golden_pairs("research_hybrid_")):
        logits = case.tensors["sft_logits"].clone().requires_grad_()
        labels = case.tensors["sft_labels"]
        select = labels != -100
        select[:, 0] = False  # nothing stands before the first position
        b, t = select.nonzero(as_tuple=True)
        scores, _ = selected_logprobs(logits[b, t - 1], torch.eye(logits.shape[-1], dtype=logits.dtype), labels[b, t])
        logprobs = torch.zeros(labels.shape, dtype=logits.dtype).masked_scatter(select, scores)
        weights, valid = select[:, None].double(), torch.ones(len(labels), dtype=torch.bool)
        values = CrossEntropy(CrossEntropyParams()).compute(loss_inputs(logprobs[:, None])).values
        spec = term("sequence", "sft", family="demonstrations")
        denominators = count(weights, valid)
        loss = term_loss(spec, values, weights=weights, row_valid=valid, denominators=denominators)
        agree(loss.detach(), case.tensors["sft_loss"][0])
        (gradient,) = torch.autograd.grad(loss, logits)
        agree(gradient, case.tensors["sft_grad_logits"])


def test_gate(golden_pairs: Callable[[str], list[GoldenPair]]) -> None:
    for case in cases(golden_pairs("research_hybrid_")):
        setting = case.settings["gate"]
        gate = RolloutAdaptive(
            RolloutAdaptiveParams(
                ceiling=setting["lambda_max"],
                ema=setting["ema"],
                slope=setting["slope"],
                threshold=setting["threshold"],
            )
        )
        gate.load_state_dict({"previous": case.case["lambda_previous"]})
        reading = gate.update(case.rewards, progress=0.0)
        agree(torch.tensor([reading.value], dtype=torch.float64), case.tensors["lambda"])
