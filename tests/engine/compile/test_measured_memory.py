"""The estimate against what a process really takes: two configurations of `benchmarks/memory.py`."""

import argparse
from pathlib import Path

import pytest

from benchmarks.grpo.world import word_tokenizer
from benchmarks.memory import BOUND, MIB, POINTS, measure

OPTIONS = argparse.Namespace(device="cpu", scale=1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("name", ["vocabulary", "adapter"])
def test_what_a_process_takes_is_what_is_said(tmp_path: Path, name: str) -> None:
    word_tokenizer(tmp_path)
    (point,) = [each for each in POINTS if each.name == name]
    row = measure(point, tmp_path, OPTIONS)
    if row["estimate"] != pytest.approx(
        row["measured"], rel=BOUND
    ):  # what the system keeps of freed pages comes and goes
        (tmp_path / "again").mkdir()
        word_tokenizer(tmp_path / "again")
        row = measure(point, tmp_path / "again", OPTIONS)
    said, measured = row["estimate"], row["measured"]
    assert said == pytest.approx(measured, rel=BOUND), f"{said / MIB:.0f} MiB said, {measured / MIB:.0f} measured"


def test_every_configuration_is_another(tmp_path: Path) -> None:
    """Those that the page speaks of are there, each under a name of its own."""
    names = [each.name for each in POINTS]
    assert len(set(names)) == len(names) >= 6
    assert {"adapter", "hybrid", "checkpointing", "vocabulary", "zero2", "generate"} <= set(names)
