"""`wavalign recipes`."""

from pathlib import Path

import pytest

from wavalign.errors import UsageError
from wavalign_cli import app as application
from wavalign_cli import recipes

QUICK = "extends: base/world.yaml\nname: quick\ndescription: Learns to answer. Takes a minute.\n"
ARM = """\
extends: ../base/world.yaml
model: {checkpoint: ../base/weights/stages/first}
name: one
description: >
  The first
  arm.
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three recipes and the files they name."""
    folder = tmp_path / "installed"
    texts = {
        "base/weights/stages/first/config.json": "{}",
        "quick.yaml": QUICK,
        "base/world.yaml": "description: First models.\nseed: 3\nmodel: {tokenizer: words.json}\n",
        "base/words.json": "{}",
        "arms/one.yaml": ARM,
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(recipes, "home", lambda: folder.resolve())
    return folder


@pytest.mark.usefixtures("home")
def test_list_gives_name_and_first_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["recipes", "list"]) == 0
    assert (
        capsys.readouterr().out == "arms/one    The first arm\nbase/world  First models\nquick       Learns to answer\n"
    )


@pytest.mark.usefixtures("home")
def test_show_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["recipes", "show", "quick"]) == 0
    assert capsys.readouterr().out == QUICK


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("quick", ["quick.yaml", "base/world.yaml", "base/words.json"]),
        ("arms/one", ["arms/one.yaml", "base/world.yaml", "base/words.json", "base/weights/stages/first/config.json"]),
    ],
)
@pytest.mark.usefixtures("home")
def test_copy_takes_along_what_is_extended_and_named(name: str, parts: list[str], tmp_path: Path) -> None:
    target = tmp_path / "mine"
    assert application.main(["recipes", "copy", name, str(target)]) == 0
    copied = sorted(path.relative_to(target).as_posix() for path in target.rglob("*.*"))
    assert copied == sorted(parts)


@pytest.mark.usefixtures("home")
def test_copy_writes_over_nothing_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "quick.yaml").write_text("mine\n", encoding="utf-8")
    assert application.main(["recipes", "copy", "quick", str(tmp_path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "quick.yaml").read_text(encoding="utf-8") == "mine\n"
    assert not (tmp_path / "base").exists()
    assert application.main(["recipes", "copy", "quick", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "quick.yaml").read_text(encoding="utf-8") == QUICK


@pytest.mark.usefixtures("home")
def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no recipe 'quik'") as caught:
        recipes.shipped("quik")
    assert caught.value.hint == "did you mean 'quick'?"


@pytest.mark.usefixtures("home")
def test_a_name_does_not_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(UsageError):
        recipes.shipped("../secret")


def test_what_comes_along_is_found_where_it_is_installed() -> None:
    assert (recipes.home() / "__init__.py").is_file()
    for name, path in recipes.catalog().items():
        assert recipes.shipped(name) == path
    assert {"base/spoken-world", "quickstart"} <= recipes.catalog().keys()


def test_the_quickstart_is_copied_with_the_models_it_names(tmp_path: Path) -> None:
    assert application.main(["recipes", "copy", "quickstart", str(tmp_path)]) == 0
    models = recipes.home() / "base/spoken-world"
    named = [recipes.home() / "quickstart.yaml", models / "codec.safetensors", *(models / "mumbling").iterdir()]
    assert models / "mumbling/model.safetensors" in named
    copied = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert copied == {path.relative_to(recipes.home()): path.read_bytes() for path in named}
