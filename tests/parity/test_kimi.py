"""Ours against the original Kimi-Audio code: logits of both heads, with Whisper features, and greedy generation.

The original leaves the text embedding out of a cached step whose text ids sum to 0, and so of every step behind text id
0, though it takes that id like any other in one pass over the same tokens. Ours never does. The comparison does it in
the original's place, so that recordings count however long they are.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.conftest import GoldenPair
from wavalign.plugins.architectures.kimi_audio.feature_positions import BatchFeatures
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


def leave_out_text_0(policy: KimiPolicy) -> None:
    """Let single steps of `policy` be embedded as the original embeds them."""
    embed = policy.model.embed

    def as_the_original(ids: Tensor, heard: BatchFeatures | None) -> Tensor:
        states, words = embed(ids, heard), ids[:, TEXT]
        if ids.shape[2] > 1:
            return states
        return torch.where((words.sum(dim=1) == 0)[:, None, None], states - policy.model.embed_tokens(words), states)

    policy.model.embed = as_the_original  # type: ignore[method-assign]


def follow(policy: KimiPolicy, ids: Tensor, start: int, steps: int, sounds: tuple[SoundSegment, ...]) -> int:
    """How many of `steps` greedy tokens behind the first `start` of `ids` [2, T] are those of `ids`.

    Beside this prompt a shorter one is decoded, so that padding is in play.
    """
    roles = torch.full_like(ids, int(Role.PROMPT), dtype=torch.int8)
    prompts = [
        TokenSequence(ids[:, :length], roles[:, :length], sounds=heard) for length, heard in ((2, ()), (start, sounds))
    ]
    with torch.inference_mode():
        state = policy.decode(prompts, group_size=2, need="all")
        for step in range(steps):
            hidden, forced = state.hidden(), state.forced()
            best = [(hidden[:, s] @ policy.head_weight(s).T).argmax(dim=-1) for s in (TEXT, AUDIO)]
            chosen = torch.where(forced < 0, torch.stack(best, dim=1), forced)
            assert bool((forced[2:, AUDIO] >= 0).all()) == (step < policy.layout.delay)
            if not chosen[2].tolist() == chosen[3].tolist() == ids[:, start + step].tolist():
                return step
            state.append(chosen)
    return steps


def test_greedy_tokens_are_the_originals(pairs: list[GoldenPair]) -> None:
    for pair in pairs:
        policy, ids, start = load(pair), ids_of(pair)[0], pair.settings["prompt_length"]
        leave_out_text_0(policy)
        assert (
            follow(policy, ids, start, pair.settings["greedy_steps"], sounds_of(pair)) == pair.settings["greedy_steps"]
        )


def as_long_as(pair: GoldenPair, policy: KimiPolicy, steps: int) -> Tensor:
    """Ids [2, T] of the original's greedy answer, `steps` long, each step a whole pass embedded as it embeds them."""
    start, embed = pair.settings["prompt_length"], policy.model.embed
    ids, sounds = ids_of(pair)[0, :, :start], sounds_of(pair)

    def cached(row: Tensor, heard: BatchFeatures | None) -> Tensor:
        states, words = embed(row, heard), row[:, TEXT]
        left_out = (words == 0) & (torch.arange(words.shape[1]) >= start)
        result: Tensor = states - policy.model.embed_tokens(words) * left_out[:, :, None]
        return result

    policy.model.embed = cached  # type: ignore[method-assign, assignment]
    blank, small = policy.layout.blank, torch.zeros(1, 2, 1, dtype=torch.int8)
    for step in range(steps):
        batch = TokenBatch(
            ids[None], small.expand(1, 2, ids.shape[1]), small.expand(1, 2, ids.shape[1]),
            torch.tensor([ids.shape[1]]), (sounds,),
        )  # fmt: skip
        with torch.no_grad():
            states = policy.hidden(batch, frozenset({TEXT, AUDIO}))
        best = [int((states[s][0, -1] @ policy.head_weight(s).T).argmax()) for s in (TEXT, AUDIO)]
        ids = torch.cat([ids, torch.tensor([[best[0]], [blank if step < policy.layout.delay else best[1]]])], dim=1)
    policy.model.embed = embed  # type: ignore[method-assign]
    return ids


def test_an_answer_is_followed_beyond_text_id_0_as_the_original_goes_on(pairs: list[GoldenPair]) -> None:
    """The head is made to choose text id 0, where it chose the first recorded id."""
    for pair in pairs:
        policy, steps = load(pair), 40
        with torch.no_grad():
            policy.lm_head.weight[0] = (
                1.5 * policy.lm_head.weight[ids_of(pair)[0, TEXT, pair.settings["prompt_length"]]]
            )
        ids, start = as_long_as(pair, policy, steps), pair.settings["prompt_length"]
        said = ids[TEXT, start:].tolist()
        assert 0 in said[:-1] and any(said[said.index(0) :]), "the answer goes on behind text id 0"
        never = iter(set(range(policy.sizes.vocabulary_size)) - set(ids.flatten().tolist()))
        policy.layout = replace(policy.layout, text_end=next(never), message_end=next(never), media_end=next(never))
        assert follow(policy, ids, start, steps, sounds_of(pair)) < steps, "ours takes id 0 like any other"
        leave_out_text_0(policy)
        assert follow(policy, ids, start, steps, sounds_of(pair)) == steps
