"""A model that writes the first id of every frame is heard through a NAR that writes the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.architectures.vita_helpers import write_tokenizer
from tests.plugins.spoken import say
from tests.toy.compiled import HERE, compiled, put
from tests.toy.live import live_stage, silent
from tests.toy.nar import TableNar, TableParams, fit_table
from wavalign.engine.compile.plan import Plan
from wavalign.engine.compile.preflight import preflight
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.preflight_tools import PreflightTools
from wavalign.engine.state.distributed import World
from wavalign.engine.step.rollouts import Roller
from wavalign.errors import PluginError, PreflightError, RecipeError
from wavalign.plugins import audio
from wavalign.plugins.batch import AudioClip, Dialogue, Message
from wavalign.plugins.codecs.source_filter import SourceFilterCodec, SourceFilterParams
from wavalign.plugins.speech.recognizer import recognizer
from wavalign.plugins.speech.world.facts import answer_sentences

ROOT = Path(__file__).parents[3]
CODEC = ROOT / "recipes/base/spoken-world/codec.safetensors"
NAR_FILE = ROOT / "tests/toy/nar.py"
ARCHITECTURE = {"type": "codec_lm", "template": "speechalign", "codes_per_frame": 2, "codebooks": 1, "num_codes": 512}
SENTENCE = "it is twelve"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table fitted on sentences that hold no word of the one that is tried."""
    codec = SourceFilterCodec(SourceFilterParams(checkpoint=str(CODEC)))
    path = tmp_path_factory.mktemp("nar") / "table.safetensors"
    sentences = [sentence for sentence in answer_sentences() if "twelve" not in sentence]
    fit_table([codec.encode(say(sentence)) for sentence in sentences], 512, path)
    return path


def plan_of(folder: Path, table: Path, **changes: Any) -> Plan:
    nar = {"type": "toy_table", "checkpoint": str(table)}
    model = {
        "model.architecture": {**ARCHITECTURE, **changes.pop("architecture", {})},
        "model.tokenizer": write_tokenizer(folder),
        "model.codec": {"type": "source_filter", "checkpoint": str(CODEC)},
        "model.nar": changes.pop("nar", nar),
        "plugins": [str(ROOT / "tests/toy/plugins.py"), str(NAR_FILE)],
    }
    return compiled(folder, *(put(name, value) for name, value in model.items() if value is not None))


def roller_of(plan: Plan) -> Roller:
    live = live_stage(plan)
    live.close()
    return live.roller


def builder_of(plan: Plan) -> Builder:
    return Builder(plan, World.single("cpu"), silent)


def spoken(folder: Path, **metadata: str) -> Dialogue:
    path = folder / "said.wav"
    audio.write(say(SENTENCE), str(path))
    target = Message("assistant", "", AudioClip(str(path)))
    return Dialogue("d", (Message("user", "w1"),), target, metadata)


def test_the_golden_answer_is_heard_through_the_nar(tmp_path: Path, table: Path) -> None:
    roller, dialogue = roller_of(plan_of(tmp_path, table)), spoken(tmp_path)
    assert roller.codec is not None and roller.nar is not None
    whole = roller.codec.encode(say(SENTENCE))
    (group,) = roller.with_sound(roller.gold([dialogue]))
    rollout = group.rollouts[0]
    assert rollout.answer.codes == tuple(whole[0::2]), "the model writes the content ids alone"
    completed = roller.nar.complete(rollout.answer.codes)
    assert completed[0::2] == whole[0::2] and completed != whole
    assert rollout.waveform is not None
    assert (rollout.waveform.samples == roller.codec.decode(completed).samples).all()
    assert recognizer(answer_sentences(), 1).recognize_all([rollout.waveform]) == [SENTENCE]


def test_a_dialogue_may_name_the_voice_to_imitate(tmp_path: Path, table: Path) -> None:
    roller, dialogue = roller_of(plan_of(tmp_path, table)), spoken(tmp_path)
    voiced = replace(dialogue, metadata={"voice_prompt": str(tmp_path / "said.wav")})
    assert roller.codec is not None
    plain, own = (roller.with_sound(roller.gold([each]))[0].rollouts[0].waveform for each in (dialogue, voiced))
    assert plain is not None and own is not None and len(plain.samples) == len(own.samples)
    assert not (plain.samples == own.samples).all()
    whole = roller.codec.encode(say(SENTENCE))
    nar = TableNar(TableParams(checkpoint=str(table)))
    assert nar.complete(whole[0:2:2], prompt=whole[:2]) == whole[:2]


def test_incomplete_frames_are_never_decoded_as_they_are(tmp_path: Path, table: Path) -> None:
    roller = replace(roller_of(plan_of(tmp_path, table)), nar=None)
    groups = roller.gold([spoken(tmp_path)])
    with pytest.raises(PreflightError, match="answers hold 1 of 2 ids a frame") as caught:
        roller.with_sound(groups)
    assert "model.nar" in caught.value.hint


def test_a_run_that_will_listen_is_refused_before_it_starts(tmp_path: Path, table: Path) -> None:
    plan = plan_of(tmp_path, table, nar=None)
    assert plan.stages[0].stage.evaluation.metrics
    with pytest.raises(PreflightError, match="answers hold 1 of 2 ids a frame"):
        roller_of(plan)
    findings = preflight(plan, PreflightTools(builder_of(plan)), HERE, folder=str(tmp_path)).errors
    assert {each.message for each in findings} == {"answers hold 1 of 2 ids a frame, and nothing completes them"}


def test_a_nar_must_fit_model_and_codec(tmp_path: Path, table: Path) -> None:
    plan = plan_of(tmp_path, table, architecture={"codebooks": 2, "num_codes": 640})
    with pytest.raises(PluginError, match="makes 2 ids of 1 in every frame; the model writes 2, the codec has 2"):
        roller_of(plan)


def test_a_nar_of_a_recipe_may_be_a_worker(tmp_path: Path, table: Path) -> None:
    """Its books must be the codec's: 512 content and 128 prosody codes."""
    script = tmp_path / "completes.py"
    script.write_text(
        "import sys\n"
        "from wavalign_worker import Contract, serve\n"
        "contract = Contract((512, int(sys.argv[1])), codes_given=1)\n"
        "serve(lambda: (contract, None, None, lambda given, prompt: [x for code in given for x in (code, 5)]))\n"
    )
    worker = {"type": "process", "script": str(script), "arguments": ["128"]}
    roller, dialogue = roller_of(plan_of(tmp_path, table, nar=worker)), spoken(tmp_path)
    assert roller.codec is not None
    content = roller.codec.encode(say(SENTENCE))[0::2]
    (group,) = roller.with_sound(roller.gold([dialogue]))
    waveform = group.rollouts[0].waveform
    assert waveform is not None
    expected = roller.codec.decode([x for code in content for x in (code, 512 + 5)])
    assert (waveform.samples == expected.samples).all()
    other = plan_of(tmp_path, table, nar={**worker, "arguments": ["127"]})
    with pytest.raises(PluginError, match="nar 'process' has 639 ids in all, the codec 640"):
        roller_of(other)


def test_a_recipe_names_a_nar_like_any_plugin(tmp_path: Path, table: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of(tmp_path, table, nar={"type": "toy_tabel"})
    (problem,) = caught.value.problems
    assert (problem.path, problem.message) == ("model.nar.type", "no nar named 'toy_tabel'")
    assert "toy_table" in problem.hint
    stage = plan_of(tmp_path, table).stages[0].stage
    assert stage.model.nar is not None and stage.model.nar.params == {"checkpoint": str(table)}
