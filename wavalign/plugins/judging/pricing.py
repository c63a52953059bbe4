"""What a request costs: at most, before it is sent; and by the usage that the server states, where that can be."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from wavalign.plugins.judging.settings import Prices, Service

TOKENS_PER_SECOND = 50
"""Of sound, at most: the services that are known take 10 to 32."""
OVERHEAD = 200
"""Tokens of a request beside its content: roles, marks, a service's own words."""
MOST_OVER = 10
"""How many times the most that was expected a server may state; beyond that it is no usage."""
_MILLION = 1_000_000


@final
@dataclass(frozen=True, slots=True)
class Bill:
    """Tokens of a request and what they cost."""

    input: int
    """Sound among it."""
    audio: int
    output: int
    money: float
    """0 where no prices are known."""

    @property
    def tokens(self) -> int:
        """Sent and written."""
        return self.input + self.output


def at_most(service: Service, text_bytes: int, seconds: float) -> Bill:
    """The most that a request can cost: no tokenizer makes more tokens of a text than it has bytes."""
    audio = -int(-seconds * TOKENS_PER_SECOND // 1)
    sent = text_bytes + audio + OVERHEAD
    return Bill(sent, audio, service.max_tokens, _money(service.prices, sent, audio, service.max_tokens))


def by_usage(usage: object, service: Service, most: Bill) -> Bill | None:
    """What the server says was used, priced; None where that is none: missing, negative, no whole numbers, 0, huge."""
    if not isinstance(usage, dict):
        return None
    sent, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if not sent or written is None or sent + written > MOST_OVER * most.tokens:
        return None
    told = usage.get("prompt_tokens_details")
    audio = _count(told.get("audio_tokens")) if isinstance(told, Mapping) else None
    # A server that does not say how many were sound is taken to mean as many as there can have been.
    audio = min(sent, most.audio if audio is None else audio)
    return Bill(sent, audio, written, _money(service.prices, sent, audio, written))


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and value >= 0 else None


def _money(prices: Prices | None, sent: int, audio: int, written: int) -> float:
    if prices is None:
        return 0.0
    heard = prices.input if prices.audio is None else prices.audio
    return ((sent - audio) * prices.input + audio * heard + written * prices.output) / _MILLION
