"""What a dry run finds about a codec that was given no decoder."""

from pathlib import Path

from tests.codecs.makers import write_vq
from tests.engine.compile.test_preflight import at, look
from tests.toy.compiled import put


def test_what_listens_wants_a_codec_that_can_decode(tmp_path: Path) -> None:
    """A codec may come without its decoder; then a reward or a metric that listens is a finding before the run."""
    codec = put("model.codec", {"type": "glm4voice", "checkpoint": write_vq(tmp_path / "tokenizer")})
    listening = put("rewards.loud", {"type": "toy_loudness"})
    assert look(tmp_path, codec).errors == ()
    finding = at(look(tmp_path, codec, listening), "prompts as tokens")
    assert finding.level == "error"
    assert "reward `loud` must hear the answers, and codec glm4voice was given no decoder" in finding.message
    assert "wavalign plugins show codec.glm4voice" in finding.hint
    measured = put("evaluation.metrics.whole", {"type": "well_formed"})
    assert "metric `whole`" in at(look(tmp_path, codec, measured), "prompts as tokens").message
