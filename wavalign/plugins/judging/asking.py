"""One question to one judge: from the cache, or by a request within pace, budget and time, repeated where it helps."""

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from wavalign.errors import RewardStopped
from wavalign.plugins.judging import pricing
from wavalign.plugins.judging.address import completions_url
from wavalign.plugins.judging.client import Client, Exchange
from wavalign.plugins.judging.ledger import Ledger
from wavalign.plugins.judging.limits import Pace
from wavalign.plugins.judging.parsing import ReplyError, Verdict, reply_text, verdict
from wavalign.plugins.judging.prompt import Material, messages, sent_digest
from wavalign.plugins.judging.replies import Replies
from wavalign.plugins.judging.rubric import Rubric, RubricStep
from wavalign.plugins.judging.settings import Retries, Service

FORM = 1
"""Of what is kept in the cache; counted up where requests are read otherwise."""
ASKED_IN_VAIN = 3
"""Refusals in a row, with no reply ever, after which the recipe is taken to be wrong and not the answers."""
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_UNPAID = frozenset({401, 402, 403})
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "insufficient_balance", "credits_exhausted")
"""Codes under which a 429 says that there is nothing left to spend, which no waiting mends."""


class NoVerdictError(Exception):
    """A judge gave no verdict; its text is the reason."""


@final
class Shared:
    """What all judges of a reward count and stop by."""

    def __init__(self, ledger: Ledger, replies: Replies) -> None:
        self.ledger, self.replies = ledger, replies
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._money = 0.0
        self._end: RewardStopped | None = None

    def count(self, name: str, by: float = 1) -> None:
        """One more of something, or so much money."""
        with self._lock:
            if name == "cost":
                self._money += by
            else:
                self._counts[name] += int(by)

    def counted(self) -> dict[str, float]:
        """All counts since the last call."""
        with self._lock:
            found = {**{name: float(count) for name, count in self._counts.items()}, "cost": self._money}
            self._counts, self._money = Counter(), 0.0
        return found

    def check(self) -> None:
        """Raise what ended the run, so that nothing more is sent."""
        if self._end is not None:
            raise RewardStopped(self._end.message, hint=self._end.hint)

    def reserve(self, money: float, until: float) -> str | None:
        """Write down a request as `Ledger.reserve` does; where the budget is used up, nothing more is sent."""
        self.check()
        try:
            return self.ledger.reserve(money, until)
        except RewardStopped as end:
            with self._lock:
                self._end = self._end or end
            raise

    def stop(self, message: str, hint: str) -> RewardStopped:
        """End the run, with what was spent."""
        with self._lock:
            self._end = self._end or RewardStopped(f"{message}; {self.ledger.said()}", hint=hint)
        return self._end


@final
@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a judge."""

    rubric: Rubric
    material: Material
    sample: int
    """Number of the reply, of several."""


@final
class Judge:
    """A service that is asked; any number of threads may."""

    def __init__(
        self, name: str, service: Service, *, retries: Retries, shared: Shared, seconds: float, pace: Pace
    ) -> None:
        """`seconds` bounds one try."""
        self.name, self._service, self._retries, self._shared, self._seconds = name, service, retries, shared, seconds
        self._pace = pace
        self._url = completions_url(service.url)
        self._client = Client(self._url, service.api_key)
        self._random = random.Random()
        self._over = 1.0
        """How many times the most that was expected the server has charged."""
        self._vain = 0
        """Refusals in a row; below 0 once there was a reply."""

    def ask(self, question: Question, step: RubricStep, until: float) -> Verdict:
        """Its verdict on one step, by `until` of the monotonic clock; raises NoVerdictError, or RewardStopped."""
        self._shared.check()
        body = self._body(question, step)
        key = sent_digest({"form": FORM, "url": self._url, "sample": question.sample, "body": body})
        with self._shared.replies.turn(key, until - time.monotonic()) as taken:
            if not taken:
                raise NoVerdictError("an equal question was not answered in time")
            kept = self._shared.replies.get(key, question.rubric, step)
            if kept is not None:
                self._shared.count("cached")
                return kept
            found = self._asked(body, question, step, until)
            self._shared.replies.put(key, found)
            return found

    def close(self) -> None:
        """End what is in flight."""
        self._client.close()

    def _body(self, question: Question, step: RubricStep) -> dict[str, Any]:
        service = self._service
        sampling = {
            "temperature": service.temperature,
            "top_p": service.top_p,
            "seed": None if service.seed is None else service.seed + question.sample,
        }
        return {
            **service.options,
            "model": service.model,
            "messages": messages(question.rubric, step, question.material),
            service.tokens_field: service.max_tokens,
            **{name: value for name, value in sampling.items() if value is not None},
        }

    def _asked(self, body: Mapping[str, Any], question: Question, step: RubricStep, until: float) -> Verdict:
        """The verdict of a reply that is paid for."""
        exchange = self._tried(
            body, pricing.at_most(self._service, _text_bytes(body), question.material.seconds), until
        )
        try:
            text = reply_text(exchange.body, self._service.max_tokens)
            found = verdict(text, question.rubric, step)
        except ReplyError as error:
            self._shared.count("unreadable")
            raise NoVerdictError(self._client.hides(str(error))) from None
        return replace(found, why=self._client.hides(found.why))

    def _tried(self, body: Mapping[str, Any], most: pricing.Bill, until: float) -> Exchange:
        """The first answer with status 200 and JSON; raises NoVerdictError, or RewardStopped."""
        said = "no try"
        for attempt in range(self._retries.attempts):
            exchange = self._once(body, most, until)
            if exchange.status == 200 and exchange.body is not None:
                self._vain = -1
                return exchange
            said = self._refusal(exchange)
            if exchange.status and exchange.status not in _AGAIN:
                break
            wait = self._wait(attempt, exchange.retry_after)
            if attempt + 1 == self._retries.attempts or time.monotonic() + wait >= until:
                break
            if exchange.retry_after is not None:
                self._pace.pause(min(wait, exchange.retry_after))
            time.sleep(wait)
        raise NoVerdictError(said)

    def _once(self, body: Mapping[str, Any], most: pricing.Bill, until: float) -> Exchange:
        """One try: a turn, money set aside, the exchange, its cost. Raises NoVerdictError where time or room is up."""
        if not self._pace.fits(most.tokens):
            message = f"a request to judge `{self.name}` may take {most.tokens:,} tokens"
            hint = "raise tokens_per_minute, lower max_tokens, or use fewer processes"
            raise self._shared.stop(f"{message}, more than this process's share of tokens_per_minute", hint)
        turn = self._pace.turn(most.tokens, until)
        if turn is None:
            raise NoVerdictError("no turn within the limits a minute in time")
        reserve = most.money * self._over
        key = self._shared.reserve(reserve, until)
        if key is None:
            self._pace.settle(turn, 0)
            raise NoVerdictError("the budget had no room for it in time, with others in flight")
        self._shared.count("requests")
        used, cost = most.tokens, reserve  # what an exchange that breaks off may have cost
        try:
            exchange = self._client.post(body, min(self._seconds, max(0.001, until - time.monotonic())))
            used, cost = self._bill(exchange, most, reserve)
        finally:
            self._pace.settle(turn, used)
            self._shared.ledger.settle(key, cost)
            self._shared.count("cost", cost)
        return exchange

    def _bill(self, exchange: Exchange, most: pricing.Bill, reserve: float) -> tuple[int, float]:
        """Tokens and money: by usage, by what was set aside where nobody knows, nothing where the server refused."""
        if not exchange.sent or (exchange.status and exchange.status != 200):
            return 0, 0.0
        usage = exchange.body.get("usage") if isinstance(exchange.body, dict) else None
        bill = pricing.by_usage(usage, self._service, most)
        if bill is None:
            return most.tokens, reserve
        if bill.money > most.money > 0:
            self._over = max(self._over, bill.money / most.money)
        return bill.tokens, bill.money

    def _wait(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next try: what the server asks for, else a random part of a span that doubles."""
        longest = min(self._retries.most_seconds, self._retries.seconds * 2.0**attempt)
        drawn = self._random.uniform(0, longest)
        return drawn if asked is None else asked + self._random.uniform(0, self._retries.seconds)

    def _refusal(self, exchange: Exchange) -> str:
        """What a refusal is, in words; raises RewardStopped where nothing but a person can mend it."""
        where = f"judge `{self.name}` ({self._service.model})"
        said = f"HTTP {exchange.status}" if exchange.status else ""
        # Who refuses a key may repeat it.
        words = "" if exchange.status in (401, 403) else exchange.words
        text = f"{where}: {': '.join(filter(None, (said, words)))}"
        if exchange.status in _UNPAID or (exchange.status == 429 and _code(exchange.body) in _NO_MONEY):
            reason = {401: "the key is not accepted", 403: "the key may not use it"}.get(
                exchange.status, "nothing left to spend"
            )
            hint = (
                "set the variable of its api_key to one that may, or pay there; then --resume: what was judged is kept"
            )
            raise self._shared.stop(f"{where} refuses to serve, {reason}: {text.partition(': ')[2]}", hint)
        if 200 < exchange.status < 500 and exchange.status not in _AGAIN and self._vain >= 0:
            self._vain += 1
            if exchange.status in (404, 405) or 300 <= exchange.status < 400 or self._vain >= ASKED_IN_VAIN:
                hint = "look at the judge's url, model, tokens_field, options and at `hears`; nothing was ever answered"
                raise self._shared.stop(f"{text}: the recipe seems to be wrong", hint)
        return text


def _code(body: object) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    found = (error.get("code") or error.get("type")) if isinstance(error, dict) else None
    return found if isinstance(found, str) else ""


def _text_bytes(body: Mapping[str, Any]) -> int:
    """Bytes of all texts of the messages; sounds are counted by their seconds."""
    count = 0
    for message in body["messages"]:
        content = message["content"]
        texts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
        count += sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return count
