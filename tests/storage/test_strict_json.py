"""Texts made to cost much are refused quickly and in words."""

import json
import time

import pytest

from wavalign.storage.strict_json import MOST_LEVELS, parse


@pytest.mark.parametrize("levels", [MOST_LEVELS + 2, 450, 600, 990, 2_000, 100_000])
@pytest.mark.parametrize("form", [("[", "]"), ('{"a": ', "}")])
def test_nesting_of_any_depth_is_a_value_error(levels: int, form: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(form[0] * levels + "1" + form[1] * levels)


def test_what_is_nested_within_reason_is_read() -> None:
    assert json.dumps(parse("[" * MOST_LEVELS + "]" * MOST_LEVELS)) == "[" * MOST_LEVELS + "]" * MOST_LEVELS


def test_a_repeated_key_among_very_many_is_found_at_once() -> None:
    keys = [f"k{index}" for index in range(50_000)]
    text = "{" + ", ".join(f'"{key}": 1' for key in [*keys, keys[-1]]) + "}"
    begun = time.process_time()
    with pytest.raises(ValueError, match="'k49999' stands twice"):
        parse(text)
    assert time.process_time() - begun < 5
