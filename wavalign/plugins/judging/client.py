"""One exchange with a judge's server: bounded in time and size, without redirects, never showing the key."""

import asyncio
import contextlib
import math
import threading
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, final

import httpx2

from wavalign.errors import PreflightError, quoted
from wavalign.plugins.judging.quoting import cleaned
from wavalign.redaction import HIDDEN, REDACTOR
from wavalign.storage import strict_json

MOST_BYTES = 1 << 20
"""Of a reply, as it comes and unpacked; one that a judge would write has a few thousand."""
MOST_QUOTED = 300
"""Characters of a server's own words."""
_WINDOW = 8
"""Characters of a key that may not stand in a server's words, in either direction."""


@final
@dataclass(frozen=True, slots=True)
class Exchange:
    """How a request ended."""

    status: int = 0
    """Of HTTP; 0 where there was no answer."""
    body: object = None
    """The JSON of the answer; None where it is none."""
    words: str = ""
    """Why there is no JSON, or what the server says of its refusal; fit to be shown."""
    retry_after: float | None = None
    """Seconds, where the server says so."""
    sent: bool = True
    """Whether the request may have reached the server, which may charge for it."""


@final
class Client:
    """Sends requests; any number of threads may."""

    def __init__(self, url: str, key: str | None) -> None:
        """Nothing is sent yet. Raises PreflightError for a key that no header can hold."""
        self._url, self._key = url, "" if key is None else key.strip()
        if not self._key.isascii() or not self._key.isprintable() or " " in self._key:
            hint = "it is to be one word of plain letters, digits and signs: look at the variable"
            raise PreflightError("the judge's api_key holds characters that no header can hold", hint=hint)
        REDACTOR.learn(self._key)
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: httpx2.AsyncClient | None = None

    def post(self, body: Mapping[str, Any], seconds: float) -> Exchange:
        """Send a request and wait for its answer, `seconds` in all, connecting and reading among them."""
        loop = self._running()
        if loop is None:
            return Exchange(words="the judge was closed", sent=False)
        found = asyncio.run_coroutine_threadsafe(self._post(body, seconds), loop)
        try:
            return found.result(seconds + 10)
        except (FutureTimeout, CancelledError):  # the loop itself is stuck, or was closed meanwhile
            found.cancel()
            return Exchange(words="no answer in time")

    def close(self) -> None:
        """Close connections; what waits ends."""
        with self._lock:
            loop, client = self._loop, self._client
            self._loop, self._client, self._closed = None, None, True
        if loop is None or client is None:
            return
        with contextlib.suppress(FutureTimeout):
            asyncio.run_coroutine_threadsafe(_closed(client), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)

    def _running(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the requests, started where there was none; None once it was closed."""
        with self._lock:
            if self._loop is None and not self._closed:
                self._loop = asyncio.new_event_loop()
                # Neither redirects nor cookies: the key goes to the one address that the recipe names, and each request
                # is like the first. `post` bounds the time.
                jar, free = CookieJar(DefaultCookiePolicy(allowed_domains=[])), httpx2.Limits(max_connections=None)
                self._client = httpx2.AsyncClient(follow_redirects=False, timeout=None, limits=free, cookies=jar)
                threading.Thread(target=_run, args=(self._loop,), name="judge", daemon=True).start()
            return self._loop

    async def _post(self, body: Mapping[str, Any], seconds: float) -> Exchange:
        client = self._client
        if client is None:
            return Exchange(words="the judge was closed", sent=False)
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        reached = False
        try:
            async with (
                asyncio.timeout(seconds),
                client.stream("POST", self._url, json=body, headers=headers) as got,
            ):
                reached = True
                return self._read(got, await _content(got))
        except TimeoutError:
            return Exchange(words=f"no whole answer within {seconds:.3g} s")
        except _TooMuchError as error:
            return Exchange(words=str(error))
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.UnsupportedProtocol) as error:
            return Exchange(words=self._shown(f"cannot connect: {error}"), sent=False)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, zlib.error) as error:
            where = "while its answer was read" if reached else "before an answer"
            return Exchange(words=self._shown(f"the connection failed {where}: {type(error).__name__} {error}"))

    def _read(self, got: httpx2.Response, content: bytes) -> Exchange:
        after = _retry_after(got.headers.get("retry-after"))
        try:
            body = strict_json.parse(content)
        except ValueError as error:
            kind = got.headers.get("content-type", "no content type")
            return Exchange(got.status_code, None, self._shown(f"the answer is no JSON ({error}; {kind})"), after)
        status = got.status_code if got.status_code != 200 else _inner_status(body)
        words = "" if status == 200 else self._shown(_message(body))
        return Exchange(status, body, words, after)

    def _shown(self, text: str) -> str:
        """A server's words without the key, in whatever form they hold it."""
        text = REDACTOR.text(text)
        return HIDDEN if holds_key(text, self._key) else quoted(cleaned(text, 10 * MOST_QUOTED).text, MOST_QUOTED)

    def hides(self, text: str) -> str:
        """A judge's own words without the key."""
        return self._shown(text) if text else ""


class _TooMuchError(Exception):
    """More was sent than a reply can be."""


def holds_key(text: str, key: str) -> bool:
    """Whether a part of `key` stands in `text`: forwards or backwards, in any case, with anything in between."""
    plain, secret = _plain(text), _plain(key)
    parts = {secret[i : i + _WINDOW] for i in range(max(len(secret) - _WINDOW + 1, 1))} if secret else set()
    return any(part in plain or part[::-1] in plain for part in parts)


def _plain(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()


async def _content(got: httpx2.Response) -> bytes:
    """The body, unpacked where it was packed although nobody asked for that; raises _TooMuchError."""
    content = bytearray()
    async for chunk in got.aiter_raw():
        content += chunk
        if len(content) > MOST_BYTES:
            raise _TooMuchError(f"the server sent more than {MOST_BYTES >> 20} MiB")
    packed = got.headers.get("content-encoding", "identity").strip().lower()
    if packed in ("", "identity"):
        return bytes(content)
    if packed not in ("gzip", "x-gzip", "deflate"):
        raise _TooMuchError(f"the server packed its answer in a way that nobody asked for ({cleaned(packed, 40).text})")
    whole = zlib.decompressobj(wbits=47).decompress(bytes(content), MOST_BYTES + 1)
    if len(whole) > MOST_BYTES:
        raise _TooMuchError(f"the server's answer unpacks to more than {MOST_BYTES >> 20} MiB")
    return whole


def _inner_status(body: object) -> int:
    """200, or the status that a gateway puts into an answer of that status: `{"error": {"code": 402, ...}}`."""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600 else 200


def _message(body: object) -> str:
    """What a server says of its refusal."""
    error = body.get("error") if isinstance(body, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return said if isinstance(said, str) else (str(body)[: 10 * MOST_QUOTED] if body is not None else "")


def _retry_after(value: str | None) -> float | None:
    """Seconds, of a number or a date; None for anything else."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _closed(client: httpx2.AsyncClient) -> None:
    """End what is in flight, then close."""
    mine = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not mine]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.aclose()
