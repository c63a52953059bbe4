"""Small codec language models over a word-level vocabulary, for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.plugins.architectures.vita_helpers import write_tokenizer
from wavalign.plugins.api import ModelSource
from wavalign.plugins.architectures.codec_language_model.policy import CodecLmPolicy
from wavalign.plugins.architectures.codec_lm import CodecLm, CodecLmParams
from wavalign.plugins.batch import AudioClip, Dialogue, Message

NUM_CODES = 16
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "num_codes": NUM_CODES,
}


def small_codec_lm(folder: Path, **changes: Any) -> CodecLm:
    """A 2-layer architecture; `changes` are Params fields."""
    params = CodecLmParams(**{**SMALL, **changes})
    return CodecLm(params, source=ModelSource(None, "tiny", write_tokenizer(folder)))


def lively_policy(architecture: CodecLm, *, seed: int = 0, scale: float = 8.0) -> CodecLmPolicy:
    """Random weights large enough that the distributions are far from uniform."""
    policy = architecture.build_policy(seed=seed)
    assert isinstance(policy, CodecLmPolicy)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return policy.eval()


def target(text: str, codes: Sequence[int], *asked: Message) -> Dialogue:
    """A dialogue with an answer; no codes, no sound."""
    clip = AudioClip(",".join(map(str, codes))) if codes else None
    return Dialogue("d", asked or (Message("user", "w1"),), Message("assistant", text, clip))


def picture(model: CodecLm, ids: Tensor) -> list[str]:
    """Every stream of `ids` [S, T] in short names: B blank, ^ and $ the marks of speech, codes as numbers."""
    layout = model.vocabulary.layout
    short = {layout.begin_speech: "^", layout.end_speech: "$"}
    if len(layout.delays) > 1:
        short[layout.blank] = "B"

    def name(x: int) -> str:
        if layout.first_code <= x < layout.first_code + layout.num_codes:
            return str(x - layout.first_code)
        return short.get(x) or str(model.vocabulary.tokenizer.convert_ids_to_tokens(x)).replace("\n", "/")

    return [" ".join(map(name, row)) for row in ids.tolist()]
