"""`wavalign plugins` and the options it explains."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal, final

import pytest
from pydantic import Field

from tests.toy.world import PLUGINS
from wavalign.plugins.catalog import CATALOG
from wavalign.schema.base import Params, Section
from wavalign_cli import app as application
from wavalign_cli import doctor
from wavalign_cli.params import OptionRow, option_rows

OWN = '''"""Twice the surprise: L_t = -2 log pi(y_t)."""

from typing import final

from wavalign.plugins.api import Loss, LossInputs, LossOutput
from wavalign.schema.base import Params


class DoubleParams(Params):
    """Options."""

    factor: float = 2.0
    """How often."""


@final
class Double(Loss):
    """A loss."""

    type = "double"
    Params = DoubleParams
    family = "demonstrations"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def compute(self, inputs: LossInputs) -> LossOutput:
        return LossOutput(-self.params.factor * inputs.logprobs)
'''


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "double.py"
    path.write_text(OWN, encoding="utf-8")
    return str(path)


@final
class Inner(Section):
    """A section."""

    depth: int = 3
    """How deep."""


@final
class Example(Params):
    """One option of each sort."""

    ratio: Annotated[float, Field(ge=0, lt=1)]
    """A share."""
    mode: Literal["a", "b"] = "a"
    clip: float | tuple[float, float] | None = None
    names: tuple[str, ...] = ()
    inner: Inner = Inner()
    quick: bool = True


def test_options_are_told_in_words() -> None:
    assert option_rows(Example) == [
        OptionRow("ratio", "number >= 0, < 1", None, "A share."),
        OptionRow("mode", "a | b", "a", ""),
        OptionRow("clip", "number | [number, number] | null", "null", ""),
        OptionRow("names", "list of text", "[]", ""),
        OptionRow("inner", "section", "{depth: 3}", ""),
        OptionRow("inner.depth", "integer", "3", "How deep."),
        OptionRow("quick", "true or false", "true", ""),
    ]


def test_list_of_a_kind(capsys: pytest.CaptureFixture[str], own: str) -> None:
    assert application.main(["plugins", "list", "loss", "--file", own]) == 0
    lines = capsys.readouterr().out.splitlines()
    built_in = [type_ for kind, type_ in CATALOG if kind == "loss"]
    assert [line.split()[1] for line in lines] == sorted([*built_in, "double"])
    assert all(line.startswith("loss ") for line in lines)
    assert "cannot be loaded" not in "".join(lines)
    (double,) = (line for line in lines if line.split()[1] == "double")
    assert double.endswith("Twice the surprise: L_t = -2 log pi(y_t).")


def test_list_waits_for_no_torch() -> None:
    code = (
        "import sys\nfrom wavalign_cli.app import main\ncode = main(['plugins', 'list'])\n"
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'numpy', 'wavalign.plugins.registry')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(CATALOG)
    assert all(len(line.split()) > 3 for line in result.stdout.splitlines()), "each says what it does"


def test_check_says_what_can_be_used(
    capsys: pytest.CaptureFixture[str], own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert application.main(["plugins", "check", "loss", "--file", own]) == 0
    assert ["loss", "double", "yes"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    monkeypatch.setitem(CATALOG, ("loss", "gone"), "wavalign.plugins.losses.gone:Gone")
    assert application.main(["plugins", "check", "loss"]) == 4
    told = capsys.readouterr()
    assert "loss.gone" in told.err and "wavalign.plugins.losses.gone" in told.out


def test_check_names_the_extra_that_a_plugin_imports_late(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "wandb", ("nothing_of_this_name",))
    assert application.main(["plugins", "check", "tracker"]) == 4
    assert 'pip install "wavalign[wandb]"' in capsys.readouterr().out


def test_list_of_no_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["plugins", "list", "losses"]) == 2
    assert "loss" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["double", "loss.double"])
def test_show_explains_options(capsys: pytest.CaptureFixture[str], own: str, name: str) -> None:
    assert application.main(["plugins", "show", name, "--file", own]) == 0
    told = capsys.readouterr().out
    assert told.startswith("loss double\n\nTwice the surprise")
    assert "factor: number  (default 2.0)\n      How often." in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("grop", "plugins list"),
        ("loss.grop", "did you mean 'grpo'"),
        ("speech_quality", "reward.speech_quality, metric.speech_quality"),
    ],
)
def test_show_of_a_wrong_name(capsys: pytest.CaptureFixture[str], name: str, told: str) -> None:
    assert application.main(["plugins", "show", name]) == 2
    assert told in capsys.readouterr().err


def test_a_broken_file_is_a_plugin_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    assert application.main(["plugins", "list", "--file", str(tmp_path / "bad.py")]) == 4
    assert "nothing_of_this_name" in capsys.readouterr().err


def test_show_says_where_a_plugin_stands_and_what_it_declares(capsys: pytest.CaptureFixture[str]) -> None:
    assert application.main(["plugins", "show", "toy_sequence", "--file", str(PLUGINS)]) == 0
    out = capsys.readouterr().out
    assert f"from: {PLUGINS}:" in out
    assert "family: rollouts\nunit: sequence\n" in out
    assert application.main(["plugins", "show", "speech_quality", "--file", str(PLUGINS)]) == 2
    assert application.main(["plugins", "show", "reward.speech_quality"]) == 0
    assert "needs: waveform\nrange: " in capsys.readouterr().out
