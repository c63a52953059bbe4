"""What a recipe says of judges: where they are, what they cost, how fast they may be asked, what may be spent."""

from collections.abc import Mapping
from typing import Annotated, Any, final

from pydantic import Field, field_validator

from wavalign.plugins.judging.address import completions_url
from wavalign.schema.base import Section
from wavalign.schema.bounds import Seed

MOST_A_MINUTE = 10**12
_Price = Annotated[float, Field(ge=0, le=1e6)]
OWN = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stream", "n"}
)
"""Fields of a request that `options` may not set."""


@final
class Prices(Section):
    """What a million tokens cost, in any one currency."""

    input: _Price
    """Of what is sent."""
    output: _Price
    """Of what is written, reasoning among it."""
    audio: _Price | None = None
    """Of sound that is sent; as `input` where omitted."""


@final
class Service(Section):
    """A judge: a model behind an OpenAI-compatible chat completions endpoint."""

    url: str
    """`https://HOST`, `https://HOST/v1`, or the whole `.../chat/completions`."""
    model: str = Field(min_length=1, max_length=300)
    """Name of the model there."""
    api_key: str | None = Field(default=None, repr=False)
    """`${env:NAME}`; omitted for a server that asks for none."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Omitted, the server's own default."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Omitted, the server's own default."""
    seed: Seed | None = None
    """Sent, with the number of the sample added, to servers that honour it."""
    max_tokens: int = Field(default=1024, ge=1, le=200_000)
    """Most tokens of a reply, reasoning among them; a reply that is cut off is a failure."""
    tokens_field: str = Field(default="max_tokens", pattern="^(max_tokens|max_completion_tokens)$")
    """Name under which the limit is sent; some servers want `max_completion_tokens`."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Further fields of the request as the server knows them, e.g. `{reasoning_effort: low}`."""
    prices: Prices | None = None
    """Omitted, nothing is known of cost."""
    requests_per_minute: int | None = Field(default=None, ge=1, le=MOST_A_MINUTE)
    """Most requests a minute of the whole run, tries that failed among them."""
    tokens_per_minute: int | None = Field(default=None, ge=1, le=MOST_A_MINUTE)
    """Most tokens a minute of the whole run, sent and written."""

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        completions_url(value)
        return value

    @field_validator("options")
    @classmethod
    def _others(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if taken := sorted(OWN & {*value}):
            raise ValueError(f"options sets {', '.join(taken)}, which the judge sets itself")
        return value


@final
class Budget(Section):
    """What a run may spend on a judge, over all processes, stages and resumes."""

    money: float | None = Field(default=None, ge=0, le=1e12)
    """In the currency of the prices."""
    requests: int | None = Field(default=None, ge=0, le=10**12)
    """Requests that are sent, tries that failed among them."""


@final
class Retries(Section):
    """What is tried again: too many requests, a server's own errors, timeouts, broken connections."""

    attempts: int = Field(default=4, ge=1, le=20)
    """Tries of a request, the first among them."""
    seconds: float = Field(default=1.0, gt=0, le=600)
    """Longest wait before the second try; doubled from try to try, and a random part of it is waited."""
    most_seconds: float = Field(default=30.0, gt=0, le=3600)
    """Longest wait of all, unless the server asks for a longer one by Retry-After."""
