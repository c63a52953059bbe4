"""A parity test that takes `vita_pair`, say, runs once for every recording `vita_*` in the folder `--golden`."""

from pathlib import Path

import pytest

from tests.conftest import read_pair

PREFIXES = {"vita_pair": "vita_", "kimi_pair": "kimi_", "glm4voice_pair": "glm4voice_tokenizer_"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise by the recordings; that there is one at all is a test of its own beside."""
    folder = Path(str(metafunc.config.getoption("--golden")))
    for name, prefix in PREFIXES.items():
        if name in metafunc.fixturenames:
            files = sorted(folder.glob(f"{prefix}*.safetensors"))
            metafunc.parametrize(name, [read_pair(file) for file in files], ids=[file.stem for file in files])
