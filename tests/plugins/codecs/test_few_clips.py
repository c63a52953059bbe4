"""Fitting a codec on too little sound says how much is needed."""

from pathlib import Path

import pytest
import torch

from tests.plugins.spoken import say
from wavalign.errors import DataError
from wavalign.plugins.codecs.source_filter import SourceFilterCodec, SourceFilterParams


def test_too_few_clips_name_the_number_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 clips hold \d+ patches of sound, and 512 code book entries") as caught:
        SourceFilterCodec.fit(
            SourceFilterParams(), [say("one")], generator=torch.Generator(), path=str(tmp_path / "c.safetensors")
        )
    assert "at least 41 s of sound" in caught.value.hint
