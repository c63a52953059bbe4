"""Whatever a plugin raises becomes one named error; what is a person's or speaks for itself passes."""

import os
import signal
from pathlib import Path

import pytest

from wavalign.errors import DataError, Interrupted, PluginError
from wavalign.plugins.guard import Guard, Origin, words

MINE = Origin("loss", "mine", __file__, "objective.terms.rl.loss")
THEIRS = Origin("architecture", "other", "/nowhere/other.py")


class Odd(BaseException):
    """Of no known family."""


class UnspeakableError(Exception):
    """Its text raises."""

    def __str__(self) -> str:
        raise SystemExit(0)


FAULTS = [
    RuntimeError("no"),
    SystemExit(0),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(),
    RecursionError("deep"),
    MemoryError(),
    Odd("odd"),
    UnspeakableError(),
    PluginError("of its own"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda each: type(each).__name__)
def test_whatever_is_raised_is_named(fault: BaseException) -> None:
    with pytest.raises(PluginError) as caught, Guard(MINE, "compute"):
        raise fault
    assert caught.value.exit_code == 4
    assert caught.value.message.startswith("loss 'mine' (objective.terms.rl.loss): ")
    assert f"({__file__}:" in caught.value.message
    assert type(fault).__name__ in caught.value.message or isinstance(fault, PluginError)
    assert caught.value.__cause__ is fault


@pytest.mark.parametrize("error", [DataError("gold.jsonl:3: torn"), Interrupted(15)], ids=["DataError", "Interrupted"])
def test_what_speaks_for_itself_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, Guard(MINE, "compute"):
        raise error
    assert caught.value is error


def test_a_persons_ctrl_c_passes_also_through_two_guards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Guard(MINE, "compute"), Guard(THEIRS, "hidden"):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_innermost_plugin_is_named_once() -> None:
    with pytest.raises(PluginError) as caught, Guard(THEIRS, "outer"), Guard(MINE, "compute"):
        raise KeyError("x")
    assert caught.value.message.startswith("loss 'mine'")
    assert "other" not in caught.value.message


def test_a_shared_block_blames_only_who_was_in_it() -> None:
    with pytest.raises(ValueError, match="somebody else"), Guard(THEIRS, "the forward pass", only=True):
        raise ValueError("somebody else")
    with pytest.raises(PluginError), Guard(MINE, "the forward pass", only=True):
        raise ValueError("mine")


def test_a_built_in_plugins_fault_is_wavaligns() -> None:
    own = Origin("loss", "grpo", __file__, own=True)
    with pytest.raises(PluginError) as caught, Guard(own, "compute"):
        raise KeyError("x")
    assert caught.value.hint == "this is a fault in WavAlign's loss 'grpo'"
    with pytest.raises(MemoryError), Guard(own, "compute"):
        raise MemoryError


def test_a_module_beside_the_file_belongs_to_it_and_a_neighbour_in_site_packages_does_not(tmp_path: Path) -> None:
    mine = Origin("loss", "mine", str(tmp_path / "mine.py"))
    assert mine.owns(str(tmp_path / "helpers.py"))
    assert not mine.owns(str(tmp_path / ".venv" / "lib" / "site-packages" / "torch" / "nn.py"))
    installed = Origin("loss", "mine", "/x/site-packages/mine.py")
    assert not installed.owns("/x/site-packages/torch/nn.py")


def test_long_texts_are_cut() -> None:
    assert len(words(RuntimeError("x" * 10**6))) < 1200
