"""Why a process was ended by a signal: what the kernel counted meanwhile, and how full shared memory is."""

import signal
from pathlib import Path

from wavalign.engine.causes import Machine, signal_text


def counters(folder: Path, *kills: int | None) -> tuple[Path, ...]:
    """Files of the kernel's, None for one that is not there."""
    paths = []
    for index, count in enumerate(kills):
        path = folder / str(index)
        if count is not None:
            path.write_text(f"low 0\noom 7\noom_kill {count}\noom_group_kill 0\n")
        paths.append(path)
    return tuple(paths)


def test_a_kill_for_lack_of_memory_is_told_from_another(tmp_path: Path) -> None:
    machine = Machine(counters(tmp_path, 3))
    assert "counted no kill for lack of memory" in machine.cause(signal.SIGKILL)
    counters(tmp_path, 5)
    assert machine.cause(signal.SIGKILL).startswith("the kernel killed 2 for lack of memory")
    assert machine.cause(signal.SIGTERM) == ""


def test_the_first_that_can_be_read_counts(tmp_path: Path) -> None:
    """Others of the machine may be killed, too: the control group is asked first."""
    machine = Machine(counters(tmp_path, None, 1, 50))
    counters(tmp_path, None, 1, 90)
    assert "counted no kill" in machine.cause(signal.SIGKILL)
    assert Machine(counters(tmp_path / "none")).cause(signal.SIGKILL) == ""


def test_this_machine() -> None:
    """Whatever it has, it is asked without an error."""
    machine = Machine()
    assert isinstance(machine.cause(signal.SIGKILL), str)
    said = machine.cause(signal.SIGBUS)
    assert ("MiB free" in said) == Path("/dev/shm").is_dir()


def test_signals_in_words() -> None:
    assert signal_text(9) == "9 (SIGKILL; often: out of memory)"
    assert signal_text(7) == "7 (SIGBUS; often: shared memory is full)"
    assert signal_text(11) == "11 (SIGSEGV; a fault in native code)"
    assert signal_text(15) == "15 (SIGTERM)"
    assert signal_text(63) == "63"
