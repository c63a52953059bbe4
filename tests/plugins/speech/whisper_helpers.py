"""A small Whisper checkpoint with random weights, for tests."""

from pathlib import Path

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from wavalign.storage.tensors import save_weights

WIDTH, MELS, SECONDS = 8, 16, 2


def write_whisper(folder: Path) -> str:
    """Write a checkpoint of 2 + 1 layers that hears chunks of 2 s, in the public layout; gives its folder."""
    config = WhisperConfig(
        vocab_size=20,
        num_mel_bins=MELS,
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=50 * SECONDS,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = WhisperForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.3)
    config.save_pretrained(str(folder))
    state = {**model.state_dict(), "proj_out.weight": model.proj_out.weight.clone()}
    save_weights(state, str(folder))
    return str(folder)
