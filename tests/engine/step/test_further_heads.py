"""Training of multi-token-prediction heads: the original's loss, the positions that count, and who learns."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import GoldenPair
from tests.parity.test_vita import batch, load
from tests.toy.compiled import compiled, problems, put
from tests.toy.live import live_stage, train
from wavalign.engine.models.scored_policy import score_batch
from wavalign.engine.step.batches import MicroBatch
from wavalign.engine.step.further_heads import further_heads, spread, with_further_heads
from wavalign.errors import RecipeError
from wavalign.plugins.batch import HeadSpec, TokenSpace

MTP = (
    put("model.architecture.num_mtp_layers", 2),
    put("objective.terms.mtp", {"loss": "cross_entropy", "heads": "mtp", "weight": 0.5}),
)


def space_of(modules: int, vocabulary: int) -> TokenSpace:
    heads = (HeadSpec("main", 0), *(HeadSpec(f"mtp{k}", 0, k + 2) for k in range(modules)))
    return TokenSpace(vocabulary, 0, ("mix",), heads, 4)


def test_the_loss_is_the_originals(golden_pairs: Callable[[str], list[GoldenPair]]) -> None:
    """Main term plus weight times the mean over heads, as the original code computes them."""
    for pair in golden_pairs("vita_"):
        policy, labels = load(pair, (8192, 0)), pair.tensors["train_labels"]
        space = space_of(policy.sizes.num_mtp_layers, policy.sizes.vocabulary_size)
        heads, tokens = further_heads(space), batch(pair.tensors["train_ids"])
        ones = torch.ones(len(labels), 1)
        plain = MicroBatch(0, (), tokens, None, ones, torch.zeros(len(labels), dtype=torch.bool))
        wide = with_further_heads(plain, space, heads)
        scored = (labels != -100)[:, None].float()
        scored[:, :, 0] = 0  # nothing predicts the first token
        total = torch.zeros(())
        for further, weight in ((False, 1.0), (True, pair.settings["config"]["mtp_loss_weight"])):
            weights = spread(scored, space, heads, further=further)
            with torch.no_grad():
                logprobs = score_batch(policy, wide.tokens, weights > 0, space, temperature=wide.temperature)
            means = [-(logprobs[:, s] * w).sum() / w.sum() for s, w in enumerate(weights.unbind(1)) if w.any()]
            total += weight * torch.stack(means).mean()
        assert float(total) == pytest.approx(float(pair.tensors["train_loss"]), abs=1e-5)


def test_a_head_has_no_weight_where_it_cannot_predict() -> None:
    space = space_of(2, 9)
    weights = spread(torch.ones(1, 1, 5), space, (1, 2), further=True)
    assert weights.tolist() == [[[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]]
    assert spread(torch.ones(1, 1, 5), space, (1, 2), further=False).tolist() == [[[1] * 5, [0] * 5, [0] * 5]]


def test_modules_learn_by_the_term_alone(tmp_path: Path) -> None:
    """Without it no gradient reaches them; with it all of them move, however the step is cut."""
    still = compiled(tmp_path, MTP[0])
    before = {name: x.detach().clone() for name, x in live_stage(still).backend.policy.named_parameters()}
    _, without = train(still, steps=1)
    lines, whole = train(compiled(tmp_path, *MTP), steps=1)
    _, cut = train(compiled(tmp_path, *MTP, put("batch.micro_batch", 1)), steps=1)
    modules = [name for name in before if name.startswith("mtp_")]
    assert modules
    for name in modules:
        torch.testing.assert_close(without[name], before[name], rtol=0, atol=0)
        assert not torch.equal(whole[name], before[name])
    for name, weights in whole.items():
        torch.testing.assert_close(cut[name], weights, rtol=0, atol=1e-5, msg=name)
    assert lines[0]["loss/mtp"] > 0
    assert lines[0]["tokens/mtp"] == 2 * lines[0]["tokens/sft"]


def test_a_family_without_such_heads_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        live_stage(compiled(tmp_path, MTP[1]))
    assert "no multi-token-prediction heads" in caught.value.problems[0].message


def test_rollouts_are_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, MTP[0], put("objective.terms.rl.heads", "mtp"))
    assert "asks for heads: mtp" in problem.message
