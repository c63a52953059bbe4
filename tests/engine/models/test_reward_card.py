"""Which reward models can read what a policy writes."""

import pytest

from wavalign.engine.models.reward_card import CodecIdentity, TokenIdentity, codec_problem, token_problem

OURS = TokenIdentity(vocabulary_size=48, pad=0, streams=("mix",), num_codes=4, frame_codes=None, texts="aa")
CODEC = CodecIdentity(type="source_filter", fingerprint="1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"streams": ("text", "audio")}, "has the streams text, audio, and the policy mix"),
        ({"vocabulary_size": 50}, "knows 50 ids, and the policy 48"),
        ({"num_codes": 8}, "knows 8 codes, and the policy 4"),
        ({"frame_codes": 1}, "knows 1 ids of every frame, and the policy all"),
        ({"pad": 3}, "has another tokenizer than the policy"),
        ({"texts": "bb"}, "has another tokenizer than the policy"),
    ],
)
def test_tokens(change: dict[str, object], message: str) -> None:
    found = token_problem(OURS.model_copy(update=change), OURS)
    assert found.startswith(message) and bool(found) == bool(message)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (CODEC, ""),
        (None, ""),
        (
            CodecIdentity(type="glm4voice", fingerprint="1"),
            "codec glm4voice, and the policy speaks in those of",
        ),
        (CodecIdentity(type="source_filter", fingerprint="2"), "another codec source_filter than the policy's"),
    ],
)
def test_codecs(theirs: CodecIdentity | None, message: str) -> None:
    """One that learned without a codec cannot be held against one."""
    found = codec_problem(theirs, CODEC)
    assert message in found and bool(found) == bool(message)
    assert codec_problem(theirs, None) == ""
