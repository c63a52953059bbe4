"""Ours against the original Kimi-Audio code: logits of both heads, with Whisper features, and greedy generation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.conftest import GoldenPair
from wavalign.plugins.architectures.kimi_audio.layout import AUDIO, TEXT, KimiLayout
from wavalign.plugins.architectures.kimi_audio.policy import KimiPolicy
from wavalign.plugins.architectures.kimi_audio.sizes import KimiSizes, sizes_of_config
from wavalign.plugins.batch import Role, SoundSegment, TokenBatch, TokenSequence

TOLERANCE = 1e-5


def layout_of(pair: GoldenPair, sizes: KimiSizes) -> KimiLayout:
    """The recorded control ids; the recording let no end stop it, so ends are ids that it never chose."""
    tokens, chosen = pair.settings["tokens"], set(pair.tensors["audio_ids"].flatten().tolist())
    chosen |= set(pair.tensors["text_ids"].flatten().tolist())
    never, other = (x for x in list(range(sizes.vocabulary_size - 1, -1, -1)) if x not in chosen), sizes.vocabulary_size
    return KimiLayout(
        blank=tokens["text_blank"],
        text_end=next(never),
        message_end=next(never),
        user_start=tokens["user_start"],
        assistant_start=tokens["assistant_start"],
        media_begin=tokens["media_begin"],
        media_end=next(never),
        text_wanted=other,
        speech_wanted=tokens["ctd"],
        first_code=sizes.first_code,
        num_codes=sizes.num_codes,
        delay=sizes.audio_delay,
    )


def load(pair: GoldenPair) -> KimiPolicy:
    """The recorded model, with every recorded tensor in its place."""
    sizes = sizes_of_config(pair.settings["config"], "recording")
    policy = KimiPolicy(sizes, layout_of(pair, sizes)).double()
    weights = {name.removeprefix("weights."): x for name, x in pair.tensors.items() if name.startswith("weights.")}
    policy.load_state_dict(weights)
    return policy.eval()


def ids_of(pair: GoldenPair) -> Tensor:
    """Recorded ids [B, 2, T]."""
    return torch.stack([pair.tensors["text_ids"], pair.tensors["audio_ids"]], dim=1)


def sounds_of(pair: GoldenPair) -> tuple[SoundSegment, ...]:
    """What is heard in the recorded row."""
    places = pair.tensors["is_continuous"][0].nonzero().flatten()
    start, length = int(places[0]), len(places)
    assert places.tolist() == list(range(start, start + length)), "the recording holds one message"
    return (SoundSegment(start, length, pair.tensors["whisper_features"].flatten(0, -2)),)


def logits_of(policy: KimiPolicy, pair: GoldenPair, sounds: tuple[SoundSegment, ...]) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] of the text head and of the audio head."""
    ids = ids_of(pair)
    small = torch.zeros_like(ids, dtype=torch.int8)
    batch = TokenBatch(ids, small, small, torch.full((len(ids),), ids.shape[2]), (sounds,))
    with torch.no_grad():
        states = policy.hidden(batch, frozenset({TEXT, AUDIO}))
        return states[TEXT] @ policy.head_weight(TEXT).T, states[AUDIO] @ policy.head_weight(AUDIO).T


@pytest.fixture
def pairs(golden_pairs: Callable[[str], list[GoldenPair]]) -> list[GoldenPair]:
    return golden_pairs("kimi_")


def test_logits_of_both_heads_are_the_originals(pairs: list[GoldenPair]) -> None:
    for pair in pairs:
        text, audio = logits_of(load(pair), pair, sounds_of(pair))
        torch.testing.assert_close(text, pair.tensors["text_logits"].double(), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(audio, pair.tensors["audio_logits"].double(), atol=TOLERANCE, rtol=0)


def test_the_text_head_is_lm_head_and_the_features_are_heard(pairs: list[GoldenPair]) -> None:
    """The comparison above would notice swapped heads and unheard features."""
    for pair in pairs:
        policy, expected = load(pair), pair.tensors["text_logits"].double()
        unheard, _ = logits_of(policy, pair, ())
        assert float((unheard - expected).abs().max()) > 100 * TOLERANCE
        policy.lm_head, policy.mimo_output = policy.mimo_output, policy.lm_head
        swapped, _ = logits_of(policy, pair, sounds_of(pair))
        assert float((swapped - expected).abs().max()) > 100 * TOLERANCE


def test_the_delay_is_the_recorded_config(pairs: list[GoldenPair]) -> None:
    for pair in pairs:
        assert load(pair).layout.delay == pair.settings["audio_delay"]


def test_greedy_tokens_are_the_originals(pairs: list[GoldenPair]) -> None:
    """Beside the recorded prompt a shorter one is decoded, so that padding is in play."""
    for pair in pairs:
        policy, ids, start = load(pair), ids_of(pair)[0], pair.settings["prompt_length"]
        roles = torch.full_like(ids, int(Role.PROMPT), dtype=torch.int8)
        prompts = [
            TokenSequence(ids[:, :length], roles[:, :length], sounds=sounds)
            for length, sounds in ((2, ()), (start, sounds_of(pair)))
        ]
        with torch.inference_mode():
            state = policy.decode(prompts, group_size=2, need="all")
            for step in range(pair.settings["greedy_steps"]):
                hidden, forced = state.hidden(), state.forced()
                best = [(hidden[:, s] @ policy.head_weight(s).T).argmax(dim=-1) for s in (TEXT, AUDIO)]
                chosen = torch.where(forced < 0, torch.stack(best, dim=1), forced)
                assert bool((forced[2:, AUDIO] >= 0).all()) == (step < pair.settings["audio_delay"])
                assert chosen[2].tolist() == chosen[3].tolist() == ids[:, start + step].tolist()
                state.append(chosen)
