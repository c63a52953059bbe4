"""Whole runs with an adapter: what they leave, what the next stage starts from, resuming, and how a step is cut."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import run_ranks
from tests.e2e.runs import comparable, lines
from tests.engine.run.test_trainer import Signals
from tests.engine.step.test_invariance import MIXED, assert_equal
from tests.toy.compiled import Change, compiled, drop, only_stage, problems, put
from tests.toy.live import live_stage, silent, train, train_rank
from wavalign.engine import api
from wavalign.engine.compile.plan import Plan
from wavalign.engine.models.stage_backend import stage_placement
from wavalign.engine.run.builder import Builder
from wavalign.engine.state.distributed import World
from wavalign.errors import Interrupted, PreflightError

LORA = put("model.adapter", {"type": "lora", "rank": 4})
KL = put("objective.terms.rl.loss", {"type": "grpo", "kl": {"coefficient": 0.1}})
STAGED: tuple[Change, ...] = (
    put("stages", [{"name": "one", "steps": 3}, {"name": "two", "steps": 2}]),
    LORA,
    KL,
    put("optim.learning_rate", 0.03),
    put("runtime.checkpoint_every", 2),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages, each with an adapter of its own."""
    return api.run(compiled(tmp_path_factory.mktemp("whole"), *STAGED))


def test_what_a_stage_leaves(whole: Path, tmp_path: Path) -> None:
    full = api.run(compiled(tmp_path, *STAGED[:1], *STAGED[2:]))
    for stage in ("one", "two"):
        model = load_file(whole / "stages" / stage / "model" / "model.safetensors")
        assert model.keys() == load_file(full / "stages" / stage / "model" / "model.safetensors").keys()
        config = json.loads((whole / "stages" / stage / "adapter" / "adapter_config.json").read_text())
        assert config["r"] == 4
        tensors = load_file(whole / "stages" / stage / "adapter" / "adapter_model.safetensors")
        assert len(tensors) == 2 * 7
        assert all(float(tensor.abs().max()) > 0 for tensor in tensors.values())
    assert not (full / "stages" / "one" / "adapter").exists()


def test_the_next_stage_starts_from_the_merged_model(whole: Path) -> None:
    one, two = (load_file(whole / "stages" / name / "model" / "model.safetensors") for name in ("one", "two"))
    adapter = load_file(whole / "stages" / "two" / "adapter" / "adapter_model.safetensors")
    path = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{path}.lora_{letter}.weight"] for letter in "AB")
    torch.testing.assert_close(two[f"{path}.weight"], one[f"{path}.weight"] + 32 / 4 * b @ a, rtol=0, atol=1e-6)
    assert torch.equal(two["model.embed_tokens.weight"], one["model.embed_tokens.weight"])
    train_lines = [line for line in lines(whole / "metrics.jsonl") if line["split"] == "train"]
    divergence = [line["loss/rl.kl"] for line in train_lines]
    # The reference is what each stage started from: no divergence in its first step, some later.
    assert max(divergence[0], divergence[3]) < 1e-12  # but for rounding: rows that are scored alone are packed alone
    assert min(divergence[1], divergence[2], divergence[4]) > 1e-5


@pytest.mark.parametrize("at", [1, 3])
def test_stopped_and_resumed(whole: Path, tmp_path: Path, at: int) -> None:
    """Within a stage, at a step that has no regular checkpoint, and at a stage's end."""
    with pytest.raises(Interrupted):
        api.run(compiled(tmp_path, *STAGED), observer=Signals(at))
    found = api.run(compiled(tmp_path, *STAGED), resume=True)
    assert comparable(found / "metrics.jsonl") == comparable(whole / "metrics.jsonl")
    for stage in ("one", "two"):
        for name in ("model/model.safetensors", "adapter/adapter_model.safetensors"):
            ours, theirs = (load_file(each / "stages" / stage / name) for each in (found, whole))
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_dropout_resumes_exactly(tmp_path: Path) -> None:
    changes = (put("model.adapter", {"type": "dora", "rank": 4, "dropout": 0.3}), *STAGED[2:])
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    wanted = api.run(compiled(tmp_path / "whole", *changes))
    with pytest.raises(Interrupted):
        api.run(compiled(tmp_path / "cut", *changes), observer=Signals(3))
    found = api.run(compiled(tmp_path / "cut", *changes), resume=True)
    assert comparable(found / "metrics.jsonl") == comparable(wanted / "metrics.jsonl")
    ratios = [line["rl/ratio"] for line in lines(found / "metrics.jsonl") if line["split"] == "train"]
    assert ratios[0] == pytest.approx(1, abs=1e-6)  # B is still 0
    assert abs(ratios[3] - 1) > 1e-5  # sampled without dropout, learned with


def cut(folder: Path, *changes: Change) -> Plan:
    also = put("model.adapter", {"type": "dora", "rank": 4, "also_train": ["embed"]})
    return compiled(folder, *MIXED, also, *changes)


@functools.cache
def whole_step(folder: Path) -> Any:
    return train(cut(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("invariance")


def test_micro_batches(folder: Path) -> None:
    metrics, weights = whole_step(folder)
    start = dict(live_stage(cut(folder)).backend.policy.named_parameters())
    moved = {name for name, each in start.items() if not torch.equal(weights[name], each.detach())}
    assert moved == {name for name, each in start.items() if each.requires_grad}
    assert "model.embed_tokens.weight" in moved
    assert metrics[0]["loss/rl.kl_text"] == 0
    assert metrics[2]["loss/rl.kl_text"] > 1e-4
    assert_equal(train(cut(folder, put("batch.micro_batch", 3))), whole_step(folder))


def test_two_processes(folder: Path) -> None:
    two = cut(folder, put("runtime.processes", 2), put("batch.micro_batch", 4))
    for found in run_ranks(train_rank, 2, two.to_json()):
        assert_equal(found, whole_step(folder))


def test_the_first_loss_is_that_of_the_base(tmp_path: Path) -> None:
    """And the reference that is kept beside what is also trained says what a second network says."""
    (with_adapter, *_), _ = train(cut(tmp_path), steps=1)
    (without, *_), _ = train(compiled(tmp_path, *MIXED), steps=1)
    for key, value in without.items():
        if key.startswith(("loss", "reward", "kl")):
            assert with_adapter[key] == pytest.approx(value, rel=1e-6, abs=1e-7), key


def test_no_second_network_is_made(tmp_path: Path) -> None:
    plan = compiled(tmp_path, LORA, KL)
    assert only_stage(plan).graph.gives("ref_logprobs")
    assert not only_stage(plan).copies_reference
    assert only_stage(compiled(tmp_path, KL)).copies_reference


def test_misfits_are_told(tmp_path: Path) -> None:
    def told(*changes: Change) -> list[tuple[str, str, str]]:
        return [(each.path, each.message, each.hint) for each in problems(tmp_path, *changes)]

    ((path, message, hint),) = told(put("model.adapter", {"groups": ["trunk", "text_head"]}))
    assert path == "model.adapter.groups"
    assert message.startswith("text_head cannot be adapted")
    assert hint == "train it in full: also_train: [text_head]"
    ((path, message, _),) = told(put("model.adapter", {"also_train": ["trunk"]}))
    assert (path, message) == ("model.adapter.also_train", "trunk is adapted and also trained in full")
    ((path, message, _),) = told(put("model.adapter", {"also_train": ["embed"]}), put("model.freeze", ["embed"]))
    assert (path, message) == ("model.freeze", "embed is frozen and named by the adapter")
    ((path, _, hint),) = told(put("model.adapter", {"rank": 0}))
    assert path == "model.adapter.rank"
    with pytest.raises(PreflightError, match="no linear layer of trunk is named `q_prj`"):
        live_stage(compiled(tmp_path, put("model.adapter", {"targets": ["q_prj"]})))
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    found = api.preflight(compiled(tmp_path, put("model.adapter", {"targets": ["q_prj"]}), drop("evaluation")))
    assert any("q_prj" in finding.message and "q_proj" in finding.hint for finding in found.errors)


@pytest.mark.parametrize("type_", ["lora", "dora"])
def test_frozen_weights_never_stand_in_float32_under_bf16(tmp_path: Path, type_: str) -> None:
    adapter = put("model.adapter", {"type": type_, "rank": 4, "also_train": ["embed"]})
    plan = compiled(tmp_path, adapter, put("runtime.precision", "bf16"))
    builder = Builder(plan, World.single(), silent)
    stage = only_stage(plan)
    architecture = builder.architecture(stage, None)
    whole = builder.starting_weights(stage, architecture).policy(stage_placement(plan, stage, World.single()))
    assert {each.dtype for each in whole.parameters()} == {torch.bfloat16}
    for name, each in builder.policy(stage, architecture).named_parameters():
        trained = "lora_" in name or "embed" in name
        assert each.dtype == (torch.float32 if trained else torch.bfloat16), name
    metrics, _ = train(plan)
    assert abs(metrics[0]["loss/rl.kl"]) < 1e-6
