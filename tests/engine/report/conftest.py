"""Fixtures of the report's tests."""

from pathlib import Path

import pytest

from tests.engine.report import synthetic


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """One finished synthetic run."""
    return synthetic.write_run(tmp_path / "run")
