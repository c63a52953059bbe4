"""What README.md shows is true: its recipe compiles to what is said of it, its commands and pictures exist."""

import re
from pathlib import Path

from typer.testing import CliRunner

from tests.toy.compiled import HERE
from wavalign.engine.compile.compiler import compile_recipe
from wavalign.schema.loading import load_recipe
from wavalign_cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_recipe_compiles_to_what_is_said_of_it(tmp_path: Path) -> None:
    """A reference for the KL, sound for the recogniser, whole answers, a DeepSpeed dictionary for two processes."""
    block = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)[0]
    path = tmp_path / "my-first.yaml"
    path.write_text(block.replace("quickstart.yaml", str(ROOT / "recipes" / "quickstart.yaml")), encoding="utf-8")
    stage = compile_recipe(load_recipe(str(path)), HERE).stages[0]
    assert stage.graph.gives("ref_logprobs")
    assert stage.graph.gives("waveforms")
    assert stage.graph.rollout_need == "all"
    assert stage.deepspeed is not None
    assert stage.deepspeed["zero_optimization"]["stage"] == 2
    quick = compile_recipe(load_recipe(str(ROOT / "recipes" / "quickstart.yaml")), HERE).stages[0].graph
    assert not quick.gives("ref_logprobs")
    assert not quick.gives("waveforms")
    assert quick.rollout_need == "text"


def test_every_command_shown_exists() -> None:
    """`wavalign WORD` names a command."""
    shown = set(re.findall(r"\bwavalign ([a-z]+)\b", README)) - {"run"}
    for name in sorted(shown):
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0, name


def test_every_picture_and_path_shown_exists() -> None:
    """Images and repository paths."""
    for path in re.findall(r"\]\((docs/[^)]+)\)", README) + re.findall(
        r"`((?:recipes|benchmarks|tests)/[\w./-]+)`", README
    ):
        assert (ROOT / path).exists(), path
