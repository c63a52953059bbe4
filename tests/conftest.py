"""Options and fixtures that every test may use."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from safetensors.torch import load_file
from torch import Tensor

from wavalign.redaction import REDACTOR

if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # Under nohup a hang-up is ignored, and what is started from here inherits that: tests send it on purpose.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No test fails by the clock: the first number that a process draws waits until constants of all our modules are read.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@dataclass(frozen=True, slots=True)
class GoldenPair:
    """One recorded computation: its settings and its tensors."""

    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a person point the parity tests at other recordings and write golden plans again."""
    parser.addoption(
        "--golden",
        metavar="DIR",
        default=str(Path(__file__).parent / "golden"),
        help="folder of NAME.json + NAME.safetensors recordings",
    )
    parser.addoption("--update-golden", action="store_true", help="write the golden plans of tests/recipes again")


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests() -> Iterator[None]:
    """A process never forgets a secret; the tests are many processes in one."""
    yield
    REDACTOR.forget()


@pytest.fixture(scope="session")
def update_golden(pytestconfig: pytest.Config) -> bool:
    """Whether golden plans are to be written."""
    return bool(pytestconfig.getoption("--update-golden"))


@pytest.fixture(params=[0o022, 0o002, 0o077], ids="{:03o}".format)
def open_mode(request: pytest.FixtureRequest) -> Iterator[int]:
    """Under each of three umasks, the permissions that a newly made file then has."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


@pytest.fixture(scope="session")
def golden_dir(pytestconfig: pytest.Config) -> Path:
    """Folder of the recordings."""
    return Path(str(pytestconfig.getoption("--golden")))


@pytest.fixture(scope="session")
def golden_pairs(golden_dir: Path) -> Callable[[str], list[GoldenPair]]:
    """`golden_pairs(prefix)` reads every recording whose name begins so; none at all is a failure."""

    def read(prefix: str) -> list[GoldenPair]:
        files = sorted(golden_dir.glob(f"{prefix}*.safetensors"))
        assert files, f"no recording named {prefix}* in {golden_dir}"
        return [read_pair(file) for file in files]

    return read


def read_pair(file: Path) -> GoldenPair:
    """The recording whose tensors `file` holds."""
    return GoldenPair(json.loads(file.with_suffix(".json").read_text(encoding="utf-8")), load_file(file))
