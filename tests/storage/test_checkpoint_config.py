"""Whatever a checkpoint's `config.json` holds, the error names file and key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.architectures.codec_lm_helpers import small_codec_lm
from tests.plugins.architectures.kimi_helpers import hearing_kimi, small_kimi
from tests.plugins.architectures.vita_helpers import small_vita
from wavalign.errors import CheckpointError
from wavalign.plugins.api import Architecture, ModelSource
from wavalign.plugins.codecs.glm4voice import Glm4VoiceCodec, Glm4VoiceParams
from wavalign.plugins.codecs.transformers import TransformersCodec, TransformersParams

MAKERS: dict[str, Any] = {
    "vita": lambda folder: small_vita(folder, num_mtp_layers=1, decoding=(1, 1)),
    "kimi": small_kimi,
    "kimi, features": hearing_kimi,
    "codec_lm": small_codec_lm,
}
VALUES: tuple[Any, ...] = (None, "x", "7", [], {}, [1], {"a": 1}, True, -1, 0, 1.5, 1e300, 10**30)


def saved(name: str, folder: Path) -> tuple[type[Architecture], Any, dict[str, Any]]:
    """A checkpoint folder's architecture and its config."""
    made = MAKERS[name](folder)
    made.save_layout(str(folder / "saved"))
    return type(made), type(made.params)(), json.loads((folder / "saved" / "config.json").read_text())


@pytest.mark.parametrize("name", MAKERS)
def test_any_value_of_any_key_is_right_or_named(name: str, tmp_path: Path) -> None:
    kind, params, config = saved(name, tmp_path)
    place = tmp_path / "saved"
    refused: list[tuple[str, str]] = []
    for key in config:
        for value in (*VALUES, ...):
            changed = {k: v for k, v in config.items() if k != key} if value is ... else {**config, key: value}
            (place / "config.json").write_text(json.dumps(changed), encoding="utf-8")
            try:
                kind(params, source=ModelSource(str(place), None, None))
            except CheckpointError as error:
                refused.append((key, error.message))
    assert len(refused) > len(config)
    assert [each for each in refused if str(place) not in each[1] and each[0] not in each[1]] == []


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"', "{", "", "\x00", '{"a": NaN}', "[" * 100_000, "\ufeff[1]"])
@pytest.mark.parametrize("name", ["vita", "kimi", "codec_lm", "glm4voice", "transformers"])
def test_a_config_that_is_no_object_is_named(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    makers: dict[str, Callable[[], object]] = {
        "glm4voice": lambda: Glm4VoiceCodec(Glm4VoiceParams(checkpoint=str(tmp_path))),
        "transformers": lambda: TransformersCodec(TransformersParams(checkpoint=str(tmp_path))),
    }
    if name not in makers:
        made = MAKERS[name](tmp_path)
        makers[name] = lambda: type(made)(type(made.params)(), source=ModelSource(str(tmp_path), None, None))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        makers[name]()


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"model": 3}', '{"model": {"type": "x"}}', "{", "\x00"])
def test_a_torn_tokenizer_is_named(text: str, tmp_path: Path) -> None:
    made = small_vita(tmp_path)
    made.save_layout(str(tmp_path / "saved"))
    (tmp_path / "saved" / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="saved"):
        type(made)(type(made.params)(), source=ModelSource(str(tmp_path / "saved"), None, None))
