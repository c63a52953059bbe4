"""What the tests of the plugins share."""

import pytest

from tests.plugins.spoken import fitted_codec
from wavalign.plugins.codecs.source_filter import SourceFilterCodec


@pytest.fixture(scope="session")
def codec(tmp_path_factory: pytest.TempPathFactory) -> SourceFilterCodec:
    """A real codec, fitted once a session (seconds)."""
    return fitted_codec(tmp_path_factory.mktemp("codec") / "codec.safetensors")
