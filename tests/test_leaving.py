"""The end of a process in which a library's thread is still in native code."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import atexit, resource, sys, threading, time
from datetime import timedelta
import torch.distributed as dist
from wavalign.leaving import leave

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file where it aborts

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(1)  # the interpreter's finalisation, on a busy machine

slow = Slow()
store = dist.HashStore()
threading.Thread(target=lambda: store.wait(["never"], timedelta(seconds=0.3)), daemon=True).start()
atexit.register(lambda: print("exit function"))
print("done")
"""


@pytest.mark.parametrize("code", [0, 3])
def test_a_thread_in_native_code_does_not_abort_the_process(code: int) -> None:
    ended = _run(f"{SCRIPT}leave({code})")
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "done\nexit function\n", "")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="such a thread waits there for the process's end")
def test_that_thread_would_abort_it() -> None:
    ended = _run(SCRIPT)
    assert ended.returncode == -6, "Python's own end is safe now: `leave` is no longer needed"


def test_what_is_under_way_in_other_threads_comes_to_its_end() -> None:
    """A checkpoint being written, for one, and what waits in an executor."""
    script = (
        "import threading, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from wavalign.leaving import leave\n"
        "def work(name):\n"
        "    time.sleep(0.3)\n"
        "    print(name)\n"
        "pool = ThreadPoolExecutor(1)\n"
        "pool.submit(work, 'second'), pool.submit(work, 'third')\n"
        "threading.Thread(target=print, args=('first',)).start()\n"
        "leave(0)\n"
    )
    ended = _run(script)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "first\nsecond\nthird\n", "")


def test_a_rank_that_crashes_ends_so_too() -> None:
    """Its traceback is shown as ever, and nothing is finalised."""
    script = (
        "import os, runpy, sys\n"
        "class Last:\n"
        "    def __del__(self, write=os.write): write(1, b'finalised')\n"
        "last = Last()\n"
        "sys.argv = ['worker']\n"
        "runpy.run_module('wavalign.engine.worker', run_name='__main__')\n"
    )
    ended = _run(script)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Traceback") and ended.stderr.endswith("IndexError: list index out of range\n")


@pytest.mark.parametrize(("code", "expected"), [(0, 120), (3, 3)])
def test_output_that_cannot_be_written(code: int, expected: int) -> None:
    script = f"from wavalign.leaving import leave; print('lost'); leave({code})"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w", encoding="utf-8") as full:
        command = [sys.executable, "-c", script]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=buffered, check=False)
    assert (ended.returncode, ended.stderr) == (expected, b"")


def _run(script: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
