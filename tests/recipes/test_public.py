"""The recipes for the public checkpoints, looked at as before a run: over checkpoints with the published names, shapes,
sizes and files, whose weights take no place on the disk.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.plugins.codecs.makers import write_vq
from tests.recipes import public
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.engine.compile.plan import Cluster
from wavalign.engine.compile.preflight import Preflight, preflight
from wavalign.engine.run.builder import Builder
from wavalign.engine.run.observers import Silent
from wavalign.engine.run.preflight_tools import PreflightTools
from wavalign.engine.state.distributed import World
from wavalign.schema.loading import load_recipe

ROOT = Path(__file__).parents[2] / "recipes"
NODE = Cluster(gpus=8, gpu_bytes=80 * 10**9, cores=64, host_bytes=512 << 30)
PARAMETERS = {
    "vita/plus-vanilla.yaml": 7_730_361_856,
    "vita/plus-vanilla-lora.yaml": 7_730_361_856,
    "vita/plus-boost.yaml": 10_317_912_576,
    "vita/boost.yaml": 10_317_912_576,
    "vita/balance.yaml": 10_317_912_576,
    "kimi/instruct.yaml": 9_766_334_464,
    "kimi/instruct-lora.yaml": 9_766_334_464,
}
"""Published sizes, without the audio encoder and projector of the Plus models."""
WRITERS: dict[str, Callable[[Path], Path]] = {
    "vanilla": lambda folder: public.write_vita(folder, modules=0, hears=True),
    "plus": lambda folder: public.write_vita(folder, modules=10, hears=True),
    "discrete": lambda folder: public.write_vita(folder, modules=10, hears=False),
    "kimi": public.write_kimi,
}
FAMILY = {
    "vita/plus-vanilla.yaml": "vanilla",
    "vita/plus-vanilla-lora.yaml": "vanilla",
    "vita/plus-boost.yaml": "plus",
    "vita/boost.yaml": "discrete",
    "vita/balance.yaml": "discrete",
    "kimi/instruct.yaml": "kimi",
    "kimi/instruct-lora.yaml": "kimi",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each checkpoint once, when it is first asked for."""
    root, done = tmp_path_factory.mktemp("public"), dict[str, Path]()

    def folder(family: str) -> Path:
        if family not in done:
            done[family] = WRITERS[family](root / family)
        return done[family]

    return folder


def looked_at(recipe: str, checkpoint: Path, folder: Path) -> Preflight:
    """What a dry run on a node of 8 GPUs finds."""
    data, codec = public.write_dialogue(folder), write_vq(folder / "codec", quantize_vocab_size=48)
    changes = {
        "model.checkpoint": checkpoint,
        "model.codec.checkpoint": codec,
        "data.prompts.path": data,
        "data.demonstrations.path": data,
        "data.evaluation.path": data,
    }
    overrides = tuple(f"{name}={value}" for name, value in changes.items())
    plan = compile_recipe(load_recipe(str(ROOT / recipe), overrides), NODE)
    tools = PreflightTools(Builder(plan, World.single("cpu"), Silent().progress))
    return preflight(plan, tools, NODE, folder=str(folder))


@pytest.mark.parametrize("recipe", sorted(PARAMETERS))
def test_a_dry_run_finds_nothing_wrong(recipe: str, written: Callable[[str], Path], tmp_path: Path) -> None:
    found = looked_at(recipe, written(FAMILY[recipe]), tmp_path)
    assert [f"{each.what}: {each.message}" for each in found.errors] == []
    (weights,) = [each.message for each in found.findings if each.what == "weights"]
    encoder = sum(torch.Size(shape).numel() for shape in public.sensevoice_shapes().values())
    count = PARAMETERS[recipe] + (encoder if FAMILY[recipe] in ("vanilla", "plus") else 0)
    assert f"{count / 1e6:.2f} M parameters" in weights
    ((_, memory),) = found.memory
    assert 10 * 2**30 < memory.total < NODE.gpu_bytes
    adapted = recipe.endswith("-lora.yaml")
    assert adapted == (memory.total < 30 * 2**30)


def test_what_a_checkpoint_lacks_is_named(written: Callable[[str], Path], tmp_path: Path) -> None:
    """Vanilla's weights under Boost's recipe."""
    found = looked_at("vita/plus-boost.yaml", written("vanilla"), tmp_path)
    assert any("no multi-token-prediction heads" in each.message for each in found.errors)


def test_the_recipes_for_public_checkpoints_are_all_here() -> None:
    others = {"vita/tiny.yaml", "vita/tiny-plus.yaml", "kimi/tiny.yaml", "vita/cluster.yaml"}  # test_walk.py
    there = {path.relative_to(ROOT).as_posix() for part in ("vita", "kimi") for path in (ROOT / part).glob("*.yaml")}
    assert there - others == set(PARAMETERS) == set(FAMILY)
