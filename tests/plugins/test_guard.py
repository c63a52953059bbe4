"""Whatever a plugin raises becomes one named error; what is a person's or speaks for itself passes."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from wavalign.errors import DataError, Interrupted, PluginError
from wavalign.plugins.guard import Guard, Origin, words
from wavalign.plugins.settings import Settings

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


SETTERS: dict[str, Callable[[], object]] = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "takes gradients": lambda: torch.set_grad_enabled(False),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
}


@pytest.mark.parametrize("setting", SETTERS)
def test_a_setting_left_changed_is_put_back_and_named(setting: str) -> None:
    before = Settings()
    said = f"loss 'mine'.*: compute changed .*{setting}"
    with pytest.raises(PluginError, match=said) as caught, Guard(MINE, "compute"):
        SETTERS[setting]()
    assert before.put_back() == ""
    assert "with torch.no_grad" in caught.value.hint


def test_a_setting_changed_by_what_raises_is_put_back_and_the_error_told() -> None:
    def work() -> None:
        torch.set_default_dtype(torch.float64)
        raise ValueError("no")

    with pytest.raises(PluginError, match="raised ValueError: no"), Guard(MINE, "compute"):
        work()
    assert torch.get_default_dtype() == torch.float32


def test_the_number_of_threads_is_put_back_without_a_word() -> None:
    threads = torch.get_num_threads()
    with Guard(MINE, "constructor"):
        torch.set_num_threads(threads + 1)
    assert torch.get_num_threads() == threads


def test_a_setting_for_a_block_only_is_nobodys_business() -> None:
    with Guard(MINE, "compute"), torch.no_grad(), torch.device("meta"):
        assert torch.empty(1).is_meta


def test_long_texts_are_cut() -> None:
    assert len(words(RuntimeError("x" * 10**6))) < 1200
