"""A folder to write recipes into, and what is wrong with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from wavalign.errors import Problem, RecipeError
from wavalign.schema.loading import LoadedRecipe, load_recipe

VALID = """\
name: demo
model:
  architecture: {type: vita}
  preset: tiny
data:
  prompts: {type: spoken_world, split: train}
rewards:
  answer: {type: answer_match, weight: 0.5, scale: [1, 5]}
objective:
  gate: {type: rollout_adaptive, ceiling: 0.8}
  terms:
    rl: {loss: {type: grpo}, tokens: text, share: gate}
    sft: {loss: cross_entropy, share: 1 - gate}
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """A working directory for recipes."""

    folder: Path

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Write files by name."""
        for name, content in files.items():
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)

    def load(self, text: str | bytes, *overrides: str) -> LoadedRecipe:
        """Load `text` as recipe.yaml."""
        self.write({"recipe.yaml": text})
        return load_recipe("recipe.yaml", overrides)

    def problems(self, text: str | bytes, *overrides: str) -> list[Problem]:
        """All problems of `text` as recipe.yaml."""
        with pytest.raises(RecipeError) as caught:
            self.load(text, *overrides)
        return list(caught.value.problems)

    def places(self, text: str | bytes, *overrides: str) -> list[tuple[str, str, str]]:
        """(code, file:line:column, path) of each problem."""
        return [(each.code, str(each.where), each.path) for each in self.problems(text, *overrides)]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


@pytest.fixture
def valid() -> str:
    """A small recipe that is right."""
    return VALID
