"""A NAR in a process of its own: a real script, and what it may do wrong."""

from pathlib import Path

import pytest

from wavalign.errors import DataError, PluginError, PreflightError
from wavalign.plugins.nars.process import ProcessNar, ProcessParams

HEAD = """
import os, sys
from wavalign_worker import Contract, serve

SIZES, GIVEN = (10, 4, 3), 1

def complete(given, prompt):
    # Behind every first code c: the second of the voice's last frame (0 without a voice), and c modulo 3.
    second = prompt[-2] if prompt else 0
    return [code for first in given for code in (first, second, first % 3)]
"""
TAIL = """
serve(lambda: (Contract(SIZES, codes_given=GIVEN), None, None, complete))
"""


def nar(folder: Path, body: str = "", tail: str = TAIL, **options: float) -> ProcessNar:
    script = folder / "completes.py"
    script.write_text(HEAD + body + tail)
    return ProcessNar(ProcessParams(script=str(script), **options))


def test_ids_are_counted_as_the_codec_counts_them(tmp_path: Path) -> None:
    """Books of 10, 4 and 3: their ids begin at 0, 10 and 14."""
    whole = nar(tmp_path)
    assert (whole.codes_given, whole.codes_per_frame, whole.num_codes) == (1, 3, 17)
    assert whole.complete([7, 2]) == [7, 10, 15, 2, 10, 16]
    assert whole.complete([7, 2], prompt=[5, 11, 14, 9, 13, 16]) == [7, 13, 15, 2, 13, 16]
    assert whole.complete([]) == []


def test_it_may_take_several_ids_a_frame(tmp_path: Path) -> None:
    body = """
GIVEN = 2
def complete(given, prompt):
    return [code for i in range(0, len(given), 2) for code in (given[i], given[i + 1], 2)]
"""
    whole = nar(tmp_path, body)
    assert (whole.codes_given, whole.codes_per_frame) == (2, 3)
    # The last frame is incomplete, and 9 behind 13 begins a new frame: neither is asked about.
    assert whole.complete([3, 13, 9, 4, 10, 8]) == [3, 13, 16, 4, 10, 16]


def test_a_voice_of_another_codec_is_refused(tmp_path: Path) -> None:
    for prompt in ([5, 11], [5, 11, 99]):
        with pytest.raises(DataError, match=r"not of its code books \[10, 4, 3\]"):
            nar(tmp_path).complete([7], prompt=prompt)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("[1, 0, 0, 1, 0, 0]", "completed 1 frames to 2"),
        ("[]", "completed 1 frames to 0"),
        ("[1, 0]", "not of its code books"),
        ("[1, 4, 0]", "not of its code books"),
        ("[1, -1, 0]", "not of its code books"),
        ("[2, 0, 0]", "changed codes that it was to complete"),
        ("[1, 0.5, 0]", "could not complete: TypeError"),
        ("None", "could not complete: TypeError"),
        ("1 / 0", "could not complete: ZeroDivisionError"),
    ],
)
def test_answers_that_break_the_contract(tmp_path: Path, answer: str, message: str) -> None:
    whole = nar(
        tmp_path, f"right = complete\ndef complete(given, prompt):\n  return {answer} if prompt else [1, 0, 0]\n"
    )
    with pytest.raises(PluginError, match=message):
        whole.complete([1], prompt=[0, 10, 14])
    assert whole.complete([1]) == [1, 10, 14], "the worker goes on"


def test_an_answer_that_is_cut_off_within_a_number(tmp_path: Path) -> None:
    tail = """
from wavalign_worker import packed, asdict
requests, answers = (int(number) for number in os.environ["WAVALIGN_WORKER_PIPES"].split(","))
os.write(answers, packed({"contract": asdict(Contract(SIZES, codes_given=GIVEN))}))
os.write(answers, packed({}, b"12345"))
os.read(requests, 1)
"""
    with pytest.raises(PluginError, match="not of its code books"):
        nar(tmp_path, tail=tail).complete([1])


def test_a_worker_that_dies_or_hangs(tmp_path: Path) -> None:
    dying = nar(tmp_path, "def complete(given, prompt):\n  print('out of memory')\n  os._exit(3)\n")
    for _ in range(2):
        with pytest.raises(PluginError, match=r"was to complete and failed.*exit status 3\)\n  \| out of memory"):
            dying.complete([1])
    hanging = nar(tmp_path, "def complete(given, prompt):\n  import time; time.sleep(1000)\n", timeout=0.3)
    with pytest.raises(PluginError, match=r"did not complete within 0\.3 seconds"):
        hanging.complete([1])


@pytest.mark.parametrize(
    ("served", "message"),
    [
        ("Contract(SIZES, decode_rate=8000), None, lambda codes: []", "does not complete"),
        ("Contract(SIZES), None, None, complete", "neither encode_rate nor decode_rate nor codes_given"),
        ("Contract(SIZES, codes_given=3), None, None, complete", "less than its 3 code books"),
        ("Contract(SIZES, codes_given=-1), None, None, complete", "neither encode_rate"),
    ],
)
def test_contracts_that_complete_nothing(tmp_path: Path, served: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        nar(tmp_path, tail=f"serve(lambda: ({served}))")


def test_a_declared_operation_that_is_not_there(tmp_path: Path) -> None:
    whole = nar(tmp_path, tail="serve(lambda: (Contract(SIZES, codes_given=GIVEN), None, None))")
    with pytest.raises(PluginError, match="this worker cannot complete"):
        whole.complete([1])


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="does not exist"):
        ProcessNar(ProcessParams(script=str(tmp_path / "nowhere.py")))
