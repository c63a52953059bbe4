"""What a dry run finds about a codec that was given no decoder."""

from pathlib import Path

from tests.engine.compile.test_preflight import at, look
from tests.plugins.codecs.makers import write_vq
from tests.toy.compiled import put


def test_what_listens_wants_a_codec_that_can_decode(tmp_path: Path) -> None:
    """A codec may come without its decoder; then a reward or a metric that listens is a finding before the run."""
    codec = put("model.codec", {"type": "glm4voice", "checkpoint": write_vq(tmp_path / "tokenizer")})
    listening, places = put("rewards.loud", {"type": "toy_loudness"}), put("model.architecture.num_codes", 48)
    assert look(tmp_path, codec, places).errors == ()
    finding = at(look(tmp_path, codec, places, listening), "prompts as tokens")
    assert finding.level == "error"
    assert "reward `loud` must hear the answers, and codec glm4voice was given no decoder" in finding.message
    assert "wavalign plugins show codec.glm4voice" in finding.hint
    measured = put("evaluation.metrics.whole", {"type": "well_formed"})
    assert "metric `whole`" in at(look(tmp_path, codec, places, measured), "prompts as tokens").message


def test_a_codec_with_more_ids_than_the_model_has_places_for(tmp_path: Path) -> None:
    """Fewer are no error: the model may know code books that are not used."""
    codec = put("model.codec", {"type": "glm4voice", "checkpoint": write_vq(tmp_path / "tokenizer")})
    finding = at(look(tmp_path, codec, put("model.architecture.num_codes", 47)), "prompts as tokens")
    assert finding.level == "error"
    assert finding.message == "the codec has 48 ids, and the model has a place for 47"
    assert "model.architecture.num_codes: 48" in finding.hint
    assert look(tmp_path, codec, put("model.architecture.num_codes", 49)).errors == ()


def test_a_stage_that_writes_sound_wants_a_codec_that_can_decode(tmp_path: Path) -> None:
    codec = put("model.codec", {"type": "glm4voice", "checkpoint": write_vq(tmp_path / "tokenizer")})
    places = put("model.architecture.num_codes", 48)
    stages = put("stages", [{"name": "sample", "type": "generate"}])
    finding = at(look(tmp_path, codec, places, stages), "prompts as tokens")
    assert finding.level == "error"
    assert finding.message == "stage sample writes the sound of its answers, and codec glm4voice was given no decoder"
