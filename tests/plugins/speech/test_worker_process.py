"""Workers that answer, fail, hang, die and babble: each a real script in a process of its own."""

import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from wavalign.errors import PluginError, PreflightError
from wavalign.plugins.batch import Waveform
from wavalign.plugins.speech.worker_process import WorkerOptions, WorkerProcess

Start = Callable[..., WorkerProcess]
HEAD = """
import os, sys, time
from wavalign_worker import Contract, serve

def load():
    contract = Contract((10, 4), 8000, 11025, 50.0, "f")
    def encode(samples):
        return [int(x) for x in samples]
    def decode(codes):
        return [code / 8 for code in codes]
    return contract, encode, decode
"""
TAIL = """
serve(load)
"""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """`start(body, timeout=...)` runs a script of the head above, `body` and the call that serves."""

    def run(body: str = "", *, arguments: tuple[str, ...] = (), head: str = HEAD, **seconds: float) -> WorkerProcess:
        script = tmp_path / "worker.py"
        script.write_text(head + textwrap.dedent(body) + TAIL)
        return WorkerProcess(str(script), WorkerOptions(arguments=arguments, **seconds))

    return run


def sound(*values: float) -> Waveform:
    return Waveform(np.array(values, np.float32), 8000)


def gone(process: WorkerProcess) -> bool:
    return process._process.poll() is not None


def test_numbers_go_there_and_back(start: Start) -> None:
    worker = start()
    assert worker.contract.codebook_sizes == (10, 4)
    assert (worker.contract.encode_rate, worker.contract.decode_rate) == (8000, 11025)
    assert (worker.contract.frame_rate, worker.contract.fingerprint) == (50.0, "f")
    assert worker.encode(sound(3, 1, 9, 3)) == [3, 1, 9, 3]
    decoded = worker.decode([3, 1, 0, 2])
    assert decoded.sample_rate == 11025
    assert decoded.samples.tolist() == [0.375, 0.125, 0.0, 0.25]
    assert worker.encode(sound()) == [] and len(worker.decode([]).samples) == 0
    worker.close()
    assert gone(worker) and worker._process.returncode == 0, "it ends by itself when nobody can ask it any more"
    worker.close()
    with pytest.raises(PluginError, match="was ended"):
        worker.decode([1])


def test_messages_larger_than_a_pipe(start: Start) -> None:
    """Both sides write at once; neither may wait for the other."""
    worker = start()
    codes = np.random.default_rng(0).integers(0, 4, size=300_000).tolist()
    assert worker.decode(codes).samples.tolist() == [code / 8 for code in codes]
    assert worker.encode(sound(*codes)) == codes


def test_what_a_worker_prints_does_not_reach_the_pipe(start: Start) -> None:
    body = """
        print("imported", flush=True)
        inner = load
        def load():
            print("loading"); os.system("echo from a child")
            contract, encode, decode = inner()
            return contract, encode, lambda codes: print("x" * 10000) or decode(codes)
    """
    assert start(body).decode([8]).samples.tolist() == [1.0]


def test_arguments_and_search_path(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets its arguments, the protocol, and none of the packages of this process."""
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    body = """
        assert sys.argv[1:] == ["--a", "b c"], sys.argv
        assert "/somewhere/else" not in sys.path
    """
    assert start(body, arguments=("--a", "b c")).decode([8]).samples.tolist() == [1.0]


def test_an_exception_is_an_answer_and_the_worker_goes_on(start: Start) -> None:
    body = """
        inner = load
        def load():
            contract, encode, decode = inner()
            return contract, encode, lambda codes: 1 / 0 if 7 in codes else decode(codes)
    """
    worker = start(body)
    with pytest.raises(PluginError, match=r"could not decode: ZeroDivisionError: division by zero"):
        worker.decode([7])
    assert worker.decode([8]).samples.tolist() == [1.0]


def test_many_threads_get_their_own_answers(start: Start) -> None:
    worker = start()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: worker.decode([n] * (n + 1)).samples.tolist(), range(200)))
    assert found == [[n / 8] * (n + 1) for n in range(200)]


def test_a_worker_that_cannot_load_is_shown_with_its_last_lines(start: Start) -> None:
    with pytest.raises(PluginError, match=r"was to load and failed.*exit status 1") as caught:
        start("raise RuntimeError('no such weights')")
    assert "  | RuntimeError: no such weights" in caught.value.message
    body = "print('\\n'.join(f'line {n}' for n in range(5000)), file=sys.stderr); sys.exit('the reason')"
    with pytest.raises(PluginError, match="the reason") as caught:
        start(body)
    assert len(caught.value.message.splitlines()) <= 21


def test_a_worker_that_dies_is_an_error_now_and_later(start: Start) -> None:
    body = """
        inner = load
        def load():
            contract, encode, decode = inner()
            return contract, encode, lambda codes: (print("out of memory", file=sys.stderr), os._exit(3))
    """
    worker = start(body)
    for _ in range(2):
        with pytest.raises(PluginError, match=r"was to decode and failed.*exit status 3\)\n  \| out of memory"):
            worker.decode([1])
    assert gone(worker)


def test_a_worker_that_was_killed(start: Start) -> None:
    worker = start()
    os.kill(worker._process.pid, 9)
    worker._process.wait()
    with pytest.raises(PluginError, match="exit status -9"):
        worker.encode(sound(1, 1))


def test_a_worker_that_hangs_is_ended(start: Start) -> None:
    body = """
        inner = load
        def load():
            contract, encode, decode = inner()
            return contract, encode, lambda codes: time.sleep(1000)
    """
    worker = start(body, timeout=0.3)
    began = time.monotonic()
    with pytest.raises(PluginError, match=r"did not decode within 0\.3 seconds") as caught:
        worker.decode(list(range(100_000)))
    assert time.monotonic() - began < 4 and gone(worker) and "timeout" in caught.value.hint
    with pytest.raises(PluginError, match=r"did not load within 0\.2 seconds"):
        start("time.sleep(1000)", start_timeout=0.2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.write(PIPE, b'Hello, I am a print of a C library'); time.sleep(9)", "no message"),
        ("os.write(PIPE, b'\\x02\\0\\0\\0\\0\\0\\0\\0[]'); time.sleep(9)", "no message"),
        ("os.write(PIPE, b'\\x02\\0\\0\\0\\0\\0\\0\\0{]'); time.sleep(9)", "failed"),
        ("os.write(PIPE, b'\\x02\\0\\0\\0\\0\\0\\0\\0{}'); sys.exit()", "another protocol"),
        ("sys.exit()", "it ended"),
    ],
)
def test_a_worker_that_does_not_speak_the_protocol(start: Start, body: str, message: str) -> None:
    body = "PIPE = int(os.environ['WAVALIGN_WORKER_PIPES'].split(',')[1])\n" + body
    body = body.replace("time.sleep(9)", "os.read(int(os.environ['WAVALIGN_WORKER_PIPES'].split(',')[0]), 1)")
    with pytest.raises(PluginError, match=message):
        start(body)


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        ("Contract(())", "codebook_sizes"),
        ("Contract((4, 0), decode_rate=8000)", "codebook_sizes"),
        ("Contract((4,))", "neither encode_rate nor decode_rate"),
        ("Contract((4,), encode_rate=8000, fingerprint='f')", "must declare frame_rate and fingerprint"),
        ("Contract((4,), encode_rate=8000, frame_rate=50.0)", "must declare frame_rate and fingerprint"),
        ("Contract('four', decode_rate=8000)", "a contract that is none"),
        ("Contract((4,), decode_rate=8000, protocol=2)", "another protocol than 1"),
    ],
)
def test_contracts_that_say_too_little(start: Start, contract: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        start(f"load = lambda: ({contract}, None, None)")


def test_answers_that_break_the_contract(start: Start) -> None:
    worker = start()
    for bad in ((10, 0), (0, 4), (-1, 0), (1, 1, 1)):
        with pytest.raises(PluginError, match=r"not of its code books \[10, 4\]"):
            worker.encode(sound(*bad))
    body = """
        inner = load
        def load():
            contract, encode, decode = inner()
            return contract, encode, lambda codes: [float("nan")]
    """
    with pytest.raises(PluginError, match="not finite"):
        start(body).decode([1])
    with pytest.raises(PluginError, match="could not encode: this worker cannot encode"):
        start("load = lambda: (Contract((4,), decode_rate=8000), None, lambda codes: [])").encode(sound(1))


def test_what_cannot_be_started(tmp_path: Path, start: Start) -> None:
    with pytest.raises(PreflightError, match=r"nowhere\.py does not exist"):
        WorkerProcess(str(tmp_path / "nowhere.py"), WorkerOptions())
    (tmp_path / "worker.py").write_text("")
    with pytest.raises(PreflightError, match="interpreter /no/python is not there") as caught:
        WorkerProcess(str(tmp_path / "worker.py"), WorkerOptions(python="/no/python"))
    assert "environment" in caught.value.hint
    nothing = tmp_path / "python"
    nothing.write_text("")
    nothing.chmod(0o755)
    with pytest.raises(PreflightError, match="cannot be started"):
        WorkerProcess(str(tmp_path / "worker.py"), WorkerOptions(python=str(nothing)))


def test_nothing_is_left_behind_when_nobody_needs_it(start: Start) -> None:
    before = threading.active_count()
    worker = start()
    process = worker._process
    del worker
    assert process.returncode == 0
    while threading.active_count() > before:  # the thread that read what it printed is about to end
        time.sleep(0.01)


def test_another_interpreter_needs_no_package_of_ours(tmp_path: Path) -> None:
    """Isolated from every installed package, as a foreign environment is: the standard library is enough."""
    script = tmp_path / "worker.py"
    script.write_text(HEAD + "assert 'numpy' not in sys.modules and 'wavalign' not in sys.modules\n" + TAIL)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    worker = WorkerProcess(str(script), WorkerOptions(python=str(python)))
    assert worker.encode(sound(3, 1)) == [3, 1]
