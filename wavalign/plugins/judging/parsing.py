"""Replies to numbers, strictly: exactly the declared form, or a failure with its reason, never a number."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from wavalign.plugins.judging.quoting import cleaned
from wavalign.plugins.judging.rubric import WHY, Rubric, RubricStep
from wavalign.storage import strict_json

MOST_WORDS, MOST_REPLY = 400, 100_000
"""Characters of a judge's reasons that are kept, and of a reply that is read."""
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.[0-9])?")


class ReplyError(Exception):
    """A reply that holds no numbers in the declared form; its text is the reason."""


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said in one reply."""

    values: Mapping[str, float]
    """By axis."""
    why: str = ""


def reply_text(body: object, max_tokens: int) -> str:
    """What the assistant wrote, of a chat completion; raises ReplyError for anything but one finished text."""
    choice = _only_choice(body)
    message, end = choice.get("message"), choice.get("finish_reason")
    if end == "length":
        raise ReplyError(f"the token limit cut the reply off (max_tokens is {max_tokens:,}, reasoning counts)")
    if not isinstance(message, dict):
        raise ReplyError("the reply has no message")
    if message.get("refusal"):
        raise ReplyError("the judge refused")
    if message.get("tool_calls") or message.get("function_call"):
        raise ReplyError("the judge called a tool instead of answering")
    if end != "stop":
        raise ReplyError(f"the reply ended by {_short(end)}, not by itself")
    content = message.get("content")
    if not isinstance(content, str):
        raise ReplyError(f"the reply's content is {_kind(content)}, not text")
    if not content.strip():
        raise ReplyError("the reply is empty")
    if len(content) > MOST_REPLY:
        raise ReplyError(f"the reply has {len(content):,} characters")
    return content


def _only_choice(body: object) -> Mapping[str, Any]:
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise ReplyError("the server's answer is no chat completion with one choice")
    return choices[0]


def verdict(text: str, rubric: Rubric, step: RubricStep) -> Verdict:
    """The numbers of a reply in the rubric's form; raises ReplyError."""
    return _of_tags(text, rubric, step) if rubric.form == "tags" else _of_json(text, rubric, step)


def _of_tags(text: str, rubric: Rubric, step: RubricStep) -> Verdict:
    names = ([WHY] if rubric.justify else []) + list(step.axes)
    body = r"\s*".join(rf"<{name}>(.*?)</{name}>" for name in names)
    found = re.fullmatch(rf"\s*{body}\s*", text, re.DOTALL)
    if found is None:
        raise ReplyError(f"the reply is not {' '.join(f'<{name}>' for name in names)}: {_short(text)}")
    said = dict(zip(names, found.groups(), strict=True))
    if any(f"<{name}>" in part or f"</{name}>" in part for part in said.values() for name in names):
        raise ReplyError("the reply gives a tag more than once")
    return Verdict({name: _number(said[name], name, rubric) for name in step.axes}, _words(said.get(WHY, "")))


def _of_json(text: str, rubric: Rubric, step: RubricStep) -> Verdict:
    names = ([WHY] if rubric.justify else []) + list(step.axes)
    try:
        found = strict_json.parse(text.strip())
    except ValueError as error:
        raise ReplyError(f"the reply is no JSON ({error}): {_short(text)}") from None
    if not isinstance(found, dict) or {*found} != {*names}:
        there = ", ".join(map(_short, found)) if isinstance(found, dict) else _kind(found)
        raise ReplyError(f"the reply is not an object of {', '.join(names)}: {there}")
    why = found.get(WHY, "")
    if not isinstance(why, str):
        raise ReplyError(f"{WHY} is {_kind(why)}, not text")
    return Verdict({name: _json_number(found[name], name, rubric) for name in step.axes}, _words(why))


def _number(text: str, name: str, rubric: Rubric) -> float:
    text = text.strip()
    if not text.isascii() or not _NUMBER.fullmatch(text):
        raise ReplyError(f"{name} is {_short(text)}, not one number")
    return _on_scale(float(text), name, rubric)


def _json_number(value: object, name: str, rubric: Rubric) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReplyError(f"{name} is {_kind(value)}, not a number")
    return _on_scale(value, name, rubric)


def _on_scale(value: float, name: str, rubric: Rubric) -> float:
    low, high = rubric.scale
    # Compared before it becomes a float: a whole number of JSON may have hundreds of digits.
    if not low <= value <= high or not rubric.has(float(value)):
        raise ReplyError(f"{name} is {_short(value)}, no number of the scale {low} to {high}")
    return float(value)


def _words(text: str) -> str:
    return cleaned(text, MOST_WORDS).text


def _short(value: object) -> str:
    """Text of others, as part of a reason."""
    text = cleaned(str(value)[:1000].replace("<", "‹").replace(">", "›"), 60)
    return repr(text.text + ("..." if text.characters > 60 else ""))


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", list: "a list", dict: "an object", str: "a text"}
    return names.get(type(value), type(value).__name__)
