"""Ours against the original VITA-Audio code: logits, training loss with MTP terms, greedy generation in every mode."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.conftest import GoldenPair
from wavalign.plugins.architectures.vita_audio.decoding import DecodingPlan
from wavalign.plugins.architectures.vita_audio.layout import VitaLayout
from wavalign.plugins.architectures.vita_audio.policy import VitaPolicy
from wavalign.plugins.architectures.vita_audio.sizes import sizes_of_config
from wavalign.plugins.batch import Role, TokenBatch, TokenSequence

# Where the control ids lie does not matter to the network.
LAYOUT = VitaLayout(0, 1, 2, 3, first_code=4, num_codes=4, ratio=(1, 10, 4, 10))


def load(pair: GoldenPair, decoding: tuple[int, ...]) -> VitaPolicy:
    """The recorded model, with every recorded tensor in its place."""
    config = {"tie_word_embeddings": False, **pair.settings["config"]}
    policy = VitaPolicy(sizes_of_config(config, "recording"), DecodingPlan(LAYOUT, decoding))
    weights = {name.removeprefix("weights."): x for name, x in pair.tensors.items() if name.startswith("weights.")}
    policy.load_state_dict(weights)
    return policy.eval()


def row(ids: Tensor) -> TokenSequence:
    return TokenSequence(ids, torch.full_like(ids, int(Role.PROMPT), dtype=torch.int8))


def batch(ids: Tensor) -> TokenBatch:
    """Recorded ids [B, T] as a batch."""
    small = torch.zeros_like(ids, dtype=torch.int8)[:, None]
    return TokenBatch(ids[:, None], small, small, torch.full((len(ids),), ids.shape[1]))


def test_there_is_a_recording(golden_pairs: Callable[[str], list[GoldenPair]]) -> None:
    assert golden_pairs("vita_")


def test_main_logits_are_the_originals(vita_pair: GoldenPair) -> None:
    pair, policy = vita_pair, load(vita_pair, (8192, 0))
    with torch.no_grad():
        logits = policy.hidden(batch(pair.tensors["train_ids"]), frozenset({0}))[0] @ policy.head_weight(0).T
    torch.testing.assert_close(logits, pair.tensors["train_main_logits"], atol=1e-5, rtol=0)


def test_training_loss_with_mtp_terms_is_the_originals(vita_pair: GoldenPair) -> None:
    pair, policy = vita_pair, load(vita_pair, (8192, 0))
    labels = pair.tensors["train_labels"]
    modules, weight = policy.sizes.num_mtp_layers, pair.settings["config"]["mtp_loss_weight"]
    with torch.no_grad():
        states = policy.hidden(batch(pair.tensors["train_ids"]), frozenset(range(modules + 1)))
        terms = []
        for head, hidden in states.items():
            logits = (hidden @ policy.head_weight(head).T)[:, : labels.shape[1] - head - 1]
            terms.append(functional.cross_entropy(logits.flatten(0, 1), labels[:, head + 1 :].flatten()))
    loss = terms[0] + weight / modules * sum(terms[1:])
    assert float(loss) == pytest.approx(float(pair.tensors["train_loss"]), abs=1e-5)


def test_greedy_tokens_are_the_originals_in_every_mode(vita_pair: GoldenPair) -> None:
    """Beside the recorded prompt a shorter one is decoded, so that padding is in play."""
    pair, prompt = vita_pair, vita_pair.tensors["prompt_ids"]
    modes: list[Any] = pair.settings["greedy_modes"]
    assert modes
    for mode, decoding in enumerate(modes):
        policy = load(pair, tuple(decoding))
        expected = pair.tensors[f"greedy.{mode}"][0, prompt.shape[1] :].tolist()
        with torch.inference_mode():
            state = policy.decode([row(prompt[:, :5]), row(prompt)], group_size=2, need="all")
            found = []
            for _ in expected:
                ids = (state.hidden() @ policy.head_weight(0).T).argmax(dim=-1)
                state.append(ids)
                found.append(ids[:, 0].tolist())
        assert [step[2] for step in found] == expected, decoding
        assert [step[3] for step in found] == expected, decoding
