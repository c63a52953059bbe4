"""Which addresses name chat completions, and which are refused with a word on why."""

import pytest

from wavalign.plugins.judging.address import completions_url


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("https://api.example.com", "https://api.example.com/v1/chat/completions"),
        ("https://api.example.com/", "https://api.example.com/v1/chat/completions"),
        ("https://api.example.com/v1", "https://api.example.com/v1/chat/completions"),
        ("https://api.example.com/v1/", "https://api.example.com/v1/chat/completions"),
        ("https://api.example.com/v1/chat/completions", "https://api.example.com/v1/chat/completions"),
        ("https://example.com/v1beta/openai", "https://example.com/v1beta/openai/chat/completions"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/chat/completions"),
    ],
)
def test_what_is_taken(url: str, whole: str) -> None:
    assert completions_url(url) == whole


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("api.example.com/v1", "begins with https"),
        ("ftp://example.com", "begins with https"),
        ("https://", "begins with https"),
        ("https://user:word@example.com/v1", "holds a login"),
        ("https://example.com/v1?key=1", "holds `\\?`"),
        ("https://example.com/v1/completions", "ends in completions"),
        ("https://example.com/v1/responses", "ends in responses"),
        ("https://example.com:port/v1", "Port"),
        ("", "begins with https"),
    ],
)
def test_what_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        completions_url(url)
