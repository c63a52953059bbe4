"""The three ways in: the catalogue, entry points, files; and what is refused at each."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.toy.world import PLUGINS
from wavalign.errors import PluginError
from wavalign.plugins import registry as module
from wavalign.plugins.catalog import CATALOG, ENTRY_POINT_GROUP, KIND_NAMES
from wavalign.plugins.registry import KINDS, Registry

GATE = '''\
from wavalign.plugins.api import Gate, GateReading


class Own(Gate):
    """A gate."""

    type = "own"

    def update(self, rewards, *, progress):
        return GateReading(0.5)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        return
'''


@pytest.mark.parametrize(("kind", "name"), CATALOG, ids=[f"{kind}.{name}" for kind, name in CATALOG])
def test_every_entry_of_the_catalogue_keeps_its_contract(kind: str, name: str) -> None:
    plugin = Registry().get(kind, name)
    assert issubclass(plugin, KINDS[kind])
    assert plugin.__doc__
    documented = [field.description for field in plugin.Params.model_fields.values()]
    assert all(documented), f"{plugin.__name__}.Params has a field without a docstring"


def file(folder: Path, text: str, name: str = "own.py") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def install(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    """Pretend that packages with these entry points are installed."""

    def found(*, group: str) -> list[EntryPoint]:
        assert group == ENTRY_POINT_GROUP
        return [EntryPoint(name, value, group) for name, value in entries]

    monkeypatch.setattr(module, "entry_points", found)


def test_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(tmp_path, GATE, "package_with_a_gate.py")
    monkeypatch.syspath_prepend(tmp_path)
    install(monkeypatch, ("gate.theirs", "package_with_a_gate:Own"))
    found = Registry()
    assert "theirs" in found.types("gate")
    assert found.get("gate", "theirs").__name__ == "Own"


@pytest.mark.parametrize(
    ("name", "address", "message"),
    [
        ("gate", "x:Y", "not of the form kind.type"),
        ("filter.x", "x:Y", "not of the form kind.type"),
        ("gate.fixed", "x:Y", "registers gate 'fixed', which exists already"),
    ],
)
def test_an_entry_point_that_cannot_be(monkeypatch: pytest.MonkeyPatch, name: str, address: str, message: str) -> None:
    install(monkeypatch, (name, address))
    with pytest.raises(PluginError, match=message):
        Registry()


BAD = {
    "no module": ("no_such_package:Own", "", "failed to import: ModuleNotFoundError: No module named"),
    "no class": ("bad_package:Other", GATE, "has no Other"),
    "raises": ("bad_package:Own", "raise KeyError('of its own')\n", "failed to import: KeyError"),
    "syntax": ("bad_package:Own", "class\n", "failed to import: SyntaxError"),
    "another kind": ("bad_package:Own", GATE.replace("Gate)", "Mask)").replace("Gate,", "Mask,"), "not a subclass of"),
    "unfinished": (
        "bad_package:Own",
        GATE.replace("state_dict(self)", "other(self)", 1),
        "does not define: state_dict",
    ),
    "no plugin at all": ("bad_package:Own", "Own = 3\n", "not a subclass of"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_entry_point_that_breaks_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Not before: a broken package that no recipe names does no harm."""
    address, text, message = BAD[name]
    file(tmp_path, text, "bad_package.py")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bad_package", raising=False)
    install(monkeypatch, ("gate.theirs", address))
    found = Registry()
    with pytest.raises(PluginError, match=message) as caught:
        found.get("gate", "theirs")
    assert "theirs" in caught.value.message
    monkeypatch.delitem(sys.modules, "bad_package", raising=False)


def test_a_file(tmp_path: Path) -> None:
    found = Registry([file(tmp_path, GATE), str(PLUGINS)])
    assert found.get("gate", "own").__name__ == "Own"
    assert {"own", "toy_counting", "fixed"} <= set(found.types("gate"))
    assert "toy_exact" in found.types("reward")


def test_a_second_name_for_a_class_is_no_second_plugin(tmp_path: Path) -> None:
    assert Registry([file(tmp_path, GATE + "\n\nAlias = Own\n")]).get("gate", "own").__name__ == "Own"


REWARD = '''\
from wavalign.plugins.api import Reward


class Own(Reward):
    """A reward."""

    type = "own"
    {attribute}

    def score(self, rollout, dialogue):
        return None
'''

LOSS = '''\
from wavalign.plugins.api import Loss


class Own(Loss):
    """A loss."""

    type = "own"
    needs = frozenset()
    {attribute}

    def compute(self, inputs):
        return None
'''

FILES = {
    "no type": (GATE.replace('    type = "own"\n', ""), "class Own has no `type`"),
    "type is no text": (GATE.replace('"own"', "3"), "class Own has no `type`"),
    "built-in": (GATE.replace('"own"', '"fixed"'), "registers gate 'fixed', which exists already"),
    "twice": (GATE + "\n\nclass Two(Own):\n    type = 'own'\n", "registers gate 'own', which exists already"),
    "unfinished": (GATE.replace("def update", "def other"), "does not define: update"),
    "no range": (REWARD.format(attribute="needs = frozenset()"), "does not define: range"),
    "no needs": (REWARD.format(attribute="range = (0.0, 1.0)"), "does not define: needs"),
    "params of nobody": (GATE.replace('type = "own"', 'type = "own"\n    Params = dict'), "Params must be a subclass"),
    "of no kind": (
        "from wavalign.plugins.api import Plugin\n\n\nclass Own(Plugin):\n    type = 'own'\n",
        "Own is of no kind",
    ),
    "needs in a text": (
        REWARD.format(attribute="needs, range = 'waveform', (0.0, 1.0)"),
        "declares `needs` as 'waveform'",
    ),
    "unknown needs": (REWARD.format(attribute="needs, range = {'sound'}, (0.0, 1.0)"), "declares `needs` as {'sound'}"),
    "no family": (LOSS.format(attribute="family = 3"), "declares `family` as 3"),
    "unknown unit": (LOSS.format(attribute="family, unit = 'rollouts', 'row'"), "declares `unit` as 'row'"),
    "nothing": ("from wavalign.plugins.gates.fixed import Fixed\n", "defines no plugin"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_breaks_its_contract(tmp_path: Path, name: str) -> None:
    text, message = FILES[name]
    with pytest.raises(PluginError, match=message):
        Registry([file(tmp_path, text)])


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="does not exist") as caught:
        Registry([str(tmp_path / "none.py")])
    assert "relative to the recipe" in caught.value.hint


def test_two_files_may_not_bring_the_same(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"two.py registers gate 'own'"):
        Registry([file(tmp_path, GATE), file(tmp_path, GATE, "two.py")])


def test_suggestions() -> None:
    found = Registry()
    assert found.suggestion("gate", "rollout_adaptiv") == "did you mean 'rollout_adaptive'?"
    assert found.suggestion("reward", "cross_entropy").startswith(
        "'cross_entropy' is a loss, not a reward; a reward is one of:"
    )
    assert found.suggestion("gate", "zzz") == f"known: {', '.join(found.types('gate'))}"
    with pytest.raises(PluginError, match="no gate named 'zzz'"):
        found.get("gate", "zzz")


def test_the_kinds_are_those_of_the_contracts() -> None:
    """`catalog` spells them out for those who do not wait for torch."""
    assert tuple(KINDS) == KIND_NAMES
    assert {kind for kind, _ in CATALOG} == set(KIND_NAMES)
