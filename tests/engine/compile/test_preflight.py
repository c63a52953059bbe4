"""A dry run's findings: what is fine, what is missing, and what would train nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.storage.servers import serving
from tests.toy.compiled import HERE, Change, drop, put
from tests.toy.world import toy_recipe, write_recipe
from wavalign.engine import api
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster
from wavalign.engine.compile.preflight import Finding, Preflight
from wavalign.engine.run.builder import Builder
from wavalign.engine.state.distributed import World
from wavalign.errors import CheckpointError
from wavalign.schema.loading import load_recipe
from wavalign.storage import tensors as weights_on_disk
from wavalign.storage.tensors import save_weights

SFT_ONLY: tuple[Change, ...] = (
    put("objective.terms", {"sft": {"loss": "cross_entropy"}}),
    drop("objective.gate"),
    drop("evaluation"),
)


def look(folder: Path, *changes: Change) -> Preflight:
    """Preflight of the toy recipe after `changes`."""
    recipe = toy_recipe(folder)
    for change in changes:
        change(recipe)
    return api.preflight(compile_recipe(load_recipe(write_recipe(folder, recipe)), HERE))


def at(found: Preflight, what: str) -> Finding:
    """The finding about `what`."""
    (finding,) = [each for each in found.findings if each.what == what]
    return finding


def test_a_recipe_that_is_ready(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.errors == ()
    assert at(found, "data.prompts").message == "36 dialogues, 32 read"
    assert at(found, "data.demonstrations").message == "12 dialogues, 12 read"
    assert at(found, "data.evaluation.heldout").level == "ok"
    # An answer is `it is WORD` and its end: the row that ends a turn is text, whatever else the layout puts there.
    assert at(found, "term rl").level == at(found, "term sft").level == "ok"
    assert at(found, "memory").level == "ok"
    ((stage, memory),) = found.memory
    assert stage == "train"
    assert memory.capacity == api.detect_cluster().host_bytes
    assert not (tmp_path / "run").exists(), "a dry run leaves no folder"


def test_a_stream_is_read_at_its_head(tmp_path: Path) -> None:
    """How many records it has is not known without reading it; a bad one further down is not met."""
    record = '{"messages": [{"role": "user", "text": "one"}], "target": {"text": "it is two"}}\n'
    (tmp_path / "gold.jsonl").write_text(record * 40 + "{", encoding="utf-8")
    stream = {"type": "jsonl", "path": "gold.jsonl", "streaming": True, "shuffle_buffer": 3}
    found = look(tmp_path, put("data.demonstrations", stream))
    assert at(found, "data.demonstrations").message == "a stream, 32 read"
    assert at(found, "term sft").message == "128 of 128 tokens of 32 answers"


def test_a_demonstration_term_that_selects_nothing_is_an_error(tmp_path: Path) -> None:
    """The sums have no sound, so a loss on sound has nothing to learn from."""
    found = look(tmp_path, *SFT_ONLY, put("objective.terms.sft.tokens", {"audio": 1}))
    finding = at(found, "term sft")
    assert finding.level == "error"
    assert finding.message.startswith("0 of ")
    assert "none in 12 answers" in finding.message
    assert "tokens:" in finding.hint


def test_a_rollout_term_that_selects_nothing_of_the_gold_answers_is_a_warning(tmp_path: Path) -> None:
    """The policy may say what gold answers do not hold."""
    found = look(tmp_path, put("objective.terms.rl.tokens", {"audio": 1}))
    assert (at(found, "term rl").level, at(found, "term rl.kl").level, found.errors) == ("warning", "warning", ())


def test_a_term_that_is_switched_off_is_not_looked_at(tmp_path: Path) -> None:
    off = put("objective.terms.sound", {"loss": "cross_entropy", "tokens": {"audio": 1}, "weight": 0})
    found = look(tmp_path, *SFT_ONLY, off)
    assert found.errors == ()
    assert not [each for each in found.findings if each.what == "term sound"]


def missing_checkpoint(recipe: dict[str, Any]) -> None:
    recipe["model"].update(checkpoint="nowhere/at/all", preset=None)


def test_everything_missing_is_found_at_once(tmp_path: Path) -> None:
    found = look(
        tmp_path,
        missing_checkpoint,
        put("data.prompts", {"type": "jsonl", "path": "no.jsonl"}),
        put("data.demonstrations", {"type": "toy_sums", "limit": 0}),
    )
    errors = {each.what: each for each in found.errors}
    assert set(errors) == {"data.prompts", "data.demonstrations", "model"}
    assert str(tmp_path / "no.jsonl") in errors["data.prompts"].message
    assert "empty" in errors["data.demonstrations"].message
    assert "nowhere" in errors["model"].message
    assert all(each.hint for each in found.errors)


def test_a_stream_the_architecture_does_not_have(tmp_path: Path) -> None:
    found = look(tmp_path, put("evaluation.sampling.streams", {"audio": {"temperature": 1.0}}))
    (finding,) = found.errors
    assert finding.what == "evaluation.sampling.streams.audio"
    assert "vita has no stream named 'audio'" in finding.message
    assert "mix" in finding.hint


def test_a_dialogue_with_sound_wants_a_codec_and_its_file(tmp_path: Path) -> None:
    """Preflight encodes what it reads, so that a recipe without a codec does not fail at its first step."""
    line = '{"messages": [{"role": "user", "text": "one plus one", "audio": "q.wav"}], "target": {"text": "it is two"}}'
    (tmp_path / "gold.jsonl").write_text(line + "\n", encoding="utf-8")
    soundfile.write(tmp_path / "q.wav", [0.1] * 800, 16000)
    gold = put("data.demonstrations", {"type": "jsonl", "path": "gold.jsonl"})
    finding = at(look(tmp_path, *SFT_ONLY, gold), "demonstrations as tokens")
    assert finding.level == "error"
    assert "q.wav" in finding.message
    assert "model.codec" in finding.hint


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5 * 2**20

    monkeypatch.setattr("wavalign.engine.compile.preflight.shutil.disk_usage", lambda folder: Usage)
    finding = at(look(tmp_path), "disk")
    assert finding.level == "error"
    assert finding.message.startswith("0.0 GiB free")


def test_a_machine_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "detect_cluster", lambda: HERE.model_copy(update={"host_bytes": 1 << 19}))
    finding = at(look(tmp_path), "memory")
    assert finding.level == "error"
    assert "micro_batch" in finding.hint


def test_a_machine_whose_allocator_may_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU what stands between tensors can be as much as learning and updating add."""
    found = look(tmp_path)
    ((_, memory),) = found.memory
    again = sum(row.bytes for row in memory.rows if row.phase in ("train", "learn", "update"))
    assert again > memory.total / 100
    size = max(memory.total + again // 2, int(memory.total / 0.9) + 1)
    assert size < memory.total + again, "it fits, and not with fragments"
    monkeypatch.setattr(api, "detect_cluster", lambda: Cluster(cores=1, host_bytes=size))
    (finding,) = [each for each in look(tmp_path).findings if each.what == "memory"]
    assert finding.level == "warning" and "MALLOC_MMAP_THRESHOLD_" in finding.hint


def test_a_stage_that_only_answers_has_an_estimate(tmp_path: Path) -> None:
    """36 prompts in chunks of 16, four answers each, of at most 5 tokens."""
    found = look(tmp_path, put("stages", [{"name": "sample", "type": "generate"}]))
    ((name, memory),) = found.memory
    rows = {row.name: row for row in memory.rows}
    assert name == "sample" and rows.keys() == {"weights", "KV cache", "choice"}
    assert rows["KV cache"].note == "64 answers at once"
    bounded = put("rollout.sampler", {"type": "kv_cache", "max_rows": 10})
    ((_, less),) = look(tmp_path, put("stages", [{"name": "sample", "type": "generate"}]), bounded).memory
    assert {row.name: row for row in less.rows}["KV cache"].note == "8 answers at once"


def test_a_large_held_out_split_counts(tmp_path: Path) -> None:
    """36 dialogues are answered at once to measure, 16 answers to learn from."""
    ((_, memory),) = look(tmp_path).memory
    assert {row.name: row.note for row in memory.rows}["KV cache"] == "36 prompts at once"
    ((_, memory),) = look(tmp_path, put("evaluation.limit", 12)).memory
    assert {row.name: row.note for row in memory.rows}["KV cache"] == "16 answers at once"


def test_recipes_are_plain_yaml(tmp_path: Path) -> None:
    """What these tests edit is what a person could have written."""
    text = Path(write_recipe(tmp_path, toy_recipe(tmp_path))).read_text(encoding="utf-8")
    assert yaml.safe_load(text)["name"] == "toy"


def stored(folder: Path, *, change: bool = False) -> Path:
    """A checkpoint of the toy's model; changed, a tensor is missing, one too many and one of another shape."""
    plan = compile_recipe(load_recipe(write_recipe(folder, toy_recipe(folder))), HERE)
    builder = Builder(plan, World.single("cpu"), lambda what, done, total: None)
    architecture = builder.architecture(plan.stages[0], None)
    weights = architecture.build_policy(seed=0).state_dict()
    if change:
        weights["extra"] = torch.zeros(3)
        weights["model.norm.weight"] = torch.ones(5)
        del weights["model.layers.0.mlp.up_proj.weight"]
    place = folder / "public"
    architecture.save_layout(str(place))
    save_weights(weights, str(place), max_shard_bytes=20_000)
    return place


def over(address: str, **model: Any) -> Change:
    def change(recipe: dict[str, Any]) -> None:
        recipe["model"] = {"architecture": "vita", "checkpoint": address, **model}

    return change


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_tensors_that_do_not_fit_are_named_before_anything_large_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    monkeypatch.setenv("WAVALIGN_CACHE", str(tmp_path / "cache"))
    place = stored(tmp_path, change=True)
    with serving(place) as served:
        address = served.address if remote else str(place)
        finding = at(look(tmp_path, over(address)), "weights")
        for file, wanted in served.asked:
            if file.endswith(".safetensors") and (place / file).exists():
                header = 8 + int.from_bytes((place / file).read_bytes()[:8], "little")
                assert int(wanted.rpartition("-")[2]) < header, "tensors are asked for"
    assert finding.level == "error"
    assert finding.message.splitlines() == [
        f"{address} does not fit the network in 3 tensors:",
        "  missing: model.layers.0.mlp.up_proj.weight [48, 32]",
        "  unexpected: extra [3]",
        "  shape: model.norm.weight is [5], wanted [32]",
    ]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_remote_checkpoint_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAVALIGN_CACHE", str(tmp_path / "cache"))
    with serving(stored(tmp_path)) as served:
        found = look(tmp_path, over(served.address))
        assert found.errors == ()
        assert at(found, "weights").message.endswith("M parameters; their values show when they are fetched")
        (tmp_path / "public" / "config.json").unlink()
        gone = at(look(tmp_path, over(f"{served.address}/")), "model")
    assert gone.level == "error"
    assert "config.json: the server answers 404" in gone.message


def test_pickles_are_looked_at_where_they_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAVALIGN_CACHE", str(tmp_path / "cache"))
    place = stored(tmp_path)
    weights = {name: x for file in place.glob("*.safetensors") for name, x in load_file(file).items()}
    for file in place.glob("model*"):
        file.unlink()
    torch.save(weights, place / "pytorch_model.bin")
    assert "can run code" in at(look(tmp_path, over(str(place))), "weights").message
    assert look(tmp_path, over(str(place), allow_pickles=True)).errors == ()
    with serving(place) as served:
        told = at(look(tmp_path, over(served.address, allow_pickles=True)), "weights")
    assert (told.level, "when they are fetched" in told.message) == ("warning", True)


def rewritten(place: Path, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Change one tensor of a checkpoint."""
    for file in place.glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            save_file({**tensors, name: change(tensors[name])}, file)
            return
    raise AssertionError(f"no {name} in {place}")


NORM, PROJECTION = "model.norm.weight", "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    """By a dry run, and by a run as it reads them."""
    place = stored(tmp_path)
    rewritten(place, PROJECTION, lambda tensor: torch.cat([torch.tensor([[value] * 32]), tensor[1:]]).to(dtype))
    finding = at(look(tmp_path, over(str(place))), "weights")
    assert finding.level == "error"
    assert f"{PROJECTION} holds NaN or infinite numbers (32 of 1536)" in finding.message
    assert str(place) in finding.message and "fetch it again" in finding.hint
    with pytest.raises(CheckpointError, match=r"up_proj\.weight holds NaN or infinite"):
        begin(tmp_path, over(str(place)))


def test_whole_numbers_in_the_place_of_weights_are_named(tmp_path: Path) -> None:
    place = stored(tmp_path)
    rewritten(place, PROJECTION, lambda tensor: tensor.to(torch.int32))
    rewritten(place, NORM, lambda tensor: tensor.bool())
    finding = at(look(tmp_path, over(str(place))), "weights")
    assert finding.level == "error"
    assert finding.message.splitlines()[1:] == [f"  {PROJECTION} is I32", f"  {NORM} is BOOL"]
    with pytest.raises(CheckpointError, match="whole numbers in the place of weights"):
        begin(tmp_path, over(str(place)))


def test_a_checkpoint_too_large_to_be_read_in_passing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said, not passed over; the run still looks."""
    place = stored(tmp_path)
    rewritten(place, NORM, lambda tensor: tensor * torch.nan)
    monkeypatch.setattr(weights_on_disk, "READ_IN_PASSING", 1000)
    finding = at(look(tmp_path, over(str(place))), "weights")
    assert (finding.level, "values not looked at, the run does as it reads them" in finding.message) == ("ok", True)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds NaN"):
        begin(tmp_path, over(str(place)))


def begin(folder: Path, *changes: Change) -> None:
    """Let the first stage read its weights."""
    recipe = toy_recipe(folder)
    for change in changes:
        change(recipe)
    plan = compile_recipe(load_recipe(write_recipe(folder, recipe)), HERE)
    Builder(plan, World.single("cpu"), lambda what, done, total: None).stage(plan.stages[0], None).close()
